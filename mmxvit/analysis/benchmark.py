# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Latency of several models, measured in turns."""
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from mmxvit.deployment.fuse import fuse
from mmxvit.version import __version__

from .models import build_model, random_images, run_model

WARMUP_ROUNDS = 3


@dataclass(frozen=True)
class Settings:
    """What is measured; every model gets the same.

    Attributes:
        sizes: (H, W) of the images.
        batch: Images per step.
        mode: ``'infer'``: forward in eval mode; ``'train'``: forward and
            backward in training mode (no optimizer step).
        dtype: Weights and images: float32, bfloat16 or float16.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads of an operator.
        fuse: Fold BatchNorms away by :func:`mmxvit.fuse`, before timing.
        channels_last: NHWC memory order of weights and images.
        compile: ``torch.compile`` (not applied to peak memory).
        rounds: Fewest steps of each model at each size.
        min_time: Fewest seconds measured at each size, all models together.
    """
    sizes: tuple[tuple[int, int], ...]
    batch: int = 1
    mode: str = 'infer'
    dtype: str = 'float32'
    device: str = 'cpu'
    threads: int = 2
    fuse: bool = False
    channels_last: bool = False
    compile: bool = False
    rounds: int = 20
    min_time: float = 2.

    def __post_init__(self) -> None:
        if self.fuse and self.mode == 'train':
            raise ValueError('fuse folds BatchNorm away, which training '
                             'needs; expected mode infer')
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise ValueError('device cuda: torch sees no CUDA device')


def prepare(cfg: dict, settings: Settings) -> nn.Module:
    """Build a model with seeded random weights, ready for its steps."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    model = build_model(cfg)
    # some backbones return None from eval() and train()
    if settings.mode == 'train':
        model.train()
    else:
        model.eval()
    if settings.fuse:
        model = fuse(model)
    model.to(settings.device, getattr(torch, settings.dtype))
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    return model


def make_images(model: nn.Module, size: tuple[int, int],
                settings: Settings) -> Tensor:
    """(B, 3, H, W) in the device, dtype and memory order of a model."""
    images = random_images((settings.batch, 3, *size), model)
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images


def train_step(model: nn.Module, images: Tensor) -> None:
    """Forward and backward of the sum of the means of all outputs."""
    outputs = _tensors(run_model(model, images))
    sum(t.float().mean() for t in outputs if t.requires_grad).backward()
    model.zero_grad(set_to_none=True)


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors in nested sequences and dicts."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    elif not isinstance(outputs, (list, tuple)):
        return []
    return [t for o in outputs for t in _tensors(o)]


def time_in_turns(steps: dict[str, Callable[[], None]],
                  rounds: int,
                  min_time: float,
                  sync: Callable[[], None],
                  progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of each step, A B C A B C ..., so that drift hits all alike.

    The first ``WARMUP_ROUNDS`` rounds are not counted. It ends when
    ``rounds`` rounds and ``min_time`` seconds were.

    Args:
        steps: Functions by name.
        rounds: Fewest rounds.
        min_time: Fewest seconds, all steps together.
        sync: Called before each reading of the clock.
        progress: Gets a line after each round.
    """
    seconds = {name: [] for name in steps}
    done, spent = -WARMUP_ROUNDS, 0.
    with _no_gc():
        while done < rounds or spent < min_time:
            latest = {}
            for name, step in steps.items():
                sync()
                start = time.perf_counter()
                step()
                sync()
                latest[name] = time.perf_counter() - start
            done += 1
            if done > 0:
                spent += sum(latest.values())
                for name, value in latest.items():
                    seconds[name].append(value)
            progress((f'round {done}/{rounds}' if done > 0 else 'warm-up') +
                     ''.join(f', {n} {v * 1e3:.1f} ms'
                             for n, v in latest.items()))
    return seconds


@contextmanager
def _no_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def measure_latency(
        models: dict[str, dict], settings: Settings,
        progress: Callable[[str], None]
) -> dict[tuple[str, tuple[int, int]], list[float]]:
    """Time all models in this process.

    Args:
        models: Configs for ``build_model`` by name.
        settings: The same for all.
        progress: Gets a line after each round.

    Returns:
        dict: Seconds of each counted step by (name, (H, W)); none for a model
        that runs out of the GPU's memory at that size.
    """
    built = {}
    for name, cfg in models.items():
        progress(f'building {name}')
        built[name] = prepare(cfg, settings)
    if settings.compile:
        built = {name: torch.compile(m) for name, m in built.items()}
    train = settings.mode == 'train'
    sync = torch.cuda.synchronize if settings.device == 'cuda' else _nothing
    result = {}
    for size in settings.sizes:
        steps = {}
        for name, model in built.items():
            images = make_images(model, size, settings)
            function = train_step if train else run_model
            steps[name] = _bind(function, model, images)
        with torch.inference_mode(not train):
            fitting = {n: s for n, s in steps.items() if _fits(s)}
            seconds = time_in_turns(
                fitting, settings.rounds, settings.min_time, sync,
                lambda line, size=size: progress(f'{size_name(size)} {line}')
            ) if fitting else {}
        result.update({(n, size): seconds.get(n, []) for n in steps})
    return result


def _fits(step: Callable[[], None]) -> bool:
    """Whether a step has enough memory on the GPU."""
    try:
        step()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _nothing() -> None:
    # CPU operators have ended when they return
    pass


def _bind(function: Callable, *args) -> Callable[[], None]:
    # the result is dropped here, so that freeing it is timed as well
    def step() -> None:
        function(*args)

    return step


def size_name(size: tuple[int, int]) -> str:
    """512x512, height first."""
    return f'{size[0]}x{size[1]}'


def environment(device: str) -> dict[str, str]:
    """Machine, versions and date, to be kept beside the figures."""
    if device == 'cuda':
        device_name = torch.cuda.get_device_name()
    else:
        device_name = _cpu_name()
    return dict(
        device_name=device_name,
        cpu_count=str(os.cpu_count()),
        torch=torch.__version__,
        python=platform.python_version(),
        commit=_commit(),
        date=time.strftime('%Y-%m-%dT%H:%M:%S%z'))


def _commit() -> str:
    """Commit of the source tree, or the version of an installed package."""
    folder = Path(__file__).parent
    if (folder.parents[1] / '.git').exists():
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--exclude', '*'],
            cwd=folder, capture_output=True, text=True)
        if done.returncode == 0:
            return f'commit {done.stdout.strip()}'
    return f'version {__version__}'


def _cpu_name() -> str:
    if sys.platform.startswith('linux'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            for line in file:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
