# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Plots over the rows of the papers' tables."""
import textwrap
from collections.abc import Callable
from pathlib import Path

from mmxvit.engine.command import UserError

from .benchmark import Settings, environment, measure_latency
from .memory import measure_memory
from .models import config_input_size
from .paper_measures import measure_speed
from .paper_tables import (
    Row,
    Size,
    Table,
    load_counts,
    row_config,
    row_model,
    size_text,
)
from .report import benchmark_rows, plot_over_size, plot_points

RESOLUTIONS = 'xformer-2'
"""Table with the models whose cost is drawn over the resolution."""


def plot_papers(tables: dict[str, Table], folder: Path,
                settings: Callable[[list[Size], int], Settings], tuned: bool,
                memory: bool, progress: Callable[[str], None]) -> list[Path]:
    """Draw the papers' accuracies, and cost over the resolution.

    Args:
        tables: Those to take the models from: one with top-1 accuracies, or
            :data:`RESOLUTIONS`, or both kinds.
        folder: For the pictures; made.
        settings: What to measure, from sizes and batch.
        tuned: Whether the memory allocator is tuned.
        memory: Draw memory, too.
        progress: Gets a line now and then.

    Raises:
        UserError: A picture exists already, or no table has what is drawn.
    """
    classifiers = top1_rows(tables)
    pictures = ['accuracy_params.png',
                'accuracy_latency.png'] * bool(classifiers)
    if RESOLUTIONS in tables:
        pictures += ['latency_size.png'] + ['memory_size.png'] * memory
    if not pictures:
        raise UserError('--plots: of the tables that --table names none has '
                        f'top-1 accuracies or is {RESOLUTIONS}')
    paths = {name: folder / name for name in pictures}
    for path in paths.values():
        if path.exists():
            raise UserError(f'{path} exists; remove it or choose another '
                            'folder')
    folder.mkdir(parents=True, exist_ok=True)
    if classifiers:
        _plot_accuracies(classifiers, paths, settings, tuned, progress)
    if RESOLUTIONS in tables:
        table = tables[RESOLUTIONS]
        _plot_resolutions(table.rows, paths,
                          settings(table.sizes, table.batch), tuned, progress)
    return list(paths.values())


def top1_rows(tables: dict[str, Table]) -> list[Row]:
    """A row for each model with a top-1 accuracy on ImageNet.

    Where papers print several accuracies of a model it is the first, of those
    at the size at which its config tests.
    """
    rows: dict[str, Row] = {}
    for table in tables.values():
        for row in table.rows:
            if (row.source and 'top-1' in row.results
                    and not row.tested_at):
                rows.setdefault(row.source, row)
    return list(rows.values())


def _plot_accuracies(rows: list[Row], paths: dict[str, Path],
                     settings: Callable[[list[Size], int], Settings],
                     tuned: bool, progress: Callable[[str], None]) -> None:
    counts = load_counts()
    ylabel = "top-1 on ImageNet [%], as the papers print it"
    plot_points(
        _families(rows, lambda r: counts[r.source].params / 1e6),
        'parameters [M]', ylabel, 'None of these models was trained here',
        paths['accuracy_params.png'])
    tested: dict[Size, list[Row]] = {}  # some models take no other size
    for row in rows:
        found = config_input_size(row_config(row))
        tested.setdefault(found[0] if found else (224, 224), []).append(row)
    milliseconds, captions = {}, []
    for size in sorted(tested):
        measured = measure_speed(
            tested[size], settings([size], 1), tuned, False, progress)
        milliseconds.update(
            {source: 1e3 * seconds[size]
             for source, seconds in measured.seconds.items()})
        captions.append(f'{size_text(size)}: {measured.about}')
    plot_points(
        _families(rows, lambda r: milliseconds[r.source]),
        'latency at the size of the test, '
        f'{" or ".join(map(size_text, sorted(tested)))} [ms]', ylabel,
        '\n'.join(textwrap.fill(caption, 90) for caption in captions),
        paths['accuracy_latency.png'])


def _families(
        rows: list[Row], x: Callable[[Row], float]
) -> dict[str, list[tuple[float, float, str]]]:
    """Points by the type of backbone, all peers in one group."""
    groups: dict[str, list] = {'': []}
    for row in rows:
        group = ''
        if row.config:
            kind = row_model(row)['backbone']['type']
            group = kind.partition('mmxvit.')[2]
        name = row.model
        if row.options.get('model.head', '') is None:
            name += ', backbone alone'
        groups.setdefault(group, []).append(
            (x(row), float(row.results['top-1']), name))
    return {group: points for group, points in groups.items() if points}


def _plot_resolutions(rows: list[Row], paths: dict[str, Path],
                      settings: Settings, tuned: bool,
                      progress: Callable[[str], None]) -> None:
    models = {r.model: row_model(r) for r in rows if r.source}
    seconds = measure_latency(models, settings, progress)
    peaks = {}
    for name in models if 'memory_size.png' in paths else ():
        progress(f'memory of {name}')
        peaks[name] = measure_memory(models[name], settings, tuned)
    lines = benchmark_rows(
        seconds, peaks, settings, next(iter(models)),
        'tuned' if tuned else 'default', environment(settings.device))
    plot_over_size(lines, ('p10_ms', 'median_ms', 'p90_ms'),
                   'latency [ms], median, 10-90 %', paths['latency_size.png'])
    if peaks:
        plot_over_size(lines, ('peak_live_mib', ),
                       'most live tensors, weights apart [MiB]',
                       paths['memory_size.png'])
