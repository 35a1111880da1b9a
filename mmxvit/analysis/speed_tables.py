# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Tables of the documentation from what benchmark.py has written."""
import csv
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

PEERS = {
    'LVT': 'PVTv2-B0',
    'FcaFormer-L2': 'ConvNeXt-T',
    'XFormer': 'MobileViT-S',
    'LOLViT-X': 'MobileViT-S',
}
"""Peer of a family, by the names that models have in the files."""

_SETTINGS = ('mode', 'batch', 'dtype', 'device', 'device_name', 'cpu_count',
             'threads', 'allocator', 'fuse', 'channels_last', 'compile',
             'torch', 'commit', 'runtime')


def speed_tables(files: Iterable[Path]) -> str:
    """A table of latencies, and one of memory, for each run.

    Args:
        files: CSV files of benchmark.py. Rows with other settings make
            tables of their own. What is no number is printed as it is.
    """
    return '\n\n'.join(part for run in _runs(files) for part in _run(run))


def slower_than_peers(files: Iterable[Path]) -> str:
    """A list of what took at least 1.05 times as long as its peer.

    Args:
        files: CSV files of benchmark.py.
    """
    lines = []
    for run in _runs(files):
        times = {(r['model'], _size(r)): _number(r['median_ms']) for r in run}
        found: dict[str, list[str]] = {}
        for (model, size), time in times.items():
            other = times.get((PEERS.get(model), size))
            if time and other and round(time / other, 2) >= 1.05:
                found.setdefault(model, []).append(
                    f'{time / other:.2f} at {size}')
        if found:
            lines.append(
                f'* {_setting(run[0])}, {run[0]["device_name"]}: ' +
                '; '.join(f'{model} {", ".join(ratios)}'
                          for model, ratios in found.items()) + '.')
    return '\n'.join(lines) or '* Nothing.'


def _runs(files: Iterable[Path]) -> Iterator[list[dict[str, str]]]:
    """Rows of equal settings beside each other."""
    for file in files:
        with open(file, newline='', encoding='utf-8') as lines:
            rows = list(csv.DictReader(lines))
        if {row.get('runtime', 'torch') for row in rows} == {'torch'}:
            for row in rows:  # needs no mention then
                row['runtime'] = ''
        for _, run in groupby(
                rows, lambda row: [row.get(k) for k in _SETTINGS]):
            yield list(run)


def _run(rows: list[dict[str, str]]) -> list[str]:
    cells = {(r['model'], _size(r)): r for r in rows}
    models, sizes = (list(dict.fromkeys(keys)) for keys in zip(
        *cells, strict=True))

    def cell(model: str, size: str, column: str, peer: str | None) -> str:
        text = cells.get((model, size), {}).get(column, '')
        value = _number(text)
        if value is None:
            return text or '-'
        other = cells.get((peer, size), {}).get(column)
        other = _number(other) if other else None
        digits = f'{value:,.0f}' if value >= 1000 else f'{value:.4g}'
        return digits + (f' ({value / other:.2f})' if other else '')

    def table(column: str, sizes: list[str]) -> list[str]:
        lines = [['', *sizes]]
        growing = column == 'median_ms' and len(sizes) > 4
        if growing:
            lines[0].append(f'growth / pixels, {sizes[0]} to {sizes[-1]}')
        for model in models:
            line = [model] + [
                cell(model, size, column, PEERS.get(model)) for size in sizes]
            if growing:
                line.append(_growth(*(cells.get((model, s)) for s in (
                    sizes[0], sizes[-1]))))
            lines.append(line)
        lines.insert(1, ['---'] * len(lines[0]))
        return ['| ' + ' | '.join(line) + ' |' for line in lines]

    parts = [_about(rows), '\n'.join(table('median_ms', sizes))]
    if any(_number(r['peak_live_mib']) for r in rows):
        parts += [
            'Most live tensors, weights apart, in MiB:',
            '\n'.join(table('peak_live_mib', sizes)),
        ]
    return parts


def _setting(row: dict[str, str]) -> str:
    """What was measured, in words."""
    words = [
        dict(infer='Inference', train='Training: forward and backward')[
            row['mode']], f'batch {row["batch"]}', row['dtype']
    ]
    words += [word for key, word in (
        ('fuse', 'BatchNorms folded by `mmxvit.fuse`'),
        ('channels_last', 'channels-last'),
        ('compile', '`torch.compile`')) if row[key] == 'True']
    if row['runtime']:
        words.append('in ' + dict(
            torch='torch beside the next two', onnxruntime='ONNX Runtime',
            openvino='OpenVINO')[row['runtime']])
    return ', '.join(words)


def _about(rows: list[dict[str, str]]) -> str:
    row = rows[0]
    steps = [int(r['steps']) for r in rows if r['steps'] not in ('', '0')]
    machine = row['device_name']
    if row['device'] == 'cpu':
        machine += (f' ({row["cpu_count"]} CPUs), {row["threads"]} threads, '
                    f'allocator {row["allocator"]}')
    return (f'**{_setting(row)}**: ms of a step, median of at least '
            f'{min(steps, default=0)}; in brackets the ratio to the peer. '
            f'{machine}, torch {row["torch"]}, {row["date"][:10]}, '
            f'{row["commit"]}.')


def _growth(first: dict[str, str] | None, last: dict[str, str] | None) -> str:
    """How much faster the time grows than the pixels."""
    if not first or not last:
        return '-'
    times, pixels = (
        [(_number(r['median_ms']), int(r['height']) * int(r['width']))[i]
         for r in (first, last)] for i in range(2))
    if None in times:
        return '-'
    return f'{times[1] / times[0] * pixels[0] / pixels[1]:.2f}'


def _size(row: dict[str, str]) -> str:
    height, width = row['height'], row['width']
    return height if height == width else f'{height} x {width}'


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
