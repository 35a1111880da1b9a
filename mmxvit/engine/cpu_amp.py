# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Mixed precision on CPUs, where MMEngine's AmpOptimWrapper wants a GPU."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmxvit.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Train in mixed precision on a CPU; without effect on a GPU.

    Convolutions and products of matrices are computed in bfloat16, which has
    the range of float32: losses are not scaled. What follows them stays in it,
    but heads put out float32, and losses, RoI extractors and deformable
    convolutions are given it: mmcv's operators know no bfloat16 on CPUs. These
    parts are told by the names of their classes (``*Head``, ``*Loss``, ...).
    Depthwise convolutions with kernels above 3 x 3 or dilation run in float32,
    which is faster. Gradients that oneDNN (torch 2.8) gets wrong in bfloat16
    are avoided, see below. Weights, their gradients and the optimizer's state
    stay float32.

    ``tools/train.py --amp`` takes it where there is no GPU. The arguments are
    those of ``mmengine.optim.OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute what is inside in mixed precision."""
        for name, module in model.named_modules():
            kinds = [kind.__name__ for kind in type(module).__mro__]
            puts_out = name.endswith('conv_offset') or _any_ends(kinds, 'Head')
            # mmseg runs its heads past the hook, not their losses
            takes = _any_ends(kinds, 'Loss', 'CrossEntropy', 'RoIExtractor',
                              'DeformConv2d')
            if puts_out and _float32_output not in (
                    module._forward_hooks.values()):
                module.register_forward_hook(_float32_output)
            if takes and _float32_input not in (
                    module._forward_pre_hooks.values()):
                module.register_forward_pre_hook(_float32_input)
            if isinstance(module, nn.Conv2d):
                if module.groups > 1 and 'forward' not in vars(module) and (
                        max(module.kernel_size) > 3
                        or max(module.dilation) > 1):
                    module.forward = partial(_float32_forward, module)
                hooks = module._forward_pre_hooks.values()
                if module.padding_mode == 'zeros' and not isinstance(
                        module.padding, str) and max(module.padding) > 0 and (
                            _padded_input not in hooks):
                    module.register_forward_pre_hook(_padded_input)
        with super().optim_context(model), torch.autocast(
                'cpu', torch.bfloat16):
            yield


def _any_ends(names: list[str], *endings: str) -> bool:
    return any(name.endswith(endings) for name in names)


# The hooks stay outside of the context, too: activation checkpointing runs a
# module again in the backward pass.
def _float32_output(module: nn.Module, args: tuple, out: Any) -> Any:
    return _float32(out)


def _float32_input(module: nn.Module, args: tuple) -> tuple:
    return _float32(args)


def _float32_forward(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """For depthwise convolutions: oneDNN's gradients in bfloat16 take two to
    five times as long, and with dilation those of channels-last maps of 32
    columns or more come from memory that nobody wrote."""
    with torch.autocast('cpu', enabled=False):
        return type(conv).forward(conv, x.float()).to(x.dtype)


def _padded_input(module: nn.Conv2d, args: tuple) -> None:
    """Pad before the convolution instead of in it, if the map is so small
    that some weights see nothing but padding: oneDNN leaves the gradients of
    these unwritten."""
    sides = zip(args[0].shape[-2:], module.padding, strict=True)
    module.padding_mode = 'constant' if any(
        side <= padding for side, padding in sides) else 'zeros'


def _float32(value: Any) -> Any:
    """The same with float32 in place of bfloat16."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    if isinstance(value, dict):
        return type(value)((k, _float32(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        values = map(_float32, value)
        named = hasattr(value, '_fields')
        return type(value)(*values) if named else type(value)(values)
    return value
