# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Dilated depthwise convolutions with a quick backward pass on CPUs."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused import is_ordinary


def trains_dilated(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`dilated_depthwise` is for these: there is a gradient to
    come, on a CPU, and nobody watches the operators.
    """
    return (torch.is_grad_enabled() and (x.requires_grad
                                         or weight.requires_grad)
            and is_ordinary(x, weight, low_precision=True))


def dilated_depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Depthwise 3x3 convolution that keeps the size of the map.

    oneDNN's backward pass of a dilated one takes about twenty times as long as
    its forward pass. In bfloat16 its gradient of the kernel may be anything,
    as it reads memory that nobody wrote (torch 2.8, channels-last, 32 columns
    and more). Here the map's gradient is a convolution with the turned kernel;
    for that of the kernel, rows and columns at a distance of ``dilation`` make
    small maps, whose convolution is not dilated.

    Args:
        x: (B, C, H, W), channels-last.
        weight: (C, 1, 3, 3)
        dilation: Distance of the places.

    Returns:
        (B, C, H, W)
    """
    return _DilatedDepthwise.apply(x, weight, dilation)


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, 1, dilation, dilation, len(weight))


def _small_maps(x: Tensor, dilation: int) -> Tensor:
    """(B, C, H, W) -> (B d d, C, ceil(H / d), ceil(W / d)), channels-last"""
    d = dilation
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    batch, channels, height, width = x.shape
    # by reshape, which may be batched over gradients
    x = x.permute(0, 2, 3, 1).reshape(
        batch, height // d, d, width // d, d, channels)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(
        -1, height // d, width // d, channels)
    return x.permute(0, 3, 1, 2)


class _DilatedDepthwise(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        dilation = ctx.dilation
        # under autocast the map and the kernel may be of more digits
        x, weight = [t.to(grad.dtype) for t in ctx.saved_tensors]
        grad_x = grad_weight = None
        with torch.autocast('cpu', enabled=False):  # as in torch's own
            if ctx.needs_input_grad[0]:
                grad_x = _convolve(grad, weight.flip(2, 3), dilation)
            if ctx.needs_input_grad[1]:
                _, grad_weight, _ = torch.ops.aten.convolution_backward(
                    _small_maps(grad, dilation), _small_maps(x, dilation),
                    weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0],
                    len(weight), [False, True, False])
        return grad_x, grad_weight, None
