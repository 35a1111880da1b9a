# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What stands behind ``tools/`` and ``demo/``: runs, checks, hooks.

MMEngine imports this package when it looks up a hook or an optimizer wrapper
constructor, so it takes no task package along; the modules behind the
commands are imported by them.
"""
from .cpu_amp import CPUAmpOptimWrapper
from .hooks import AtomicCheckpointHook, CompileHook, FuseHook, LoggerHook
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook', 'CPUAmpOptimWrapper', 'CompileHook', 'FuseHook',
    'LayerDecayOptimWrapperConstructor', 'LoggerHook'
]
