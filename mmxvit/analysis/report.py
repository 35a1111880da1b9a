# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Rows, table, CSV and plot of a benchmark."""
import csv
from pathlib import Path
from typing import Any

import numpy as np

from .benchmark import Settings, size_name

MIB = 1 << 20


def benchmark_rows(
        seconds: dict[tuple[str, tuple[int, int]], list[float]],
        memory: dict[str, dict[tuple[int, int], dict[str, int]]],
        settings: Settings, baseline: str, allocator: str,
        environment: dict[str, str]) -> list[dict[str, Any]]:
    """One row per model and size, complete in itself.

    Args:
        seconds: Of each step, from ``measure_latency``.
        memory: By model, from ``measure_memory``; may be empty.
        settings: What was measured.
        baseline: Model that ``ratio`` (of medians) refers to.
        allocator: ``'tuned'`` or ``'default'``.
        environment: From ``environment``.
    """
    rows = []
    for (name, size), values in seconds.items():
        median, p10, p90 = np.percentile(values, (50, 10, 90)) * 1e3
        reference = np.median(seconds[baseline, size]) * 1e3
        row = dict(
            model=name,
            height=size[0],
            width=size[1],
            batch=settings.batch,
            median_ms=round(median, 3),
            p10_ms=round(p10, 3),
            p90_ms=round(p90, 3),
            ratio=round(median / reference, 4),
            baseline=baseline,
            steps=len(values))
        peaks = memory.get(name, {}).get(size, {})
        for key in ('weights', 'peak_live', 'peak_process'):
            row[f'{key}_mib'] = round(peaks[key] / MIB, 2) if peaks else ''
        for key in ('mode', 'dtype', 'device', 'threads', 'fuse',
                    'channels_last', 'compile'):
            row[key] = getattr(settings, key)
        rows.append(dict(row, allocator=allocator, **environment))
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """A table per size, under one line of settings."""
    first = rows[0]
    lines = [
        f'{first["mode"]}, batch {first["batch"]}, {first["dtype"]}, '
        f'{first["device_name"]}, {first["threads"]} CPU threads, '
        f'fuse {first["fuse"]}, channels_last {first["channels_last"]}, '
        f'compile {first["compile"]}, allocator {first["allocator"]}, '
        f'torch {first["torch"]}, {first["date"]}, {first["commit"]}'
    ]
    width = max(len(r['model']) for r in rows)
    columns = dict(
        median_ms='median ms', p10_ms='p10', p90_ms='p90', ratio='ratio',
        peak_live_mib='live MiB', peak_process_mib='process MiB',
        weights_mib='weights MiB')
    size = None
    for row in rows:
        if size != (row['height'], row['width']):
            size = (row['height'], row['width'])
            lines += [
                '', f'{size_name(size)} (ratio to {row["baseline"]})',
                ' ' * width + ''.join(f'{c:>13}' for c in columns.values())
            ]
        cells = ''.join(f'{row[k]:>13}' for k in columns)
        lines.append(f'{row["model"]:{width}}{cells}'.rstrip())
    return '\n'.join(lines)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write all rows and columns."""
    with open(path, 'x', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def plot_latency(rows: list[dict[str, Any]], path: Path) -> None:
    """Median latency over resolution (root of the pixel count), log-log."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator
    figure, axes = plt.subplots(figsize=(7, 5), layout='constrained')
    for name in dict.fromkeys(r['model'] for r in rows):
        mine = sorted(
            ((r['height'] * r['width'])**0.5, r['p10_ms'], r['median_ms'],
             r['p90_ms']) for r in rows if r['model'] == name)
        side, low, median, high = zip(*mine, strict=True)
        line, = axes.plot(side, median, marker='o', label=name)
        axes.fill_between(side, low, high, alpha=.2, color=line.get_color())
    first = rows[0]
    axes.set(
        xscale='log', yscale='log', xlabel='side of the image [px]',
        ylabel=f'{first["mode"]} step [ms], median, 10-90 %',
        title=f'batch {first["batch"]}, {first["dtype"]}, '
        f'{first["threads"]} threads, allocator {first["allocator"]}\n'
        f'{first["device_name"]}, torch {first["torch"]}, '
        f'{first["date"][:10]}')
    axes.set_xticks(side, [f'{s:.0f}' for s in side])
    axes.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter('')
    axes.grid(alpha=.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
