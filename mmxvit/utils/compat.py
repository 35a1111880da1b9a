# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What differs between the versions of packages that are supported."""
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from torch.nn.modules import module

_torch = Version(torch.__version__)

# torch 2.1 and 2.2 have no public one
is_compiling = getattr(
    torch.compiler, 'is_compiling', torch._utils.is_compiling)


def has_global_hook() -> bool:
    """Whether a hook listens to all modules; torch 2.1 cannot tell."""
    return any((module._global_forward_hooks,
                module._global_forward_pre_hooks,
                module._global_backward_hooks,
                module._global_backward_pre_hooks))


# From torch 2.2 on a storage keeps its Python object for life, so that a weak
# reference tells when the memory is freed.
_PROBE = torch.empty(1)
STORAGE_HAS_IDENTITY: bool = (
    _PROBE.untyped_storage() is _PROBE.untyped_storage())


def math_attention() -> AbstractContextManager:
    """Attention as plain products; torch 2.1 and 2.2 have another name."""
    if _torch >= Version('2.3'):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        return sdpa_kernel(SDPBackend.MATH)
    return torch.backends.cuda.sdp_kernel(
        enable_flash=False, enable_math=True, enable_mem_efficient=False)


# torch 2.2 and newer compile a module in its place
MODULES_COMPILE: bool = hasattr(torch.nn.Module, 'compile')

# oneDNN's convolutions with an activation, and with a map that is added; not
# in every build of torch. The oneDNN of torch 2.1 reads an activation whose
# memory is free, once more than 1024 layers and sizes were run: wrong values,
# or a crash. That of 2.8 does not; those between have not been tried.
_ops = torch.ops.mkldnn if _torch >= Version('2.8') else None
conv_pointwise = getattr(_ops, '_convolution_pointwise', None)
conv_pointwise_add = getattr(_ops, '_convolution_pointwise_', None)

# torch 2.7 and newer load safe globals under a name of choice
NAMED_SAFE_GLOBALS: bool = _torch >= Version('2.7')

# torch 2.5 and newer have two exporters; this is that of all versions
ONNX_EXPORTER: dict[str, Any] = (
    dict(dynamo=False) if _torch >= Version('2.5') else {})

# numpy 2 renamed numpy.core; a _core of 1.26 is there, but empty
numpy_core: ModuleType = (
    np._core if Version(np.__version__).major > 1 else np.core)
