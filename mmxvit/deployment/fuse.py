# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Fold BatchNorms into the convolutions beside them.

mmcv's ``fuse_conv_bn`` takes the order in which layers were created for that
in which they run. Here a pair is folded only where the code that calls it is
known: a table holds the ``forward`` functions that say so.
"""
import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class _VectorLinear(nn.Linear):
    """Linear layer of (B, C) inputs.

    With three axes a linear layer has its channels in the last one, and a
    BatchNorm in the second.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in) -> (B, C_out)"""
        if x.dim() != 2:
            raise ValueError('a linear layer with a folded BatchNorm takes '
                             f'(B, C), got the shape {tuple(x.shape)}; use '
                             'this model without fuse')
        return super().forward(x)


_CONVS = ('Conv1d', 'Conv2d', 'Conv3d')
_TRANSPOSED = ('ConvTranspose1d', 'ConvTranspose2d', 'ConvTranspose3d')
# Exact classes; one derived from them may do something else to its weights.
_LAYERS = {
    *(getattr(nn, name) for name in (*_CONVS, *_TRANSPOSED, 'Linear')),
    _VectorLinear,
    # by name, as mmcv need not be installed
    *(f'mmcv.cnn.bricks.wrappers.{name}'
      for name in ('Conv2d', 'Conv3d', 'ConvTranspose2d', 'ConvTranspose3d',
                   'Linear')),
    'mmcv.cnn.bricks.conv2d_adaptive_padding.Conv2dAdaptivePadding',
}


def _name(thing: type | Callable) -> str:
    return f'{thing.__module__}.{thing.__qualname__}'


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a model for inference, its BatchNorms folded away.

    A BatchNorm in eval mode multiplies and adds one number per channel. That
    becomes a part of the weights and the bias of the convolution or linear
    layer whose output it gets, or, where the convolution pads nothing with
    zeros, of the one that gets its output. In the BatchNorm's place is then
    a ``torch.nn.Identity``.

    Known are the layers of this package, mmcv's ConvModule, the residual
    networks and HRNet of mmdet, mmseg and mmpretrain, and neighbours in a
    ``torch.nn.Sequential``. All other BatchNorms stay, and so do those beside
    which a hook or a parametrization is registered or a ``forward`` has been
    replaced.

    Args:
        model: Any module in eval mode, a backbone as well as a whole model of
            mmdet, mmseg or mmpretrain. Stays as it is.

    Returns:
        The copy, with equal outputs but for rounding. It is of no use for
        training or for loading checkpoints: load them first.

    Raises:
        ValueError: The model, or a part of it, is in training mode.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f'{name or type(model).__name__} is in training mode, in '
                'which BatchNorm depends on the batch: call model.eval() '
                'before fuse(model)')
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        for first, second in _steps(module):
            _fold(module, first, second)
    return fused


def _steps(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Children whose output is the input of another, and only that."""
    forward = type(module).forward
    if 'forward' in vars(module):  # somebody has changed it
        return
    if forward is nn.Sequential.forward:
        yield from pairwise(module._modules)
    elif _name(forward) in _STEPS:
        yield from _STEPS[_name(forward)](module)


def _of_conv_module(module: nn.Module) -> Iterator[tuple[str, str]]:
    # with this option of mmcv they fold while they run
    if module.with_norm and not module.efficient_conv_bn_eval_forward:
        names = dict(conv='conv', norm=module.norm_name)
        for first, second in pairwise(module.order):
            padded = module.with_explicit_padding and second == 'conv'
            if first in names and second in names and not padded:
                yield names[first], names[second]


def _of_numbered(module: nn.Module) -> Iterator[tuple[str, str]]:
    """conv1, norm1, conv2, norm2, ..., norms under names of their own."""
    for i in range(1, 4):
        norm = getattr(module, f'norm{i}_name', None)
        if norm:
            yield f'conv{i}', norm


# By the function that calls them, so that a class with a forward of its own
# does not count.
_STEPS = {
    'mmxvit.models.layers.conv.ConvNormAct.forward':
    lambda module: [('conv', 'norm')],
    'mmcv.cnn.bricks.conv_module.ConvModule.forward': _of_conv_module,
    **{
        f'{package}.models.backbones.{name}.forward': _of_numbered
        for package in ('mmdet', 'mmseg', 'mmpretrain')
        for name in ('resnet.BasicBlock', 'resnet.Bottleneck',
                     'resnet.ResNet', 'hrnet.HRNet')
    },
}


def _fold(parent: nn.Module, first: str, second: str) -> None:
    """Replace a layer and the BatchNorm before or after it, if they are."""
    layers = [parent._modules.get(name) for name in (first, second)]
    if any(layer is None or _is_observed(layer) for layer in layers):
        return
    if _is_layer(layers[0]) and _is_norm(layers[1]):
        folded = _after(*layers)
    elif _is_norm(layers[0]) and _is_layer(layers[1]):
        folded = _before(*layers)
    else:
        return
    if folded is not None:
        norm = _is_norm(layers[0])
        # a new one: the same layer may serve elsewhere with another norm
        setattr(parent, second if norm else first, folded)
        setattr(parent, first if norm else second, nn.Identity())


def _is_observed(module: nn.Module) -> bool:
    return 'forward' in vars(module) or any((
        module._forward_hooks, module._forward_pre_hooks,
        module._backward_hooks, module._backward_pre_hooks))


def _is_layer(module: nn.Module) -> bool:
    return type(module) in _LAYERS or _name(type(module)) in _LAYERS


def _is_norm(module: nn.Module) -> bool:
    return (isinstance(module, _BatchNorm) and type(module).forward in
            (_BatchNorm.forward, nn.SyncBatchNorm.forward)
            and module.running_mean is not None)


def _exact(x: Tensor) -> Tensor:
    # not every device has float64
    return x.detach().to('cpu', torch.float64)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, (C, ) in float64."""
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * _exact(norm.weight)
    shift = -_exact(norm.running_mean) * scale
    return scale, shift + _exact(norm.bias) if norm.affine else shift


def _after(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    """Norm of the layer's output; None where it cannot be folded."""
    scale, shift = _affine(norm)
    weight = _exact(layer.weight)
    axis = 0
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        if layer.groups != 1:
            return None
        axis = 1
    if len(scale) != weight.shape[axis]:
        return None
    weight = weight * scale.view(-1, *[1] * (weight.dim() - 1 - axis))
    if layer.bias is not None:
        shift = shift + _exact(layer.bias) * scale
    return _with_weights(layer, weight, shift)


def _before(norm: nn.Module, layer: nn.Module) -> nn.Module | None:
    """Norm of the layer's input; None where it cannot be folded."""
    scale, shift = _affine(norm)
    weight = _exact(layer.weight)
    groups = 1
    if not isinstance(layer, nn.Linear):
        # zeros at the border would have to be zeros after the norm
        pads = layer.padding_mode == 'zeros' and layer.padding not in (
            'valid', (0, ) * (weight.dim() - 2))
        if pads or _name(type(layer)).rpartition('.')[2] not in _CONVS:
            return None
        groups = layer.groups
    if len(scale) != groups * weight.shape[1]:
        return None
    # (out, in / groups, 1, ...) for each output its group's inputs
    shape = (len(weight), weight.shape[1], *[1] * (weight.dim() - 2))
    scale, shift = (
        t.view(groups, -1).repeat_interleave(len(weight) // groups,
                                             0).view(shape)
        for t in (scale, shift))
    bias = (weight * shift).flatten(1).sum(1)
    if layer.bias is not None:
        bias = bias + _exact(layer.bias)
    return _with_weights(layer, weight * scale, bias)


def _with_weights(layer: nn.Module, weight: Tensor,
                  bias: Tensor) -> nn.Module:
    folded = copy.deepcopy(layer)
    old = layer.weight
    folded.weight = nn.Parameter(weight.to(old), old.requires_grad)
    folded.bias = nn.Parameter(bias.to(old), old.requires_grad)
    if isinstance(folded, nn.Linear):
        folded.__class__ = _VectorLinear
    return folded
