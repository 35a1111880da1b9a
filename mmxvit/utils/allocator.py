# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Keep freed CPU tensors in the process instead of returning them."""
import ctypes
import os
import sys

ENV_SWITCH = 'MMXVIT_TUNE_MALLOC'

# Parameter numbers of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4


def tune_allocator() -> bool:
    """Let glibc's malloc keep and reuse the memory of freed tensors.

    By default glibc serves every request above at most 32 MiB by ``mmap``
    and unmaps it as soon as it is freed, and it trims the heap when enough
    of its top is free. A network allocates and frees such a tensor in every
    layer, so the kernel hands out (and zeroes) the same pages over and over;
    at high resolution these page faults cost more than the arithmetic. After
    this call requests up to 1 GiB come from the heap, which is given back
    only when 2 GiB of its top are free. The price is a resident size that
    stays near its peak.

    The setting belongs to the process: forked children (the workers of a
    ``DataLoader``) inherit it, spawned ones have to call this function
    themselves. It is never called by ``import mmxvit``; every command in
    ``tools/`` and ``demo/`` calls it first. ``MMXVIT_TUNE_MALLOC=0`` in the
    environment switches it off. Another allocator that is preloaded
    (jemalloc, tcmalloc) does not read the setting and is not disturbed.

    Returns:
        bool: True if the setting is in effect; False where nothing was
        done (switched off, not Linux, not glibc) or glibc refused it.
    """
    if os.environ.get(ENV_SWITCH, '1').lower() in ('0', 'off', 'false'):
        return False
    if not sys.platform.startswith('linux'):
        return False
    libc = ctypes.CDLL(None)
    # musl has no such symbol, and its malloc has no such options.
    if not hasattr(libc, 'gnu_get_libc_version'):
        return False

    def mallopt(param: int, value: int) -> bool:
        return libc.mallopt(ctypes.c_int(param), ctypes.c_int(value)) == 1

    # Older glibc refuses a threshold above half of its arena heap size
    # (32 MiB); there mmap is switched off for requests of any size.
    reuse = (mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_MAX, 0))
    keep = mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    pad = mallopt(M_TOP_PAD, 256 << 20)
    return reuse and keep and pad
