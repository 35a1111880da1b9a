# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""LVT: Lite Vision Transformer with Enhanced Self-Attention.

Yang et al., arXiv 2112.10809. What the paper leaves open follows the authors'
published network, with which parameters and outputs agree.
"""
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions import (
    ConvolutionalSelfAttention,
    RecursiveAtrousSelfAttention,
)
from ..attentions.linear import PointwiseConv
from ..layers import DropPath, build_act, layer_act
from .base import PyramidBackbone


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W) maps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Two 1x1 convolutions, with a depthwise 3x3 one between or not.

    Args:
        embed_dims: Channels d of the map.
        mlp_ratio: Hidden channels / d.
        depthwise: With the 3x3 convolution.
        act_cfg: Activation in front of the last convolution.
    """

    def __init__(self, embed_dims: int, mlp_ratio: int, depthwise: bool,
                 act_cfg: dict) -> None:
        super().__init__()
        hidden = embed_dims * mlp_ratio
        self.fc1 = PointwiseConv(embed_dims, hidden)
        self.depthwise = nn.Conv2d(
            hidden, hidden, 3, padding=1,
            groups=hidden) if depthwise else nn.Identity()
        self.act = build_act(act_cfg)
        self.fc2 = PointwiseConv(hidden, embed_dims)
        if not depthwise:  # linear layers; convolutions keep torch's default
            for conv in (self.fc1, self.fc2):
                nn.init.trunc_normal_(conv.weight, std=0.02)
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, H, W) -> (B, d, H, W)"""
        last = self.fc1
        if not isinstance(self.depthwise, nn.Identity):
            x, last = self.fc1(x), self.depthwise
        return self.fc2(layer_act(last, self.act, x))


class LVTBlock(nn.Module):
    """Transformer block: x + attention(LN(x)), x + MLP(LN(x)).

    Args:
        embed_dims: Channels d of the map.
        attn: Attention, (B, d, H, W) -> (B, d, H, W).
        mlp: As well.
        drop_path: Stochastic depth of both branches.
    """

    def __init__(self, embed_dims: int, attn: nn.Module, mlp: nn.Module,
                 drop_path: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(embed_dims)
        self.attn = attn
        self.norm2 = ChannelNorm(embed_dims)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, H, W) -> (B, d, H, W)"""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def patch_embed(in_channels: int, embed_dims: int, kernel_size: int,
                stride: int) -> nn.Sequential:
    """Overlapping patch embedding: convolution and LayerNorm.

    The authors start from a bias of zero. Tokens of padding would then be
    zero, and each norm multiply their gradients by 1 / sqrt(eps) = 316, to
    10^12 at the first layer: with it no detector learned from random weights.
    The bias keeps torch's random start.
    """
    proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride,
                     kernel_size // 2)
    nn.init.kaiming_normal_(proj.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(
        OrderedDict(proj=proj, norm=ChannelNorm(embed_dims)))


@MODELS.register_module()
class LVT(PyramidBackbone):
    """LVT backbone, Table 2 of arXiv 2112.10809.

    Maps: the outputs of the four stages, without a norm behind them. The
    class-attention blocks behind stage 4 belong to the classifier
    (:class:`mmxvit.models.heads.lvt_head.LVTClsHead`).

    Args:
        arch: ``'lvt'``, or ``'lvt-scaled'``: our reading of the paper's "LVT
            scaled up", of which only parameters and FLOPs were published.
        recursions: Passes of each RASA (section 3.2; Table 7 has 1 to 4).
        norm_cfg: Accepted as in all families; there are LayerNorms only.
        act_cfg: Replaces the GELU of the MLPs.

    The other arguments are those of :class:`PyramidBackbone`.
    """

    # Per stage; sr_ratio is the reduction of RASA, None stands for CSA.
    arch_settings = {
        'lvt':
        dict(
            embed_dims=(64, 64, 160, 256),
            depths=(2, 2, 2, 2),
            num_heads=(2, 2, 5, 8),
            mlp_ratios=(4, 8, 4, 4),
            sr_ratios=(None, 4, 2, 1)),
        'lvt-scaled':
        dict(
            embed_dims=(64, 160, 320, 512),
            depths=(3, 3, 6, 3),
            num_heads=(2, 5, 10, 16),
            mlp_ratios=(8, 8, 4, 4),
            sr_ratios=(None, 4, 2, 1)),
    }

    def __init__(self,
                 arch: str | dict = 'lvt',
                 in_channels: int = 3,
                 out_indices: Sequence[int] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 recursions: int = 2,
                 pretrained: str | None = None) -> None:
        super().__init__(arch, in_channels, out_indices, frozen_stages,
                         norm_eval, with_cp, drop_path_rate, norm_cfg, act_cfg,
                         init_cfg, pretrained)
        act_cfg = self.act_cfg or dict(type='GELU')
        widths, depths = self.arch['embed_dims'], self.arch['depths']
        drop_paths = iter(
            torch.linspace(0, drop_path_rate, sum(depths)).tolist())

        self.stem = patch_embed(in_channels, widths[0], 7, 4)
        self.stages = nn.ModuleList()
        for i in range(self.num_stages):
            width, heads = widths[i], self.arch['num_heads'][i]
            ratio = self.arch['sr_ratios'][i]
            blocks = [patch_embed(widths[i - 1], width, 3, 2)] if i else []
            for _ in range(depths[i]):
                if ratio is None:
                    attn = ConvolutionalSelfAttention(width, heads)
                else:
                    attn = RecursiveAtrousSelfAttention(
                        width, heads, ratio, recursions)
                mlp = MLP(width, self.arch['mlp_ratios'][i], ratio is not None,
                          act_cfg)
                blocks.append(LVTBlock(width, attn, mlp, next(drop_paths)))
            self.stages.append(nn.Sequential(*blocks))
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps in ``out_indices``."""
        return tuple(self.arch['embed_dims'][i] for i in self.out_indices)
