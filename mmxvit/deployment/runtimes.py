# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Run ONNX files in ONNX Runtime and OpenVINO, beside torch."""
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from mmxvit.analysis.benchmark import (
    Settings,
    prepare,
    size_name,
    time_in_turns,
)
from mmxvit.analysis.models import random_images

from .fuse import fuse
from .onnx_export import INPUT, export_onnx, raw_outputs, require

Runner = Callable[[Tensor], list[Tensor]]
"""Images (B, 3, H, W) to the outputs in the order of the file."""

PACKAGES = ('onnxruntime', 'openvino')


def run_torch(model: nn.Module, threads: int) -> Runner:
    """The model itself, its BatchNorms folded as in the file."""
    model = fuse(model)

    @torch.inference_mode()
    def run(images: Tensor) -> list[Tensor]:
        torch.set_num_threads(threads)
        return list(raw_outputs(model, images).values())

    return run


def run_onnxruntime(path: str | Path, threads: int) -> Runner:
    """An ONNX file in ONNX Runtime, on the CPU in float32."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # or its idle threads would take time from whoever is measured next
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {INPUT: images.numpy()})
        return [torch.from_numpy(x) for x in outputs]

    return run


def run_openvino(path: str | Path, threads: int) -> Runner:
    """An ONNX file in OpenVINO, on the CPU in float32."""
    import openvino
    compiled = openvino.Core().compile_model(
        str(path), 'CPU',
        dict(
            INFERENCE_NUM_THREADS=threads,
            PERFORMANCE_HINT='LATENCY',
            # else bfloat16 where the processor has it
            INFERENCE_PRECISION_HINT='f32'))
    request = compiled.create_infer_request()

    def run(images: Tensor) -> list[Tensor]:
        request.infer({INPUT: images.numpy()}, share_inputs=True)
        # the request's own memory, which the next call overwrites
        return [torch.from_numpy(t.data.copy())
                for t in request.output_tensors]

    return run


def make_runners(model: nn.Module, path: str | Path,
                 threads: int = 2) -> dict[str, Runner]:
    """``torch``, ``onnxruntime`` and ``openvino`` for a model and its file.

    Raises:
        UserError: onnxruntime or openvino is not installed.
    """
    require(*PACKAGES)
    return dict(
        torch=run_torch(model, threads),
        onnxruntime=run_onnxruntime(path, threads),
        openvino=run_openvino(path, threads))


def differences(
    runners: dict[str, Runner], shapes: Sequence[tuple[int, int, int]]
) -> dict[tuple[str, tuple[int, int, int]], float]:
    """How far the outputs of the runtimes are from torch's.

    Args:
        runners: From :func:`make_runners`.
        shapes: (batch, H, W) of the images.

    Returns:
        By runtime and shape: the largest difference of an output over the
        largest absolute value of that output; 0 if they are equal. Infinite
        where shapes differ, or a value is not finite.
    """
    result = {}
    for shape in shapes:
        batch, *size = shape
        images = random_images((batch, 3, *size), nn.Identity())
        expected = runners['torch'](images)
        for name in PACKAGES:
            result[name, shape] = max(
                map(_difference, runners[name](images), expected))
    return result


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or not (
            found.isfinite().all() and expected.isfinite().all()):
        return float('inf')
    difference = (found - expected).abs().max()
    return float(difference / expected.abs().max()) if difference else 0.


def check_shapes(model: nn.Module,
                 size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(batch, H, W) at which a file of a model should be tried.

    The size itself, and two others that are no multiples of 32 unless the
    model is for such multiples only, as YOLOv3 is.
    """
    height, width = size
    shapes = [(1, height, width), (2, height + 13, width + 38),
              (3, max(height // 2, 32) + 33, max(width // 2, 32) + 7)]
    try:
        with torch.no_grad():
            for batch, *other in shapes[1:]:
                raw_outputs(model, random_images((batch, 3, *other), model))
    except RuntimeError:
        shapes = [(batch, *(-(-side // 32) * 32 for side in other))
                  for batch, *other in shapes]
    return shapes


def runtime_latency(
    models: dict[str, dict], settings: Settings,
    progress: Callable[[str], None]
) -> dict[tuple[str, str, tuple[int, int]], list[float]]:
    """Time models in torch, ONNX Runtime and OpenVINO, all in turns.

    Args:
        models: Configs for ``build_model`` by name.
        settings: Sizes, batch, threads, rounds and least time. All have their
            BatchNorms folded; torch runs on the CPU in float32 as well.
        progress: Gets a line after each round.

    Returns:
        Seconds of each counted step by (name, runtime, (H, W)).

    Raises:
        UserError: A package is not installed, or a model cannot be exported.
    """
    require('onnx', *PACKAGES)
    settings = Settings(
        settings.sizes, settings.batch, threads=settings.threads,
        rounds=settings.rounds, min_time=settings.min_time)
    result = {}
    for size in settings.sizes:  # files of some peers take no other
        runners = {}
        with tempfile.TemporaryDirectory() as folder:
            for i, (name, cfg) in enumerate(models.items()):
                progress(f'{size_name(size)} exporting {name}')
                model = prepare(cfg, settings)
                path = Path(folder) / f'{i}.onnx'
                export_onnx(model, path, size)
                for runtime, run in make_runners(model, path,
                                                 settings.threads).items():
                    runners[name, runtime] = run
        result.update(time_runners(
            runners, replace(settings, sizes=(size, )), progress))
    return result


def time_runners(runners: dict[tuple[str, ...], Runner], settings: Settings,
                 progress: Callable[[str], None]
                 ) -> dict[tuple, list[float]]:
    """Seconds of each counted step by (*name, (H, W)), in turns."""
    result = {}
    for size in settings.sizes:
        images = random_images((settings.batch, 3, *size), nn.Identity())
        seconds = time_in_turns(
            {' '.join(name): partial(run, images)
             for name, run in runners.items()}, settings.rounds,
            settings.min_time, lambda: None,
            lambda line, size=size: progress(f'{size_name(size)} {line}'))
        result.update({
            (*name, size): s
            for name, s in zip(runners, seconds.values(), strict=True)
        })
    return result
