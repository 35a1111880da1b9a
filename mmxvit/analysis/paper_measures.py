# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Speeds and accuracies of the rows of the papers' tables, measured here."""
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmxvit.engine.testing import run_test

from .benchmark import Settings, environment, measure_latency
from .memory import measure_memory
from .paper_tables import Measured, Row, row_config, row_model

METRICS = {
    'top-1': ('accuracy/top1', 1.),
    'top-5': ('accuracy/top5', 1.),
    'AP': ('coco/bbox_mAP', 100.),
    'AP at 320': ('coco/bbox_mAP', 100.),
    'box AP': ('coco/bbox_mAP', 100.),
    'box AP50': ('coco/bbox_mAP_50', 100.),
    'box AP75': ('coco/bbox_mAP_75', 100.),
    'mask AP': ('coco/segm_mAP', 100.),
    'mask AP50': ('coco/segm_mAP_50', 100.),
    'mask AP75': ('coco/segm_mAP_75', 100.),
    'mAP at IoU 0.5': ('pascal_voc/mAP', 100.),
    'PQ': ('coco_panoptic/PQ', 1.),
    'PQ things': ('coco_panoptic/PQ_th', 1.),
    'PQ stuff': ('coco_panoptic/PQ_st', 1.),
    'mIoU': ('mIoU', 1.),
    'mIoU (drivable)': ('drivable/mIoU', .01),
    'mIoU (lane)': ('lane/mIoU', .01),
}
"""Metric of a column, and what makes it the papers' unit."""


def measure_speed(rows: list[Row], settings: Settings, tuned: bool,
                  memory: bool, progress: Callable[[str], None]) -> Measured:
    """Latency, and peak memory, of the models of rows, in turns.

    Args:
        rows: Those of a table; rows without a model are passed over, and of
            several with the same model one is measured.
        settings: The same for all.
        tuned: Whether the memory allocator is tuned.
        memory: Measure peak memory, each model in a process of its own.
        progress: Gets a line now and then.
    """
    models = {r.source: row_model(r) for r in rows if r.source}
    seconds = measure_latency(models, settings, progress)
    peaks: dict[str, dict] = {}
    for source in models if memory else ():
        progress(f'memory of {source}')
        measured = measure_memory(models[source], settings, tuned)
        peaks[source] = {s: m['peak_live'] for s, m in measured.items()}
    env = environment(settings.device)
    steps = min((len(v) for v in seconds.values() if v), default=0)
    about = (
        f'Measured here: medians of at least {steps} steps in turns, batch '
        f'{settings.batch}, {settings.dtype}, {env["device_name"]}, ' +
        (f'{settings.threads} threads, allocator '
         f'{"tuned" if tuned else "default"}, '
         if settings.device == 'cpu' else '') +
        f'torch {env["torch"]}, {env["date"]}, {env["commit"]}' +
        ('; MiB are the most live tensors of a step, weights apart.'
         if peaks else '.'))
    return Measured(
        list(settings.sizes),
        {source: {size: statistics.median(seconds[source, size] or [math.nan])
                  for size in settings.sizes} for source in models},
        peaks, settings.batch, about)


def checkpoint_names(rows: list[Row]) -> dict[str, str]:
    """Names of the files that the rows of a table are tested with.

    Returns:
        dict: ``<name of the config>.pth`` by ``Row.source``, without rows
        with options and rows tested at another size than their config's.
    """
    return {
        row.source: f'{Path(row.config or row.peer.removesuffix(".py")).name}'
        '.pth'
        for row in rows
        if row.source and not row.options and not row.tested_at
    }


def checkpoint_accuracies(rows: list[Row], folder: Path,
                          options: dict[str, Any], work_dir: Path
                          ) -> dict[str, dict[str, float]]:
    """Accuracies of the rows that have a checkpoint, as tools/test.py tests.

    Args:
        rows: Those of a table.
        folder: With files of :func:`checkpoint_names`; rows without one are
            passed over.
        options: What ``--cfg-options`` changes in all configs.
        work_dir: For logs, one folder for each checkpoint.

    Returns:
        dict: By ``Row.source``, then by column of the table.
    """
    tested: dict[str, dict[str, float]] = {}
    by_source = {row.source: row for row in rows}
    for source, name in checkpoint_names(rows).items():
        checkpoint = folder / name
        if not checkpoint.is_file():
            continue
        cfg = row_config(by_source[source], options)
        cfg.work_dir = str(work_dir / checkpoint.stem)
        metrics = run_test(cfg, str(checkpoint))
        tested[source] = {
            column: metrics[key] * factor
            for column, (key, factor) in METRICS.items() if key in metrics
        }
    return tested
