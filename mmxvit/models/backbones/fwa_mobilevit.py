# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""MobileViT with LOLViT's fast window attention, Table 7 of its paper.

The only backbone that builds on mmpretrain, so it is imported when its name
is looked up and by nothing else.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.backbones.mobilevit import MobileViT, MobileVitBlock
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.fast_window import FastWindowAttention


class FWAMobileViTBlock(nn.Module):
    """MobileViT block with fast window attention in its transformer layers.

    As MobileViT does, the map is taken apart into one group of tokens for
    each place in a patch, here still on their grid, which has a token per
    patch. Each group attends to its own merged tokens.

    Args:
        block: The block with softmax attention. Its modules are taken over
            under their names.
        fold: See :class:`FastWindowAttention`.
        cache: Whether all layers use the merged tokens of the first.
        projection: See :class:`FastWindowAttention`.
    """

    def __init__(self, block: MobileVitBlock, fold: int, cache: bool,
                 projection: str) -> None:
        super().__init__()
        self.local_rep = block.local_rep
        self.global_rep = block.global_rep
        self.conv_proj = block.conv_proj
        self.conv_fusion = block.conv_fusion
        self.patch_size = block.patch_size
        self.cache = cache
        for layer in self.global_rep[:-1]:
            layer.attn = FastWindowAttention(
                layer.embed_dims,
                layer.attn.num_heads,
                fold=fold,
                projection=projection)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        y = self.local_rep(x)
        batch, dims, *size = y.shape
        rows, cols = self.patch_size
        height, width = [
            -(-s // p) for s, p in zip(size, self.patch_size, strict=True)]
        whole = [height * rows, width * cols]
        if whole != size:
            y = F.interpolate(y, whole, mode='bilinear', align_corners=False)

        y = y.reshape(batch, dims, height, rows, width, cols)
        y = y.permute(0, 3, 5, 2, 4, 1).reshape(-1, height, width, dims)
        *layers, norm = self.global_rep
        merged = None
        for layer in layers:
            attended, merged = layer.attn(
                layer.ln1(y), merged if self.cache else None)
            y = y + attended
            y = layer.ffn(layer.ln2(y), identity=y)
        y = norm(y).view(batch, rows, cols, height, width, dims)
        y = y.permute(0, 5, 3, 1, 4, 2).reshape(batch, dims, *whole)

        if whole != size:
            y = F.interpolate(y, size, mode='bilinear', align_corners=False)
        return self.conv_fusion(torch.cat((x, self.conv_proj(y)), 1))


@MODELS.register_module()
class FWAMobileViT(MobileViT):
    """MobileViT whose softmax attention is replaced by fast window attention.

    The rows "MobileViT-XS (FWA)" and "MobileViT-X (FWA)" of Table 7, arch
    ``'x_small'`` and ``'small'``. All else is mmpretrain's MobileViT, and so
    are its arguments and the names of its parameters: weights of a MobileViT
    fit but for ``attn``.

    The paper says no more than that FWA replaces the attention. Inferred:
    each of the four groups of MobileViT's tokens attends for itself;
    ``fold``, ``cache`` and the 4 heads are as in LOLViT; and ``projection``.

    Args:
        fold: Neighbouring tokens merged into one key, for each MobileViT
            block.
        cache: Whether the later layers of a block use the merged tokens of
            its first.
        projection: ``'channel'``: a layer has 3 parameters more than one
            with softmax attention, whose query, key, value and output
            projections are as large as Query, Token, K and V. The table has
            "-" for the parameters. ``'head'``: those of LOLViT, see
            :class:`FastWindowAttention`.
        kwargs: Arguments of mmpretrain's MobileViT; ``out_indices`` 1 to 4
            are strides 4, 8, 16, 32.

    Raises:
        ValueError: ``fold`` has not one number from 1 up for each block, or
            ``projection`` has another value.
    """

    def __init__(self,
                 *args: Any,
                 fold: Sequence[int] = (1, 2, 4),
                 cache: bool = True,
                 projection: str = 'channel',
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stages = [
            layer for layer in self.layers
            if isinstance(layer[-1], MobileVitBlock)
        ]
        if len(fold) != len(stages) or any(f < 1 for f in fold):
            raise ValueError(f'fold={fold} must be {len(stages)} numbers from '
                             '1 up, one for each MobileViT block')
        for stage, block_fold in zip(stages, fold, strict=True):
            stage[-1] = FWAMobileViTBlock(stage[-1], block_fold, cache,
                                          projection)

    def train(self, mode: bool = True) -> 'FWAMobileViT':
        """As mmpretrain's, which returns None."""
        super().train(mode)
        return self
