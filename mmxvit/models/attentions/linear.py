# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Linear layers that run in the faster of two kernels on a CPU.

torch has two matrix products for them: that of its linear layers, and that of
1x1 convolutions on channels-last maps, which are the same thing. The second
takes longer to start and is then up to 1.3 times as fast.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .utils import is_traced

# multiply-adds from which on the convolution is faster
CONV_MACS = 1 << 27


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: (..., d_in) -> (..., d_out)."""
    if is_traced() or not x.is_cpu or is_small(x, weight):
        return F.linear(x, weight, bias)
    out = F.conv2d(as_map(x), weight[..., None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def is_small(x: Tensor, weight: Tensor) -> bool:
    """Whether the matrix product is the faster kernel."""
    # with one thread torch does not leave 1x1 convolutions of one image to
    # oneDNN
    return (x.numel() * weight.shape[0] < CONV_MACS
            or torch.get_num_threads() == 1)


def as_map(x: Tensor) -> Tensor:
    """Tokens as a channels-last map of one row: (..., d) -> (1, d, 1, N)."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)"""
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution that runs by :func:`linear` on channels-last maps.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        bias: With a bias.
    """

    def __init__(self, in_channels: int, out_channels: int,
                 bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)"""
        if is_traced() or not x.is_cpu:
            return super().forward(x)
        out = linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return out.permute(0, 3, 1, 2)
