# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Mixed precision on CPUs, where MMEngine's AmpOptimWrapper wants a GPU."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmxvit.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Train in mixed precision on a CPU.

    Convolutions and products of matrices are computed in bfloat16, which has
    the range of float32: losses are not scaled. They get float32, and so do
    mmcv's NMS and RoIAlign, which know no bfloat16 on CPUs; nor do its
    deformable convolutions, which therefore end in torch's error here.
    Weights, their gradients and the optimizer's state stay float32.

    Quicker on CPUs with instructions for bfloat16 (``lscpu`` lists
    ``avx512_bf16`` or ``amx_bf16``), slower on others. ``tools/train.py
    --amp`` takes it where there is no GPU.

    Args:
        kwargs: Those of ``mmengine.optim.OptimWrapper``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._prepared: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute what is inside in mixed precision."""
        if self._prepared is not model:
            for module in model.modules():
                name = type(module).__name__
                if name.endswith('Head'):  # NMS comes behind
                    module.register_forward_hook(_float32_output)
                # mmseg runs its heads past the hook, not their losses
                elif name.endswith(('Loss', 'RoIExtractor')):
                    module.register_forward_pre_hook(_float32_input)
            self._prepared = model
        with super().optim_context(model), torch.autocast(
                'cpu', torch.bfloat16):
            yield


def _float32_output(head: nn.Module, args: tuple, out: Any) -> Any:
    return _float32(out)


def _float32_input(module: nn.Module, args: tuple) -> tuple:
    return _float32(args)


def _float32(value: Any) -> Any:
    """The same with float32 in place of bfloat16."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_float32, value))
    if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    return value
