# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Pyramid of YOLO detectors: PAN with CSP blocks.

Path aggregation is that of PANet (Liu et al., CVPR 2018), the blocks split
and join channels as CSPNet does (Wang et al., arXiv 1911.11929). Written from
the public description of YOLOv8, with no code of it.
"""
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmxvit.registry import MODELS

from ..layers import ConvNormAct


class C2f(nn.Module):
    """CSP block that keeps the output of each bottleneck.

    A 1x1 convolution makes two halves; one goes through bottlenecks of two
    3x3 convolutions, without shortcut. The halves and the outputs of all
    bottlenecks, side by side, are joined by a 1x1 convolution.

    Args:
        in_channels: Input channels.
        out_channels: Output channels, even.
        num_blocks: Bottlenecks.
        norm_cfg: See :class:`ConvNormAct`.
        act_cfg: See :class:`ConvNormAct`.

    Raises:
        ValueError: ``out_channels`` is odd.
    """

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int,
                 norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f'out_channels={out_channels} must be even: half '
                             'of them go through the bottlenecks')
        half = out_channels // 2
        conv = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.split = ConvNormAct(in_channels, out_channels, **conv)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(half, half, 3, **conv),
                ConvNormAct(half, half, 3, **conv))
            for _ in range(num_blocks))
        self.join = ConvNormAct((2 + num_blocks) * half, out_channels, **conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)"""
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, 1))


@MODELS.register_module()
class YOLOPAN(BaseModule):
    """Top-down, then bottom-up path over the maps of a backbone.

    Each step joins two maps by :class:`C2f`. A map is enlarged (nearest) to
    the size of the next finer one, so that images of any size will do.

    Args:
        in_channels: Channels of the maps, fine to coarse.
        out_channels: Channels of the outputs, one for each map; the top-down
            path has the same but for the coarsest map, which it takes as it
            is.
        num_blocks: Bottlenecks of each :class:`C2f`.
        norm_cfg: Norm after each convolution. None: BatchNorm.
        act_cfg: Activation after each norm. None: SiLU.
        init_cfg: As in MMEngine.

    Raises:
        ValueError: Less than two maps, or another number of outputs.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int],
                 num_blocks: int = 1,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        if len(in_channels) < 2 or len(in_channels) != len(out_channels):
            raise ValueError(
                f'in_channels={in_channels} and out_channels={out_channels} '
                'must have the same length, two or more: one entry for each '
                'map of the backbone')
        conv = dict(
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=act_cfg or dict(type='SiLU'))
        inner = [*out_channels[:-1], in_channels[-1]]
        steps = range(len(in_channels) - 1)
        # steps[i] is between map i and map i + 1
        self.top_down = nn.ModuleList(
            C2f(inner[i + 1] + in_channels[i], inner[i], num_blocks, **conv)
            for i in steps)
        self.downsample = nn.ModuleList(
            ConvNormAct(out_channels[i], out_channels[i], 3, 2, **conv)
            for i in steps)
        self.bottom_up = nn.ModuleList(
            C2f(out_channels[i] + inner[i + 1], out_channels[i + 1],
                num_blocks, **conv) for i in steps)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps (B, in_channels[i], H_i, W_i) -> (B, out_channels[i], ...).

        Args:
            inputs: Fine to coarse; each half as large as the one before,
                rounded up.
        """
        maps = list(inputs)
        for i in reversed(range(len(self.top_down))):
            coarse = F.interpolate(maps[i + 1], size=maps[i].shape[2:])
            maps[i] = self.top_down[i](torch.cat((coarse, maps[i]), 1))
        for i, (downsample, block) in enumerate(
                zip(self.downsample, self.bottom_up, strict=True)):
            maps[i + 1] = block(
                torch.cat((downsample(maps[i]), maps[i + 1]), 1))
        return tuple(maps)
