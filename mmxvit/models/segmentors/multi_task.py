# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch
from mmengine.model import ModuleDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor

from mmxvit.registry import MODELS


@MODELS.register_module()
class MultiTaskSegmentor(EncoderDecoder):
    """Several segmentations of an image by heads on one backbone.

    As mmseg's EncoderDecoder, but ``decode_head`` has a head for each task:
    ``dict(drivable=dict(type='FPNHead', ...), lane=dict(...))``. Channel i of
    ``gt_sem_seg`` and of ``pred_sem_seg``, both (tasks, H, W), is the label
    map of head i; ``seg_logits`` are those of all heads after one another.
    Whole and slide inference are mmseg's. Losses are named by their task, as
    in ``drivable.loss_ce``.

    LOLViT's paper, section 5.3, trains so on BDD100K.

    Args:
        decode_head: Configs of the heads by task, in the order of the data
            set's ``tasks``. Each with two classes or more and without
            ``out_channels=1``.
        kwargs: As in EncoderDecoder; ``auxiliary_head`` must be None.

    Raises:
        ValueError: A head cannot be used so.
    """

    def _init_decode_head(self, decode_head: dict[str, dict]) -> None:
        if 'type' in decode_head:
            raise ValueError(
                'decode_head must have a head for each task, as in '
                'dict(drivable=dict(type=...), lane=dict(type=...))')
        heads = {task: MMSEG_MODELS.build(cfg)
                 for task, cfg in decode_head.items()}
        for task, head in heads.items():
            if head.out_channels == 1:
                raise ValueError(
                    f'decode_head.{task}.out_channels is 1: leave it out, '
                    'each class needs a channel')
        corners = {head.align_corners for head in heads.values()}
        if len(corners) > 1:
            raise ValueError('align_corners must be the same in all heads of '
                             'decode_head')
        (self.align_corners, ) = corners
        self.decode_head = ModuleDict(heads)
        self.out_channels = sum(h.out_channels for h in heads.values())

    def _init_auxiliary_head(self, auxiliary_head: object) -> None:
        if auxiliary_head is not None:
            raise ValueError('auxiliary_head: a multi-task segmentor has '
                             'none; remove it')

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]
             ) -> dict[str, Tensor]:
        """Losses of all heads.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: With ``gt_sem_seg``, (tasks, H, W).
        """
        self._check_tasks(data_samples)
        maps = self.extract_feat(inputs)
        losses = {}
        for i, (task, head) in enumerate(self.decode_head.items()):
            samples = [
                SegDataSample(
                    metainfo=sample.metainfo,
                    gt_sem_seg=PixelData(
                        data=sample.gt_sem_seg.data[i:i + 1]))
                for sample in data_samples
            ]
            losses.update(
                add_prefix(head.loss(maps, samples, self.train_cfg), task))
        return losses

    def encode_decode(self, inputs: Tensor,
                      batch_img_metas: list[dict]) -> Tensor:
        """Logits of all heads, (B, sum of classes, H, W)."""
        maps = self.extract_feat(inputs)
        return torch.cat([
            head.predict(maps, batch_img_metas, self.test_cfg)
            for head in self.decode_head.values()
        ], 1)

    def postprocess_result(self,
                           seg_logits: Tensor,
                           data_samples: list[SegDataSample] | None = None
                           ) -> list[SegDataSample]:
        """Logits in the size of the original images, and a map per task.

        Args:
            seg_logits: From :meth:`encode_decode`.
            data_samples: None if only images were given.
        """
        self._check_tasks(data_samples)
        channels = [h.out_channels for h in self.decode_head.values()]
        samples = super().postprocess_result(seg_logits, data_samples)
        for sample in samples:
            logits = sample.seg_logits.data.split(channels)
            sample.pred_sem_seg = PixelData(
                data=torch.stack([part.argmax(0) for part in logits]))
        return samples

    def _forward(self,
                 inputs: Tensor,
                 data_samples: list[SegDataSample] | None = None
                 ) -> tuple[Tensor, ...]:
        """Raw logits of each head, in its own resolution."""
        maps = self.extract_feat(inputs)
        return tuple(head(maps) for head in self.decode_head.values())

    def _check_tasks(self, data_samples: list[SegDataSample] | None) -> None:
        """The labels must be those of the heads, in their order."""
        tasks = tuple(self.decode_head)
        for sample in data_samples or []:
            given = sample.metainfo.get('tasks')  # None without labels
            if given is not None and tuple(given) != tasks:
                raise ValueError(
                    f'model.decode_head has the tasks {", ".join(tasks)}, the '
                    f'data set {", ".join(given)}: name the same in '
                    'decode_head and metainfo.tasks, in the same order')


@MODELS.register_module()
class MultiTaskSegTTAModel(SegTTAModel):
    """mmseg's SegTTAModel for a MultiTaskSegmentor.

    Probabilities are averaged, those of each task for themselves.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]
                    ) -> list[SegDataSample]:
        """Merge the views of each image.

        Args:
            data_samples_list: Predictions for all views, by image.

        Returns:
            The first view's, with the merged ``pred_sem_seg``,
            (tasks, H, W), and without ``seg_logits``.
        """
        channels = [h.out_channels for h in self.module.decode_head.values()]
        merged = []
        for views in data_samples_list:
            by_task = zip(*(view.seg_logits.data.split(channels)
                            for view in views), strict=True)
            labels = [
                torch.stack([part.softmax(0) for part in parts]).mean(0)
                .argmax(0) for parts in by_task
            ]
            (sample, *_) = views
            sample.pred_sem_seg = PixelData(data=torch.stack(labels))
            del sample.seg_logits
            merged.append(sample)
        return merged
