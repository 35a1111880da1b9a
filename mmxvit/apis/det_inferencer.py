# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch.nn as nn
from mmdet import apis
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmxvit.datasets.coco_panoptic import write_ids
from mmxvit.evaluation.panoptic import VOID, ids_to_rgb


class DetInferencer(apis.DetInferencer):
    """mmdet's inferencer, for panoptic models without panopticapi too.

    Takes the classes from the config if the checkpoint does not tell them;
    mmdet's then takes the 80 things of COCO, with which a panoptic prediction
    cannot be read.
    """

    def _load_weights_to_model(self, model: nn.Module,
                               checkpoint: dict | None, cfg: Config) -> None:
        super()._load_weights_to_model(model, checkpoint, cfg)
        meta = (checkpoint or {}).get('meta', {})
        if 'dataset_meta' not in meta and 'CLASSES' not in meta:
            dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
            model.dataset_meta = {
                **DATASETS.build(dataset).metainfo, 'palette':
                model.dataset_meta['palette']
            }

    def pred2dict(self,
                  data_sample: DetDataSample,
                  pred_out_dir: str = '') -> dict[str, Any]:
        """Prediction as a dict, and in files if there is a folder for them.

        Args:
            data_sample: Prediction.
            pred_out_dir: Folder; empty for none.

        Returns:
            As mmdet's. Of a panoptic model ``panoptic_seg``, or
            ``panoptic_seg_path`` with ``pred_out_dir``: uint8 (H, W, 3) that
            encodes label + 1000 x instance, 0 where there is nothing.
        """
        if 'pred_panoptic_seg' not in data_sample:
            return super().pred2dict(data_sample, pred_out_dir)
        # mmdet's method asks for panopticapi where it finds such a prediction
        panoptic = data_sample.pred_panoptic_seg
        del data_sample.pred_panoptic_seg
        number = self.num_predicted_imgs
        result = super().pred2dict(data_sample, pred_out_dir)
        data_sample.pred_panoptic_seg = panoptic
        ids = panoptic.sem_seg[0].cpu().numpy()
        void = len(self.model.dataset_meta['classes'])
        ids = np.where(ids % INSTANCE_OFFSET == void, VOID, ids)
        if not pred_out_dir:
            result['panoptic_seg'] = ids_to_rgb(ids)
            return result
        name = (Path(data_sample.img_path).stem
                if 'img_path' in data_sample else str(number))
        stem = Path(pred_out_dir, 'preds', name)
        result['panoptic_seg_path'] = f'{stem}_panoptic_seg.png'
        write_ids(Path(result['panoptic_seg_path']), ids)
        mmengine.dump(result, f'{stem}.json')
        return result
