# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Norm and activation layers from the mm* packages' config dicts.

mmcv has builders of its own; these serve users who have torch and MMEngine
only.
"""
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..attentions.utils import may_overwrite

_NORMS = {
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'GN': nn.GroupNorm,
    'IN': nn.InstanceNorm2d,
    'IN2d': nn.InstanceNorm2d,
}


def build_norm(cfg: dict, channels: int) -> nn.Module:
    """Norm layer over the channels of (B, C, H, W) maps.

    Args:
        cfg: ``dict(type=..., requires_grad=True, **kwargs)`` as in the mm*
            packages: BN, SyncBN, GN, IN, or a norm layer in MMEngine's MODELS
            registry (mmcv registers more) that takes the channel count first.
        channels: C.

    Raises:
        ValueError: The type is unknown.
    """
    kwargs = dict(cfg)
    name = kwargs.pop('type')
    requires_grad = kwargs.pop('requires_grad', True)
    norm_class = _NORMS.get(name) or MODELS.get(name)
    if norm_class is None:
        raise ValueError(f'norm_cfg: unknown type {name!r}; known are '
                         f'{", ".join(_NORMS)} and what mmcv registers')
    if norm_class is nn.GroupNorm:
        kwargs['num_channels'] = channels
        norm = norm_class(**kwargs)
    else:
        norm = norm_class(channels, **kwargs)
    for parameter in norm.parameters():
        parameter.requires_grad = requires_grad
    return norm


class GELU(nn.GELU):
    """GELU whose result takes the place of its input without autograd."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return F.gelu(x, approximate=self.approximate,
                      **dict(out=x) if may_overwrite() else {})


class SiLU(nn.SiLU):
    """SiLU whose result takes the place of its input without autograd."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return F.silu(x, self.inplace or may_overwrite())


_ACTS = {'GELU': GELU, 'SiLU': SiLU}


def build_act(cfg: dict) -> nn.Module:
    """Activation layer, ``dict(type='SiLU', ...)``, of maps nobody else needs.

    GELU and SiLU write over their input where autograd does not need it.

    Args:
        cfg: A class of torch.nn, or one in MMEngine's MODELS registry (mmcv
            registers more), and its keywords.

    Raises:
        ValueError: There is no such class.
    """
    kwargs = dict(cfg)
    name = kwargs.pop('type')
    act_class = _ACTS.get(name) or getattr(nn, name, None) or MODELS.get(name)
    if act_class is None:
        raise ValueError(f'act_cfg: unknown type {name!r}; use a class of '
                         "torch.nn such as 'SiLU', 'ReLU', 'GELU', "
                         "'Hardswish', or what mmcv registers")
    return act_class(**kwargs)
