# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch
from torch import Tensor

from mmxvit.utils.compat import is_compiling

HALF = (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in HALF else x


def is_traced() -> bool:
    """Whether what runs becomes a graph that other sizes use as well."""
    return torch.jit.is_tracing() or is_compiling()


def is_transformed() -> bool:
    """Whether a graph or a transform of ``torch.func`` is being made."""
    return (is_traced()
            or torch._C._functorch.peek_interpreter_stack() is not None)


def may_overwrite() -> bool:
    """Whether neither autograd nor a transform asks again for what a tensor
    holds now.
    """
    return not (torch.is_grad_enabled() or is_transformed())
