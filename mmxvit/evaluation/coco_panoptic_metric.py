# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.evaluation import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmxvit.datasets.coco_panoptic import (
    METAINFO,
    check_categories,
    read_annotations,
    read_ids,
    write_ids,
)
from mmxvit.engine.command import UserError
from mmxvit.registry import METRICS

from .panoptic import (
    VOID,
    count_pixels,
    format_table,
    match_segments,
    panoptic_quality,
)


@METRICS.register_module()
class CocoPanopticMetric(BaseMetric):
    """Panoptic quality of mmdet's panoptic segmentors, without panopticapi.

    In place of mmdet's metric of the same name, which needs panopticapi. Each
    image is evaluated by the process that has predicted it, and the result
    does not depend on the number of processes.

    Args:
        ann_file: JSON file of the ground truth; for ``format_only`` one of
            images and categories is enough.
        seg_prefix: Folder of its PNG files; not needed for ``format_only``.
        classwise: Log a row for each category too.
        format_only: Only write the predictions.
        outfile_prefix: Write the predictions to ``<prefix>.panoptic.json``
            and ``<prefix>.panoptic/*.png``; of several machines a folder that
            they share.
        nproc: As in mmdet's; has no effect, as nothing is left to compute
            when all images are predicted.
        backend_args: Of MMEngine's file backend, for the ground truth.
        collect_device: As in MMEngine's BaseMetric.
        prefix: As in MMEngine's BaseMetric.

    Raises:
        UserError: An argument is missing, or a file of the ground truth is
            missing, damaged or does not fit; names it.
    """
    default_prefix = 'coco_panoptic'

    def __init__(self,
                 ann_file: str | None = None,
                 seg_prefix: str | None = None,
                 classwise: bool = False,
                 format_only: bool = False,
                 outfile_prefix: str | None = None,
                 nproc: int = 32,
                 backend_args: dict | None = None,
                 collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if ann_file is None:
            raise UserError('CocoPanopticMetric: ann_file is missing; name '
                            'the panoptic JSON file of this data set')
        if format_only and outfile_prefix is None:
            raise UserError('CocoPanopticMetric: format_only needs '
                            'outfile_prefix, such as work_dirs/test')
        if not format_only and seg_prefix is None:
            raise UserError('CocoPanopticMetric: seg_prefix is missing; name '
                            f'the folder of the PNG files of {ann_file}')
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.categories, self.annotations = read_annotations(
            ann_file, backend_args=backend_args)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Evaluate, and write where asked for, the predictions of a batch.

        Args:
            data_batch: Not used.
            data_samples: With ``img_id``, ``img_path`` and
                ``pred_panoptic_seg.sem_seg``: (1, H, W), label + 1000 x
                instance.
        """
        category_ids = self._category_ids()
        for sample in data_samples:
            self.results.append(self._process_one(sample, category_ids))

    def _category_ids(self) -> list[int]:
        """Of each label, as mmdet's CocoPanopticDataset deals them out: in
        the order of the file, which may differ from that of ``classes``."""
        classes = self.dataset_meta['classes']
        found = {i: category['name'] for i, category in
                 self.categories.items() if category['name'] in classes}
        if absent := [c for c in classes if c not in found.values()]:
            raise UserError(
                f'{self.ann_file}: has no categories {", ".join(absent[:5])}'
                f'{", ..." * (len(absent) > 5)}, which are `classes` of the '
                f'config: {METAINFO}')
        return list(found)

    def _process_one(self, sample: dict, category_ids: list[int]) -> dict:
        image_id = sample['img_id']
        truth = self.annotations.get(image_id)
        if truth is None and not self.format_only:
            raise UserError(
                f'{self.ann_file}: has no annotation for image_id {image_id} '
                f'({sample["img_path"]}); add one, with an empty '
                'segments_info if nothing in it is labelled')
        ids, segments = _to_segments(sample['pred_panoptic_seg'],
                                     category_ids)
        result = dict()
        if self.outfile_prefix is not None:
            file_name = (truth['file_name'] if truth else
                         f'{Path(sample["img_path"]).stem}.png')
            write_ids(Path(f'{self.outfile_prefix}.panoptic', file_name), ids)
            result['annotation'] = dict(
                image_id=image_id,
                file_name=file_name,
                segments_info=segments)
        if not self.format_only:
            check_categories(self.ann_file, image_id, truth['segments_info'],
                             self.categories, category_ids)
            path = osp.join(self.seg_prefix, truth['file_name'])
            truth_ids = read_ids(
                path, truth['segments_info'], backend_args=self.backend_args)
            if truth_ids.shape != ids.shape:
                raise UserError(
                    f'{path}: is of {truth_ids.shape[::-1]} pixels, its image '
                    f'{sample["img_path"]} of {ids.shape[::-1]}; they must be '
                    'of one size: write the PNG again at that of the image')
            result['stats'] = match_segments(truth_ids, truth['segments_info'],
                                             ids, segments)
        return result

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Write the JSON file where asked for, and evaluate.

        Args:
            results: Of all images, from :meth:`process`.

        Returns:
            PQ, SQ, RQ, and the same with _th (things) and _st (stuff), in
            percent; nothing with ``format_only``.
        """
        if self.outfile_prefix is not None:
            path = Path(f'{self.outfile_prefix}.panoptic.json')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(dict(annotations=[r['annotation']
                                             for r in results])))
            print_log(f'predictions are written to {path}', logger='current')
        if self.format_only:
            return {}
        quality = panoptic_quality((r['stats'] for r in results),
                                   self.categories)
        table = format_table(quality,
                             self.categories if self.classwise else None)
        print_log(f'panoptic quality\n{table}', logger='current')
        return {
            key.upper() + suffix: 100 * quality[name][key]
            for name, suffix in (('All', ''), ('Things', '_th'), ('Stuff',
                                                                  '_st'))
            for key in ('pq', 'sq', 'rq')
        }


def _to_segments(prediction: dict, category_ids: list[int]
                 ) -> tuple[np.ndarray, list[dict]]:
    """Map of ids, int32 (H, W), and segments_info of a prediction."""
    values = prediction['sem_seg'][0].cpu().numpy().astype(np.int32)
    labels = values % INSTANCE_OFFSET
    void = len(category_ids)
    # 0 is void in files: ids are one higher than in the prediction
    ids = np.where((labels == void)
                   | (labels == prediction.get('ignore_index', void)),
                   VOID, values + 1)
    found = {i: (i - 1) % INSTANCE_OFFSET
             for i in count_pixels(ids) if i != VOID}
    if found and max(found.values()) > void:
        raise UserError(
            f'the model predicts label {max(found.values())}, but the data '
            f'set has {void} classes: set num_things_classes and '
            'num_stuff_classes of semantic_head and panoptic_fusion_head to '
            'theirs')
    return ids, [dict(id=i, category_id=category_ids[label])
                 for i, label in found.items()]
