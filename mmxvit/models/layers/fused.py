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
from torch.nn.modules.module import _has_any_global_hook

from ..attentions.linear import Linear, PointwiseConv, as_map, is_small
from ..attentions.utils import is_traced
from .norm_act import GELU, SiLU

# what torch.compile turns a convolution and an activation into; not in every
# build of torch
_CONV = getattr(torch.ops.mkldnn, '_convolution_pointwise', None)
# exact classes; one derived from them may do something else
_LAYERS = (nn.Conv2d, PointwiseConv, nn.Linear, Linear)
_POST_OPS = {
    nn.Identity: 'none',
    nn.ReLU: 'relu',
    nn.SiLU: 'swish',
    SiLU: 'swish',
    nn.GELU: 'gelu',
    GELU: 'gelu',
}


def conv_act(conv: nn.Conv2d, act: nn.Module, x: Tensor, weight: Tensor,
             bias: Tensor | None) -> Tensor:
    """``act(conv(x))`` with other weights.

    Args:
        conv: Its stride, padding, dilation and groups count.
        act: Activation.
        x: (B, C_in, H, W)
        weight: In place of ``conv.weight``.
        bias: In place of ``conv.bias``.

    Returns:
        (B, C_out, H', W')
    """
    post_op = x.dim() == 4 and _post_op(act, x, weight)
    if not post_op:
        return act(
            F.conv2d(x, weight, bias, conv.stride, conv.padding,
                     conv.dilation, conv.groups))
    return _CONV(x, weight, bias, conv.padding, conv.stride, conv.dilation,
                 conv.groups, post_op, [], 'none')


def layer_act(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """``act(layer(x))``, where these two do nothing else in one operator."""
    if is_traced() or not is_plain(layer) or is_observed(layer, act):
        return act(layer(x))
    post_op = _post_op(act, x, layer.weight)
    if not post_op:
        return act(layer(x))
    if isinstance(layer, nn.Conv2d):
        return conv_act(layer, act, x, layer.weight, layer.bias)
    if is_small(x, layer.weight):
        return act(layer(x))
    out = _CONV(
        as_map(x), layer.weight[..., None, None], layer.bias, (0, 0), (1, 1),
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
    """Whether a layer is known to do what its weights say and no more.

    Wrappers, such as those of LoRA, and layers of derived classes, such as
    those of quantization, may do something else.
    """
    # what torch.compile cannot read stays out of its graphs
    return (type(layer) in _LAYERS
            and (is_traced() or 'forward' not in vars(layer))
            and getattr(layer, 'padding_mode', 'zeros') == 'zeros'
            and not isinstance(getattr(layer, 'padding', 0), str))


def is_observed(*modules: nn.Module) -> bool:
    """Whether somebody listens to one of the modules."""
    return (not is_traced() and _has_any_global_hook()) or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
        or m._backward_pre_hooks for m in modules)


def _post_op(act: nn.Module, x: Tensor, weight: Tensor) -> str | None:
    """oneDNN's name of the activation; None where it cannot run."""
    if (_CONV is None or type(x) is not Tensor or not x.numel()
            or type(weight) not in (Tensor, nn.Parameter)
            or not x.dtype == weight.dtype == torch.float32
            or not x.is_cpu or torch.is_grad_enabled() or is_traced()
            or forward_ad._current_level >= 0
            or torch._C._is_any_autocast_enabled()
            # FlopCounterMode and its like know ordinary operators only
            or torch._C._len_torch_dispatch_stack()
            or not torch._C._get_mkldnn_enabled()
            or getattr(act, 'approximate', 'none') != 'none'):
        return None
    return _POST_OPS.get(type(act))
