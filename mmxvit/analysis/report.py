# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Progress, rows, tables, CSV and plots of measurements."""
import csv
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np

from .benchmark import Settings, size_name

MIB = 1 << 20
OUT_OF_MEMORY = 'OOM'
"""In place of a figure that a GPU has too little memory for."""


class Progress:
    """Lines on stderr, at most one a second."""

    def __init__(self) -> None:
        self.last = 0.

    def __call__(self, line: str) -> None:
        if time.monotonic() - self.last > 1:
            print(line, file=sys.stderr, flush=True)
            self.last = time.monotonic()


def benchmark_rows(
        seconds: dict[tuple[str, tuple[int, int]], list[float]],
        memory: dict[str, dict[tuple[int, int], dict[str, int]]],
        settings: Settings, baseline: str, allocator: str,
        environment: dict[str, str],
        runtime: str = 'torch') -> list[dict[str, Any]]:
    """One row per model and size, complete in itself.

    Args:
        seconds: Of each step, from ``measure_latency``.
        memory: By model, from ``measure_memory``; may be empty.
        settings: What was measured.
        baseline: Model that ``ratio`` (of medians) refers to.
        allocator: ``'tuned'`` or ``'default'``.
        environment: From ``environment``.
        runtime: What the models ran in.
    """
    rows = []
    for (name, size), values in seconds.items():
        median = p10 = p90 = ratio = OUT_OF_MEMORY
        if values:
            median, p10, p90 = (
                round(float(v), 3)
                for v in np.percentile(values, (50, 10, 90)) * 1e3)
            reference = seconds[baseline, size]
            ratio = round(float(np.median(values) / np.median(reference)),
                          4) if reference else ''
        row = dict(
            model=name,
            height=size[0],
            width=size[1],
            batch=settings.batch,
            median_ms=median,
            p10_ms=p10,
            p90_ms=p90,
            ratio=ratio,
            baseline=baseline,
            steps=len(values))
        peaks = memory.get(name, {}).get(size, {})
        for key in ('weights', 'peak_live', 'peak_process'):
            row[f'{key}_mib'] = round(peaks[key] / MIB, 2) if peaks else ''
        for key in ('mode', 'dtype', 'device', 'threads', 'fuse',
                    'channels_last', 'compile'):
            row[key] = getattr(settings, key)
        rows.append(dict(
            row, runtime=runtime, allocator=allocator, **environment))
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """A table per size, under one line of settings."""
    first = rows[0]
    lines = [
        f'{first["mode"]}, batch {first["batch"]}, {first["dtype"]}, '
        f'{first["device_name"]}, {first["threads"]} CPU threads, '
        f'fuse {first["fuse"]}, channels_last {first["channels_last"]}, '
        f'compile {first["compile"]}, in {first["runtime"]}, '
        f'allocator {first["allocator"]}, '
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
    """Median latency over resolution, see :func:`plot_over_size`."""
    plot_over_size(rows, ('p10_ms', 'median_ms', 'p90_ms'),
                   f'{rows[0]["mode"]} step [ms], median, 10-90 %', path)


def plot_over_size(rows: list[dict[str, Any]], columns: tuple[str, ...],
                   label: str, path: Path) -> None:
    """A figure over resolution (root of the pixel count), log-log.

    Args:
        rows: From :func:`benchmark_rows`.
        columns: The figure, or its lower end, itself and its upper end.
        label: Of the vertical axis.
        path: PNG file.
    """
    from matplotlib.ticker import LogLocator
    figure, axes = _figure()
    for name in dict.fromkeys(r['model'] for r in rows):
        mine = sorted(((r['height'] * r['width'])**0.5,
                       *(r[c] for c in columns))
                      for r in rows
                      if r['model'] == name and r[columns[0]] != OUT_OF_MEMORY)
        if not mine:
            continue
        side, *values = zip(*mine, strict=True)
        line, = axes.plot(
            side, values[len(values) // 2], marker='o', label=name)
        if len(values) == 3:
            axes.fill_between(side, values[0], values[2], alpha=.2,
                              color=line.get_color())
    first = rows[0]
    axes.set(
        xscale='log', yscale='log', xlabel='side of the image [px]',
        ylabel=label,
        title=f'batch {first["batch"]}, {first["dtype"]}, '
        f'{first["threads"]} threads, allocator {first["allocator"]}\n'
        f'{first["device_name"]}, torch {first["torch"]}, '
        f'{first["date"][:10]}, {first["commit"]}')
    sides = sorted({(r['height'] * r['width'])**0.5 for r in rows})
    axes.set_xticks(sides, [f'{s:.0f}' for s in sides])
    axes.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter('')
    axes.grid(alpha=.3)
    axes.legend()
    _save(figure, path)


def plot_points(groups: dict[str, list[tuple[float, float, str]]],
                xlabel: str, ylabel: str, title: str, path: Path) -> None:
    """Named points, each group in a colour of its own and joined.

    Args:
        groups: (x, y, name) by group; the group '' is grey and not joined.
        xlabel: Of the horizontal axis, which is logarithmic.
        ylabel: Of the vertical axis.
        title: Above both.
        path: PNG file.
    """
    figure, axes = _figure(10, 7)
    for group, points in groups.items():
        x, y, names = zip(*sorted(points), strict=True)
        style = dict(marker='o', label=group, zorder=2) if group else dict(
            marker='.', linestyle='', color='grey', label='others', zorder=1)
        axes.plot(x, y, **style)
        for point in zip(x, y, names, strict=True):
            axes.annotate(
                point[2], point[:2], (4, 3), textcoords='offset points',
                fontsize=9 if group else 6, color=None if group else 'grey')
    axes.set(xscale='log', xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.set_major_formatter('{x:g}')
    axes.grid(alpha=.3, which='both')
    axes.legend(loc='lower right')
    _save(figure, path)


def plot_table(lines: list[list[str]], title: str, below: list[str],
               path: Path) -> None:
    """A table as a picture.

    Args:
        lines: Head, then rows.
        title: Above it.
        below: Paragraphs under it.
        path: PNG file.
    """
    wrapped = [['\n'.join(textwrap.wrap(c, 32)) for c in line]
               for line in lines]
    widths = [max(len(part) for line in wrapped
                  for part in line[i].split('\n')) + 2
              for i in range(len(lines[0]))]
    heights = [1 + max(c.count('\n') for c in line) for line in wrapped]
    text = '\n'.join(textwrap.fill(p, sum(widths)) for p in below)
    unit = .19  # inches of a line
    space = unit * (text.count('\n') + 3)
    size = (.085 * sum(widths) + .4, unit * (1.2 * sum(heights) + 3) + space)
    figure, axes = _figure(*size, layout=None)
    axes.set_axis_off()
    axes.set_position((.01, space / size[1], .98,
                       1 - (space + 2.5 * unit) / size[1]))
    figure.text(.01, 1 - 1.5 * unit / size[1], title, fontsize=12)
    figure.text(.01, (space - unit) / size[1], text, fontsize=8, va='top')
    table = axes.table(
        wrapped, bbox=(0, 0, 1, 1), cellLoc='left',
        colWidths=[w / sum(widths) for w in widths])
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set_height(heights[row] / sum(heights))
        cell.set_linewidth(.3)
        if row == 0:
            cell.set_text_props(weight='bold')
    _save(figure, path)


def _figure(width: float = 7, height: float = 5,
            layout: str | None = 'constrained') -> tuple[Any, Any]:
    """Figure and axes that need no screen."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    return plt.subplots(figsize=(width, height), layout=layout)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt
    figure.savefig(path, dpi=120)
    plt.close(figure)
