# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Classifier of LVT: class attention, and training with token labels.

arXiv 2112.10809, section 4.1, which refers to CaiT (class attention, arXiv
2103.17239), VOLO (2106.13112) and token labeling (2104.10858).
"""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.structures import DataSample
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.utils import widen


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


class ClassAttention(nn.Module):
    """Attention of the class token to itself and the patches.

    Args:
        embed_dims: Width d of the tokens.
        num_heads: Heads.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims, bias=False)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, d), the class token first -> (B, 1, d)"""
        q, k, v = (
            t.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.q(x[:, :1]), *self.kv(x).chunk(2, 2)))
        with torch.autocast(x.device.type, enabled=False):
            out = F.scaled_dot_product_attention(widen(q), widen(k), widen(v))
        return self.proj(out.transpose(1, 2).flatten(2).to(x.dtype))

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """MACs of the linear layers and of q k^T and its product with v."""
        batch, tokens, dims = inputs[0].shape
        return dict(
            linear=batch * (2 + 2 * tokens) * dims**2,
            attention=2 * batch * tokens * dims)


class ClassBlock(nn.Module):
    """Transformer block that updates the class token only.

    Args:
        embed_dims: Width d of the tokens.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLP / d.
    """

    def __init__(self, embed_dims: int, num_heads: int,
                 mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = ClassAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dims, mlp_ratio * embed_dims), nn.GELU(),
            nn.Linear(mlp_ratio * embed_dims, embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, d), the class token first -> the same shape"""
        token = x[:, :1] + self.attn(self.norm1(x))
        token = token + self.mlp(self.norm2(token))
        return torch.cat((token, x[:, 1:]), 1)


@MODELS.register_module()
class LVTClsHead(ClsHead):
    """Class attention, one linear layer for the class, one for patches.

    The logits are those of the class token plus ``aux_weight`` times the
    highest over the patches. In training either gets a cross-entropy of its
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
        num_class_blocks: Class-attention blocks. 0: the head of a plain
            classifier, mean of the tokens and one linear layer.
        num_heads: Heads of the class attention.
        mlp_ratio: Hidden width of their MLPs / d.
        aux_weight: Weight of the patches, in the loss and in the logits.
        loss: Loss of soft labels. None: mmpretrain's CrossEntropyLoss.
        init_cfg: As in MMEngine.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 num_class_blocks: int = 2,
                 num_heads: int = 8,
                 mlp_ratio: int = 4,
                 aux_weight: float = 0.5,
                 loss: dict | None = None,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(
            loss or dict(type='CrossEntropyLoss', use_soft=True),
            init_cfg=init_cfg)
        self.num_classes = num_classes
        self.aux_weight = aux_weight
        self.blocks = nn.ModuleList(
            ClassBlock(in_channels, num_heads, mlp_ratio)
            for _ in range(num_class_blocks))
        self.norm = nn.LayerNorm(in_channels)
        self.fc = nn.Linear(in_channels, num_classes)
        if num_class_blocks:
            self.cls_token = nn.Parameter(torch.empty(1, 1, in_channels))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            self.aux_fc = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Tokens in front of the linear layers.

        Args:
            feats: Maps of the backbone; the last, (B, d, h, w), is used.

        Returns:
            (B, 1 + h w, d), the class token first; (B, d) without class
            blocks.
        """
        x = feats[-1].flatten(2).transpose(1, 2)
        if not self.blocks:
            return self.norm(x).mean(1)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits, (B, num_classes)."""
        x = self.pre_logits(feats)
        if not self.blocks:
            return self.fc(x)
        patches = self.aux_fc(x[:, 1:]).amax(1)
        return self.fc(x[:, 0]) + self.aux_weight * patches

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
