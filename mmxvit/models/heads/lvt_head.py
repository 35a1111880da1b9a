# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Classifier of LVT: training with token labels.

arXiv 2112.10809, section 4.1, which refers to VOLO (arXiv 2106.13112) and
token labeling (2104.10858).
"""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.structures import DataSample
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.utils import widen
from .plain import ClassAttentionHead


class Box(NamedTuple):
    """Rows and columns of a map, ends excluded."""
    top: int
    bottom: int
    left: int
    right: int

    def swap(self, x: Tensor) -> Tensor:
        """Within the box, each image's values from its partner.

        Partners are the images of the flipped batch, so that a second swap
        undoes the first.

        Args:
            x: (B, C, H, W)
        """
        inside = x.flip(0)[..., self.top:self.bottom, self.left:self.right]
        x = x.clone()
        x[..., self.top:self.bottom, self.left:self.right] = inside
        return x


@MODELS.register_module()
class LVTClsHead(ClassAttentionHead, ClsHead):
    """:class:`~.plain.ClassAttentionHead` with its losses.

    In training the class token and the patches get a cross-entropy of their
    own (token labeling): the class token against the label of the image, each
    patch against its own label.

    Fields of a data sample that are used: ``gt_score`` (num_classes, ) or
    ``gt_label`` for the image; ``gt_token_score`` (num_classes, h, w), soft
    labels of the places of the backbone's last map, which has stride 32 (7 x
    7 at 224). Where a sample has no ``gt_token_score``, the label of the
    image stands for all its patches.

    Args:
        num_classes: Classes.
        in_channels: Channels d of the backbone's last map.
        args: As in ClassAttentionHead.
        loss: Loss of soft labels. None: mmpretrain's CrossEntropyLoss.
        kwargs: As in ClassAttentionHead; ``aux_weight`` is the weight of the
            patches in the loss as well.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 *args: object,
                 loss: dict | None = None,
                 **kwargs: object) -> None:
        super().__init__(
            num_classes,
            in_channels,
            *args,
            loss=loss or dict(type='CrossEntropyLoss', use_soft=True),
            **kwargs)

    def loss(self,
             feats: tuple[Tensor, ...],
             data_samples: list[DataSample],
             box: Box | None = None) -> dict[str, Tensor]:
        """Losses of the class token and, with class blocks, the patches.

        Args:
            feats: See :meth:`pre_logits`.
            data_samples: Labels, see the class.
            box: Where the maps have been mixed, in places of the last one.
                The class token's label is mixed by area; patches get the
                label of the image that they come from.

        Returns:
            ``loss`` and ``loss_aux``.

        Raises:
            ValueError: A ``gt_token_score`` has another shape.
        """
        size = feats[-1].shape[2:]
        x = self.pre_logits(feats)
        target = self._image_scores(data_samples, x)
        mixed = target
        if box:
            share = (box.bottom - box.top) * (box.right - box.left) / (
                size[0] * size[1])
            mixed = (1 - share) * target + share * target.flip(0)
        if not self.blocks:
            return dict(loss=self.loss_module(widen(self.fc(x)), mixed))
        losses = dict(loss=self.loss_module(widen(self.fc(x[:, 0])), mixed))
        scores = self.aux_fc(x[:, 1:]).transpose(1, 2).unflatten(2, size)
        if box:
            scores = box.swap(scores)
        losses['loss_aux'] = self.aux_weight * self.loss_module(
            *(t.permute(0, 2, 3, 1).flatten(0, 2)
              for t in (widen(scores),
                        self._token_scores(data_samples, target, size))))
        return losses

    def _image_scores(self, data_samples: list[DataSample],
                      like: Tensor) -> Tensor:
        """Soft labels of the images, (B, num_classes)."""
        return torch.stack([
            sample.gt_score if 'gt_score' in sample else F.one_hot(
                sample.gt_label, self.num_classes).sum(0)
            for sample in data_samples
        ]).to(like.device, widen(like).dtype)

    def _token_scores(self, data_samples: list[DataSample], target: Tensor,
                      size: tuple[int, int]) -> Tensor:
        """Soft labels of the patches, (B, num_classes, h, w)."""
        shape = (self.num_classes, *size)
        scores = []
        for sample, score in zip(data_samples, target, strict=True):
            if 'gt_token_score' in sample:
                score = torch.as_tensor(sample.gt_token_score).to(target)
                if score.shape != shape:
                    raise ValueError(
                        f'gt_token_score has the shape {tuple(score.shape)}, '
                        f'expected {shape}: num_classes and the size of the '
                        "backbone's last map")
            else:
                score = score[:, None, None].expand(shape)
            scores.append(score)
        return torch.stack(scores)


@MODELS.register_module()
class LVTClassifier(ImageClassifier):
    """Image classifier that mixes pairs of images in training.

    MixToken of token labeling: as CutMix, but of maps. Within a random box
    the map of stage 1 is exchanged for that of the partner in the flipped
    batch. The box lies on the grid of the last map (8 x 8 places of the one
    mixed), so that each of its tokens belongs to one image. That it is the
    output of stage 1, and not of its patch embedding, is inferred.

    Args:
        mix_alpha: The box covers 1 - lambda of the map, lambda drawn from
            Beta(mix_alpha, mix_alpha). 0: no mixing.
        kwargs: As in mmpretrain's ImageClassifier, with a
            :class:`LVTClsHead`.
    """

    def __init__(self, *args: object, mix_alpha: float = 1.,
                 **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.mix_alpha = mix_alpha

    def loss(self, inputs: Tensor,
             data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of the head, see :meth:`LVTClsHead.loss`."""
        if not (self.training and self.mix_alpha):
            return super().loss(inputs, data_samples)
        box = self._random_box(inputs.shape[2:])
        feats = self._mixed_feats(inputs, box)
        return self.head.loss(feats, data_samples, box)

    def _random_box(self, size: tuple[int, int]) -> Box:
        grid = [-(-length // 32) for length in size]
        sampler = CutMix(self.mix_alpha)
        share = np.random.beta(self.mix_alpha, self.mix_alpha)
        return Box(*(int(n) for n in sampler.rand_bbox(grid, share)))

    def _mixed_feats(self, inputs: Tensor, box: Box) -> tuple[Tensor, ...]:
        """:meth:`extract_feat`, the output of stage 1 mixed."""
        backbone = self.backbone
        backbone.check_input(inputs)
        x = backbone.stem(inputs)
        for i in range(backbone.num_stages):
            x = backbone.run_stage(i, x)
            if i == 0:
                x = Box(*(8 * n for n in box)).swap(x)
        return self.neck((x, )) if self.with_neck else (x, )
