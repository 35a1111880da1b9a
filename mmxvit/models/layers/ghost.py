# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Blocks of GhostNet (Han et al., CVPR 2020) as LOLViT uses them."""
import torch
import torch.nn as nn
from torch import Tensor

from ..attentions.utils import may_overwrite
from .conv import ConvNormAct, SqueezeExcite
from .fused import is_observed, join


class GhostConv(nn.Module):
    """Half of the maps by a 1x1 convolution, half by a cheap one from those.

    The cheap operation is a depthwise 5x5 convolution.

    Args:
        in_channels: Input channels.
        out_channels: Output channels, even.
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`; None for no activation.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f'out_channels={out_channels} must be even: half '
                             'of them come from the cheap operation')
        half = out_channels // 2
        conv = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.primary = ConvNormAct(in_channels, half, **conv)
        self.cheap = ConvNormAct(half, half, 5, groups=half, **conv)

    @property
    def takes_gate(self) -> bool:
        """Whether the input may come with a gate, see ``forward``."""
        return getattr(self.primary, 'takes_gate', False)

    @property
    def takes_parts(self) -> bool:
        """Whether the input may be in parts, see :func:`join`."""
        return getattr(self.primary, 'takes_parts', False)

    def halves(self,
               x: Tensor | tuple[Tensor, ...],
               gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output before it is put together, see :meth:`forward`."""
        x = self.primary(x) if gate is None else self.primary(x, gate)
        return x, self.cheap(x)

    def forward(self,
                x: Tensor | tuple[Tensor, ...],
                gate: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W); gate: of the input's channels.

        See :meth:`ConvNormAct.forward`.
        """
        return torch.cat(self.halves(x, gate), 1)


class GhostBlock(nn.Module):
    """Ghost bottleneck: GhostConv to twice the input's width, and back.

    Between the two a depthwise 3x3 convolution where stride is 2, then SE.
    The shortcut is the identity where stride is 1 and the widths are equal,
    else a depthwise 3x3 and a 1x1 convolution.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: 1 or 2.
        with_se: Whether there is SE, its width a quarter of the hidden one.
        norm_cfg: See :func:`build_norm`.
        act_cfg: Activation of the first GhostConv and inside SE.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int,
                 with_se: bool, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        hidden = 2 * in_channels
        self.expand = GhostConv(in_channels, hidden, norm_cfg, act_cfg)
        self.depthwise = nn.Identity() if stride == 1 else ConvNormAct(
            hidden, hidden, 3, stride, groups=hidden, norm_cfg=norm_cfg)
        self.se = SqueezeExcite(hidden, hidden // 4,
                                act_cfg) if with_se else nn.Identity()
        self.project = GhostConv(hidden, out_channels, norm_cfg)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                ConvNormAct(
                    in_channels,
                    in_channels,
                    3,
                    stride,
                    groups=in_channels,
                    norm_cfg=norm_cfg),
                ConvNormAct(in_channels, out_channels, norm_cfg=norm_cfg))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)"""
        if _is_plain(self.expand):
            out = join(self.expand.halves(x), self.depthwise, self.se,
                       self.project)
        else:
            out = self.expand(x)
        out = self.depthwise(out)
        if isinstance(self.se, SqueezeExcite):
            out = self.se.before(self.project, out)
        else:
            out = self.se(out),
        shortcut, out = self.shortcut(x), self.project(*out)
        if (may_overwrite() and _is_plain(self.project)
                and out.dtype == shortcut.dtype):
            return out.add_(shortcut)
        return shortcut + out


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) is GhostConv and not is_observed(layer)
