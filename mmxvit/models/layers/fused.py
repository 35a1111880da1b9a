# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""A layer and its activation in one operator, on CPUs without autograd.

oneDNN applies the activation to what a convolution has just computed, so that
a map is written once and not read again.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from mmxvit.utils.compat import (
    conv_pointwise,
    conv_pointwise_add,
    has_global_hook,
)

from ..attentions.linear import Linear, PointwiseConv, as_map
from ..attentions.utils import is_traced, is_transformed
from .norm_act import GELU, SiLU

# what torch.compile turns a convolution and an activation into, and one that
# adds to another map
_CONV = conv_pointwise
_ADD_CONV = conv_pointwise_add
# exact classes; one derived from them may do something else
_LAYERS = (nn.Conv2d, PointwiseConv, nn.Linear, Linear)
# places of a map from which on it costs less to run a convolution for each of
# two parts than to put these together
_LARGE_MAP = 8192
# multiply-adds of a matrix product from which on a convolution that applies
# the activation is faster than torch's product and an activation
_POST_OP_MACS = 3 << 23
_DTYPES = ({torch.float32}, {torch.float32, torch.bfloat16, torch.float16})
_POST_OPS = {
    nn.Identity: 'none',
    nn.ReLU: 'relu',
    nn.SiLU: 'swish',
    SiLU: 'swish',
    nn.GELU: 'gelu',
    GELU: 'gelu',
}


def conv_act(conv: nn.Conv2d,
             act: nn.Module,
             x: Tensor,
             weight: Tensor,
             bias: Tensor | None,
             padding: tuple[int, int] | None = None,
             dilation: tuple[int, int] | None = None) -> Tensor:
    """``act(conv(x))`` with other weights.

    Args:
        conv: Its stride, padding, dilation and groups count.
        act: Activation.
        x: (B, C_in, H, W)
        weight: In place of ``conv.weight``.
        bias: In place of ``conv.bias``.
        padding: In place of ``conv.padding``.
        dilation: In place of ``conv.dilation``.

    Returns:
        (B, C_out, H', W')
    """
    padding, dilation = padding or conv.padding, dilation or conv.dilation
    post_op = x.dim() == 4 and _post_op(act, x, weight)
    if not post_op:
        return act(
            F.conv2d(x, weight, bias, conv.stride, padding, dilation,
                     conv.groups))
    return _CONV(x, weight, bias, padding, conv.stride, dilation, conv.groups,
                 post_op, [], 'none')


def join(parts: tuple[Tensor, ...],
         *layers: nn.Module) -> Tensor | tuple[Tensor, ...]:
    """Maps beside each other.

    Args:
        parts: Maps (B, C_i, H, W).
        layers: Run on the result one after another, those first that may
            return parts.

    Returns:
        (B, sum of C_i, H, W). The parts as they are where that is faster
        (large maps of one image, on a CPU without autograd), all layers take
        them, and nobody listens to one.
    """
    x = parts[0]
    if (not _runs_onednn(x, x) or len(x) != 1
            or x.shape[2] * x.shape[3] < _LARGE_MAP
            or not all(getattr(layer, 'takes_parts', False)
                       or type(layer) is nn.Identity for layer in layers)
            or is_observed(*(m for layer in layers for m in layer.modules()))):
        return torch.cat(parts, 1)
    return parts


def conv_parts(conv: nn.Conv2d, act: nn.Module, parts: tuple[Tensor, ...],
               weight: Tensor,
               bias: Tensor) -> Tensor | tuple[Tensor, ...]:
    """:func:`conv_act` of a map that is in parts.

    Args:
        conv: See :func:`conv_act`.
        act: See :func:`conv_act`.
        parts: From :func:`join`.
        weight: See :func:`conv_act`.
        bias: See :func:`conv_act`.

    Returns:
        (B, C_out, H', W'), or its parts where the convolution is depthwise.
    """
    widths = [x.shape[1] for x in parts]
    post_op = _post_op(act, parts[0], weight)
    depthwise = conv.groups == len(weight) == sum(widths)
    if not _runs_onednn(parts[0], weight) or not (
            conv.groups == 1 or depthwise and post_op):
        return conv_act(conv, act, torch.cat(parts, 1), weight, bias)
    geometry = conv.padding, conv.stride, conv.dilation
    if depthwise:
        return tuple(
            _CONV(*part, *geometry, len(part[1]), post_op, [], 'none')
            for part in zip(parts, weight.split(widths), bias.split(widths),
                            strict=True))
    first, *others = zip(parts, weight.split(widths, 1), strict=True)
    out = _CONV(*first, bias, *geometry, 1, 'none', [], 'none')
    for other in others:
        out = _ADD_CONV.binary(out, *other, None, *geometry, 1, 'add', 1.,
                               None, [], None)
    return act(out)


def layer_act(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """``act(layer(x))``, where these two do nothing else in one operator."""
    if is_traced() or not is_plain(layer) or is_observed(layer):
        return act(layer(x))
    weight = layer.weight
    post_op = _post_op(act, x, weight)
    if not post_op or (type(layer) is not nn.Conv2d
                       and x.numel() * weight.shape[0] < _POST_OP_MACS):
        return act(layer(x))
    if isinstance(layer, nn.Conv2d):
        return conv_act(layer, act, x, weight, layer.bias)
    out = _CONV(
        as_map(x), weight[..., None, None], layer.bias, (0, 0), (1, 1),
        (1, 1), 1, post_op, [], 'none')
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class FFN(nn.Sequential):
    """Layers, the last of them: linear, activation, linear."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        *first, fc1, act, fc2 = self
        for module in first:
            x = module(x)
        return fc2(layer_act(fc1, act, x))

    def __getitem__(self, index: int | slice) -> nn.Module:
        """A layer, or some of them in a row."""
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is of a class that does what its weights say.

    Wrappers, such as those of LoRA, and layers of derived classes, such as
    those of quantization, may do something else. :func:`is_observed` tells
    of single layers that somebody has changed.
    """
    return (type(layer) in _LAYERS
            and getattr(layer, 'padding_mode', 'zeros') == 'zeros'
            and not isinstance(getattr(layer, 'padding', 0), str))


def is_observed(*modules: nn.Module) -> bool:
    """Whether somebody listens to one of the modules or has changed it."""
    # what torch.compile cannot read stays out of its graphs
    if not is_traced() and (has_global_hook()
                            or any('forward' in vars(m) for m in modules)):
        return True
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
        or m._backward_pre_hooks for m in modules)


def _runs_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operators may run: float32, CPU, no autograd."""
    return (not torch.is_grad_enabled() and _CONV is not None
            and is_ordinary(x, weight))


def is_ordinary(x: Tensor, weight: Tensor,
                low_precision: bool = False) -> bool:
    """Whether these are plain float32 tensors on a CPU with oneDNN, and no
    transform, mode or graph sees what is done with them.

    Args:
        x: One of them.
        weight: The other.
        low_precision: Half of the bits, and autocast, do as well.
    """
    return not (
        # sizes are read last: a graph would depend on them
        is_transformed() or type(x) is not Tensor
        or type(weight) not in (Tensor, nn.Parameter)
        or not {x.dtype, weight.dtype} <= _DTYPES[low_precision]
        or not x.is_cpu or forward_ad._current_level >= 0
        or torch._C._is_any_autocast_enabled() and not low_precision
        # FlopCounterMode and its like know ordinary operators only
        or torch._C._len_torch_dispatch_stack()
        or not torch._C._get_mkldnn_enabled() or not x.numel())


def _post_op(act: nn.Module, x: Tensor, weight: Tensor) -> str | None:
    """oneDNN's name of the activation; None where it cannot run."""
    if (not _runs_onednn(x, weight) or is_observed(act)
            or getattr(act, 'approximate', 'none') != 'none'):
        return None
    return _POST_OPS.get(type(act))
