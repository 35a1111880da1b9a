# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Anchor-free decoupled YOLO head, as YOLOv8 has it.

Distribution focal loss: Li et al., Generalized Focal Loss, arXiv 2006.04388,
section 3. Assignment and soft labels: Feng et al., TOOD, arXiv 2108.07755,
section 3.2. Widths, weights and the order of the steps follow the public
description of YOLOv8; nothing is taken from its code.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import InstanceList, reduce_mean
from mmengine.model import bias_init_with_prob
from mmengine.structures import InstanceData
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.utils import widen
from ..layers import ConvNormAct


class InsideOverlaps:
    """IoU of predicted and true boxes, 0 where the place is not in the box.

    mmdet's TaskAlignedAssigner takes the best of *all* places as candidates of
    an object and drops those outside afterwards. While boxes are untrained,
    small objects would be left without any: many places predict boxes that
    contain them. Here the candidates are the best of those inside.
    """

    def __call__(self, predicted: Tensor, boxes: Tensor) -> Tensor:
        """(N, 6) as (x1, y1, x2, y2, x, y) and (M, 4) -> (N, M)."""
        points = predicted[:, None, 4:]
        inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(-1)
        return bbox_overlaps(predicted[:, :4], boxes.to(predicted)) * inside


@MODELS.register_module()
class YOLODFLHead(BaseDenseHead):
    """Decoupled head: classes, and a distribution over each side's distance.

    For each place of each map: one score per class, and ``reg_max`` logits for
    each of the distances from the place to the left, top, right and bottom of
    its box. The distance is the mean of 0 ... ``reg_max`` - 1 under the
    softmax of the logits, in units of the map's stride.

    Positive places of an object are the ``topk`` inside it with the highest
    alignment score^alpha IoU^beta; their soft label is the alignment, scaled
    so that the best of an object has the label of its highest IoU. Losses:
    binary cross-entropy over all places, complete IoU and distribution focal
    loss over the positive ones, weighted with their labels; all three are
    divided by the sum of the labels over the batch.

    Args:
        num_classes: Classes.
        in_channels: Channels of the maps.
        reg_channels: Width of the two 3x3 convolutions of the box branch.
        cls_channels: Width of those of the class branch. Either branch has
            weights of its own for each map.
        strides: Strides of the maps.
        reg_max: Bins of each distribution.
        norm_cfg: Norm of the 3x3 convolutions. None: BatchNorm.
        act_cfg: Their activation. None: SiLU.
        loss_cls: Loss of mmdet on logits and soft labels (N, num_classes).
            None: cross-entropy with sigmoid, weight 0.5.
        loss_bbox: On boxes (x1, y1, x2, y2). None: CIoULoss, weight 7.5.
        loss_dfl: On logits and distances in bins. None:
            DistributionFocalLoss, weight 1.5.
        train_cfg: ``assigner``, a TaskAlignedAssigner, whose IoU is replaced
            by :class:`InsideOverlaps`; ``alpha``; ``beta``.
        test_cfg: As for all dense heads of mmdet.
        init_cfg: As in MMEngine.

    Raises:
        ValueError: ``in_channels`` and ``strides`` differ in length.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: Sequence[int],
                 reg_channels: int = 64,
                 cls_channels: int = 80,
                 strides: Sequence[int] = (8, 16, 32),
                 reg_max: int = 16,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 loss_cls: dict | None = None,
                 loss_bbox: dict | None = None,
                 loss_dfl: dict | None = None,
                 train_cfg: dict | None = None,
                 test_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != len(strides):
            raise ValueError(f'in_channels={in_channels} and strides={strides}'
                             ' must have one entry for each map')
        self.num_classes = self.cls_out_channels = num_classes
        self.use_sigmoid_cls = True  # for the prediction of BaseDenseHead
        self.reg_max = reg_max
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.prior_generator = TASK_UTILS.build(
            dict(type='MlvlPointGenerator', strides=list(strides)))
        self.bbox_coder = TASK_UTILS.build(dict(type='DistancePointBBoxCoder'))
        if train_cfg:
            self.assigner = TASK_UTILS.build(
                dict(
                    train_cfg['assigner'],
                    iou_calculator=dict(type=InsideOverlaps)))
        self.loss_cls = MMDET_MODELS.build(
            loss_cls or dict(
                type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5))
        self.loss_bbox = MMDET_MODELS.build(
            loss_bbox or dict(type='CIoULoss', loss_weight=7.5))
        self.loss_dfl = MMDET_MODELS.build(
            loss_dfl or dict(type='DistributionFocalLoss', loss_weight=1.5))

        conv = dict(
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=act_cfg or dict(type='SiLU'))

        def branches(width: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(
                    ConvNormAct(channels, width, 3, **conv),
                    ConvNormAct(width, width, 3, **conv),
                    nn.Conv2d(width, out_channels, 1))
                for channels in in_channels)

        self.cls_branches = branches(cls_channels, num_classes)
        self.reg_branches = branches(reg_channels, 4 * reg_max)
        for branch in [*self.cls_branches, *self.reg_branches]:
            nn.init.normal_(branch[-1].weight, std=0.01)
            nn.init.zeros_(branch[-1].bias)
        for branch in self.cls_branches:
            nn.init.constant_(branch[-1].bias, bias_init_with_prob(0.01))

    def forward(self, x: tuple[Tensor, ...]
                ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Raw outputs for each map.

        Args:
            x: Maps (B, in_channels[i], H_i, W_i).

        Returns:
            Logits of the classes, (B, num_classes, H_i, W_i), and of the
            distances, (B, 4 * reg_max, H_i, W_i): left, top, right, bottom.
        """
        return tuple(
            tuple(branch(y) for branch, y in zip(branches, x, strict=True))
            for branches in (self.cls_branches, self.reg_branches))

    def distances(self, logits: Tensor) -> Tensor:
        """(..., 4 * reg_max) -> (..., 4), in strides, float32 or wider."""
        probabilities = widen(logits).unflatten(-1, (4, -1)).softmax(-1)
        bins = torch.arange(
            self.reg_max, device=logits.device, dtype=probabilities.dtype)
        return (probabilities * bins).sum(-1)  # a product would be autocast

    def predict_by_feat(self, cls_scores: Sequence[Tensor],
                        bbox_preds: Sequence[Tensor], *args: Any,
                        **kwargs: Any) -> InstanceList:
        """Boxes of each image, see mmdet's ``BaseDenseHead``.

        Args:
            cls_scores: As :meth:`forward` gives them.
            bbox_preds: As well.
            args: The other arguments of the parent class.
            kwargs: As well.
        """
        distances = [
            self.distances(pred.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) *
            stride[0] for pred, stride in zip(
                bbox_preds, self.prior_generator.strides, strict=True)
        ]
        cls_scores = [widen(score) for score in cls_scores]
        return super().predict_by_feat(cls_scores, distances, *args, **kwargs)

    def loss_by_feat(self,
                     cls_scores: Sequence[Tensor],
                     bbox_preds: Sequence[Tensor],
                     batch_gt_instances: InstanceList,
                     batch_img_metas: list[dict],
                     batch_gt_instances_ignore: InstanceList | None = None
                     ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: As :meth:`forward` gives them.
            bbox_preds: As well.
            batch_gt_instances: ``bboxes`` (M, 4) in pixels and ``labels``
                (M, ) of each image; M may be 0.
            batch_img_metas: Not used.
            batch_gt_instances_ignore: Not used: regions to ignore, such as
                crowds, are background.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_dfl``.
        """
        scores, logits = (
            widen(torch.cat([
                y.permute(0, 2, 3, 1).flatten(1, 2) for y in maps
            ], 1)) for maps in (cls_scores, bbox_preds))  # (B, N, ...)
        priors = torch.cat(
            self.prior_generator.grid_priors(
                [y.shape[2:] for y in cls_scores],
                dtype=scores.dtype,
                device=scores.device,
                with_stride=True))
        points, strides = priors.split(2, 1)
        boxes = self.bbox_coder.decode(
            points.expand(len(scores), -1, -1),
            self.distances(logits) * strides[:, :1])

        with torch.no_grad():
            targets = [
                self._targets(*image) for image in zip(
                    scores.sigmoid(),
                    torch.cat((boxes, points.expand_as(boxes[..., :2])), 2),
                    batch_gt_instances,
                    strict=True)
            ]
        labels, positive, true_boxes = (
            torch.stack(parts) for parts in zip(*targets, strict=True))
        quality = labels.sum(2)[positive]
        total = reduce_mean(quality.sum()).clamp(min=1)

        points, strides = (
            t.expand(len(scores), -1, -1)[positive] for t in (points, strides))
        true_boxes = true_boxes[positive]
        true_distances = self.bbox_coder.encode(points,
                                                true_boxes) / strides[:, :1]
        # the last bin is the right neighbour of what it can express
        true_distances = true_distances.clamp(0, self.reg_max - 1 - 0.01)
        return dict(
            loss_cls=self.loss_cls(
                scores.flatten(0, 1), labels.flatten(0, 1), avg_factor=total),
            loss_bbox=self.loss_bbox(
                boxes[positive],
                true_boxes,
                weight=quality,
                avg_factor=total),
            loss_dfl=self.loss_dfl(
                logits[positive].reshape(-1, self.reg_max),
                true_distances.flatten(),
                weight=quality.repeat_interleave(4),
                avg_factor=4 * total))

    def _targets(self, scores: Tensor, predicted: Tensor,
                 gt_instances: InstanceData) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of one image.

        Args:
            scores: (N, num_classes), in [0, 1].
            predicted: (N, 6), boxes and places.
            gt_instances: Objects.

        Returns:
            Soft labels (N, num_classes), which places are positive (N, ),
            their objects' boxes (N, 4).
        """
        result = self.assigner.assign(
            InstanceData(
                priors=predicted[:, 4:].repeat(1, 2),
                bboxes=predicted,
                scores=scores),
            gt_instances,
            alpha=self.train_cfg['alpha'],
            beta=self.train_cfg['beta'])
        positive = result.gt_inds > 0
        objects = result.gt_inds[positive] - 1

        def highest(values: Tensor) -> Tensor:
            """The highest value of the object that each place belongs to."""
            best = values.new_zeros(len(gt_instances))
            return best.scatter_reduce(0, objects, values, 'amax')[objects]

        alignment = result.assign_metrics[positive]
        ious = result.max_overlaps[positive]
        labels = torch.zeros_like(scores)
        labels[positive, result.labels[positive]] = (
            alignment / highest(alignment) * highest(ious))
        boxes = scores.new_zeros(len(scores), 4)
        boxes[positive] = gt_instances.bboxes[objects].to(boxes)
        return labels, positive, boxes
