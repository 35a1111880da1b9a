# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Convolution blocks that several families share."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..attentions.linear import PointwiseConv
from ..attentions.utils import may_overwrite
from .fused import conv_act, conv_parts, is_observed, is_plain
from .norm_act import build_act, build_norm

# places in a batch of maps up to which torch's matrix product and norm are
# faster than a convolution with folded weights, which takes long to start
SMALL_MAP = 1024


class ConvNormAct(nn.Module):
    """Convolution without bias, norm, activation.

    A BatchNorm in eval mode is folded into the convolution while it runs:
    nothing is cached, so weights may change at any time. Where one of the two
    has hooks, both are called as usual.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Odd; padded so that stride 1 keeps the size.
        stride: Stride.
        groups: Groups of the convolution.
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`; None for no activation.
    """

    takes_gate = True  # as a second argument
    takes_parts = True  # from join()

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int = 1,
                 stride: int = 1,
                 groups: int = 1,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=groups,
            bias=False)
        self.norm = build_norm(norm_cfg or dict(type='BN'), out_channels)
        self.act = build_act(act_cfg) if act_cfg else nn.Identity()

    def _is_folded(self) -> bool:
        """By mmxvit.fuse: the bias of the convolution is what is left."""
        return (type(self.norm) is nn.Identity
                and self.conv.bias is not None)

    def _can_fold(self) -> bool:
        """Whether weights and a bias say what convolution and norm do: the
        norm is a BatchNorm in eval mode or folded already, and nobody listens.
        """
        conv, norm = self.conv, self.norm
        return (is_plain(conv) and not is_observed(conv, norm)
                and (isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm))
                     and norm.track_running_stats and not norm.training
                     or self._is_folded()))

    def _runs_as_product(self, x: Tensor) -> bool:
        """1x1 on small channels-last maps, without autograd on a CPU."""
        conv = self.conv
        return (conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
                and may_overwrite() and x.is_cpu
                and x.dtype == conv.weight.dtype == torch.float32
                and x.dim() == 4 and x.stride(1) == 1
                and x.numel() <= SMALL_MAP * x.shape[1])

    def forward(
            self,
            x: Tensor | tuple[Tensor, ...],
            gate: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

        Args:
            x: The map, or its parts from :func:`join`; then a depthwise
                convolution may return parts.
            gate: (1, C_in, 1, 1), factors of the channels of ``x``. They go
                into the weights where those are folded anyway.
        """
        conv, norm = self.conv, self.norm
        can_fold = self._can_fold()
        if isinstance(x, tuple) and (not can_fold or gate is not None
                                     and conv.groups > 1):
            x = torch.cat(x, 1)
        if gate is not None and (not can_fold or conv.groups > 1):
            x, gate = x * gate, None
        if not can_fold:
            return self.act(norm(conv(x)))
        weight, bias = conv.weight, conv.bias
        as_product = not isinstance(x, tuple) and self._runs_as_product(x)
        if not as_product and not self._is_folded():
            scale = (norm.running_var + norm.eps).rsqrt()
            if norm.affine:
                scale = scale * norm.weight
                bias = torch.addcmul(
                    norm.bias, norm.running_mean, scale, value=-1)
            else:
                bias = -norm.running_mean * scale
            weight = weight * scale.view(-1, 1, 1, 1)
        if gate is not None:
            weight = weight * gate
        if as_product:
            out = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
            out = out.permute(0, 3, 1, 2)
            if not self._is_folded():
                out = F.batch_norm(
                    out, norm.running_mean, norm.running_var, norm.weight,
                    norm.bias, eps=norm.eps)
            return self.act(out)
        run = conv_parts if isinstance(x, tuple) else conv_act
        return run(conv, self.act, x, weight, bias)

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """Convolution, norm and activation as three steps, folded or not."""
        positions = output.numel() // output.shape[1]
        counted_act = isinstance(
            self.act, (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU))
        return dict(
            linear=positions * self.conv.weight.numel(),
            norm=output.numel() * (1 + getattr(self.norm, 'affine', True)),
            elementwise=output.numel() * counted_act)


class SqueezeExcite(nn.Module):
    """Channel gate: global mean, two 1x1 convolutions with bias, sigmoid.

    Args:
        channels: Channels C of the map.
        squeeze_channels: Channels between the convolutions.
        act_cfg: Activation between them.
    """

    takes_parts = True  # from join(), by before()

    def __init__(self, channels: int, squeeze_channels: int,
                 act_cfg: dict) -> None:
        super().__init__()
        self.reduce = PointwiseConv(channels, squeeze_channels)
        self.act = build_act(act_cfg)
        self.expand = PointwiseConv(squeeze_channels, channels)

    def gate(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """(B, C, H, W), or its parts -> (B, C, 1, 1)"""
        if isinstance(x, tuple):
            height, width = x[0].shape[2:]
            total = torch.cat([p.sum((2, 3), keepdim=True) for p in x], 1)
        else:
            # mean() would divide a map as large as x in the backward pass
            height, width = x.shape[2:]
            total = x.sum((2, 3), keepdim=True)
        gate = total / (height * width)
        return self.expand(self.act(self.reduce(gate))).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return x * self.gate(x)

    def before(self, layer: nn.Module,
               x: Tensor | tuple[Tensor, ...]) -> tuple:
        """Arguments for a layer behind this: the map, and a gate or not.

        The gate of a single image multiplies weights and not the map, if the
        layer takes one and nobody listens.
        """
        if not isinstance(x, tuple) and (
                not may_overwrite() or len(x) != 1
                or not getattr(layer, 'takes_gate', False)
                or is_observed(self, *layer.modules())):
            return self(x),
        return x, self.gate(x)

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """Both convolutions; element-wise: the mean and the biases."""
        batch = output.shape[0]
        biases = self.reduce.bias.numel() + self.expand.bias.numel()
        return dict(
            linear=2 * batch * self.reduce.weight.numel(),
            elementwise=output.numel() + batch * biases)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, SE, linear 1x1 (MobileNetV3 block).

    The input is added where stride is 1 and the widths are equal.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Stride of the depthwise convolution.
        expand_ratio: Hidden channels / input channels.
        squeeze_channels: Channels inside SE.
        norm_cfg: See :func:`build_norm`.
        act_cfg: Activation everywhere but after the last convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int,
                 expand_ratio: int, squeeze_channels: int, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.add_identity = stride == 1 and in_channels == out_channels
        self.expand = ConvNormAct(
            in_channels, hidden, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise = ConvNormAct(
            hidden,
            hidden,
            3,
            stride,
            groups=hidden,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg)
        self.se = SqueezeExcite(hidden, squeeze_channels, act_cfg)
        self.project = ConvNormAct(hidden, out_channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)"""
        out = self.depthwise(self.expand(x))
        if isinstance(self.se, SqueezeExcite):
            out = self.project(*self.se.before(self.project, out))
        else:  # a wrapper
            out = self.project(self.se(out))
        return x + out if self.add_identity else out
