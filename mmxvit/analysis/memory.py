# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Peak memory of a step, counted from the tensors that are alive."""
import multiprocessing
import sys
import weakref
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmxvit.utils.allocator import tune_allocator
from mmxvit.utils.compat import STORAGE_HAS_IDENTITY

from .benchmark import Settings, make_images, prepare, train_step
from .models import random_images, run_model


class LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors that operators return.

    Memory inside an operator (im2col, packed weights) is not seen. Storages
    given to ``ignore`` before are left out, with all views of them.

    Attributes:
        live: Bytes alive now.
        peak: Highest ``live`` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._users = Counter()
        self._refs = {}

    def ignore(self, tensor: Tensor) -> None:
        """Leave a tensor out that outlives the measurement (a weight)."""
        self._refs[id(tensor)] = None
        self._users[self._key(tensor)] += 1

    def add(self, tensor: Tensor) -> None:
        """Count a tensor until its memory is freed."""
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        # a weak reference to the tensor misses what autograd alone keeps
        # (outputs saved for backward)
        anchor = storage if STORAGE_HAS_IDENTITY else tensor
        if id(anchor) in self._refs:
            return
        key, size = self._key(tensor), storage.nbytes()
        ident = id(anchor)

        def freed(_, key=key, ident=ident, size=size) -> None:
            del self._refs[ident]
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self.live -= size

        self._refs[ident] = weakref.ref(anchor, freed)
        self._users[key] += 1
        if self._users[key] == 1:
            self.live += size
            self.peak = max(self.peak, self.live)

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_flatten(out)[0]:
            if isinstance(value, Tensor):
                self.add(value)
        return out


def peak_live_bytes(model: torch.nn.Module, images: Tensor,
                    train: bool = False) -> int:
    """Highest sum of live tensor bytes in a step, weights left out.

    Args:
        model: In the mode it is to run in.
        images: (B, C, H, W), counted as well.
        train: Forward and backward instead of forward.
    """
    tracker = LiveBytes()
    for tensor in [*model.parameters(), *model.buffers()]:
        tracker.ignore(tensor)
    tracker.add(images)
    # inference_mode would hide the operators inside composite ones
    with nullcontext() if train else torch.no_grad(), tracker:
        (train_step if train else run_model)(model, images)
    return tracker.peak


def bytes_per_image(model: torch.nn.Module, size: tuple[int, int]) -> int:
    """What one more image adds to the peak of a training step.

    Args:
        model: In training mode, with the weights that are trained.
        size: (H, W) of the images.
    """
    few, more = (
        peak_live_bytes(
            model, random_images((batch, 3, *size), model), train=True)
        for batch in (2, 4))
    return (more - few) // 2


def measure_memory(cfg: dict, settings: Settings,
                   tuned: bool) -> dict[tuple[int, int], dict[str, int]]:
    """Peak memory at each size, on the CPU in a new process of its own.

    Returns:
        dict: By (H, W), in bytes: ``weights`` (parameters and buffers);
        ``peak_live``, see :func:`peak_live_bytes`; ``peak_process``, the
        highest resident size of the process up to and including this size
        (on CUDA the highest sum that torch's allocator handed out). The sizes
        run in growing order; those for which a GPU has too little memory are
        left out.
    """
    if settings.device == 'cuda':  # torch's allocator knows its peaks
        return _measure_here(cfg, settings, False)
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_here, cfg, settings, tuned).result()


def _measure_here(cfg: dict, settings: Settings,
                  tuned: bool) -> dict[tuple[int, int], dict[str, int]]:
    if tuned:
        tune_allocator()
    model = prepare(cfg, settings)
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    train = settings.mode == 'train'
    result = {}
    for size in sorted(settings.sizes, key=lambda s: s[0] * s[1]):
        images = make_images(model, size, settings)
        if settings.device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        try:
            # once plainly: the resident size is that of an ordinary step
            with torch.inference_mode(not train):
                (train_step if train else run_model)(model, images)
            process = _peak_process(settings.device)
            live = peak_live_bytes(model, images, train)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        result[size] = dict(
            weights=weights, peak_live=live, peak_process=process)
    return result


def _peak_process(device: str) -> int:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    if sys.platform.startswith('linux'):
        # ru_maxrss of a child starts with what its parent had reached
        with open('/proc/self/status', encoding='utf-8') as file:
            for line in file:
                if line.startswith('VmHWM:'):
                    return int(line.split()[1]) * 1024
    import resource  # not on Windows
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
