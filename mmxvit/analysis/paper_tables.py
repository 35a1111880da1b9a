# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The papers' tables beside what is counted and measured here.

``paper_tables.yml`` holds the papers' figures and says which config is which
row. ``paper_counts.json`` holds what was counted from the models of these
configs (``tools/dev/generate_docs.py --count`` writes it, tests compare it
with the models), so that a table is printed without building any.
"""
import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmxvit.engine.command import UserError, load_config
from mmxvit.hub import config_root

from .complexity import PARTS, complexity
from .models import build_model, model_of_config

TABLES = Path(__file__).with_name('paper_tables.yml')
COUNTS = Path(__file__).with_name('paper_counts.json')

Macs = dict[str, int]
"""Nominal multiply-accumulates by part, as in ``Complexity.nominal``."""

COUNTINGS: dict[str, tuple[str, Callable[[Macs], int]]] = {
    'linear': ('multiply-adds of convolutions and linear layers',
               lambda m: m['linear']),
    'full': ('multiply-adds of convolutions, linear layers and attention',
             lambda m: m['linear'] + m['attention']),
    'paper': ('multiply-adds of convolutions, linear layers and norms, as '
              'mmcv 1.x counted',
              lambda m: m['linear'] + m['norm'] + m['elementwise']),
    # a norm's part is two for each element
    'doubled': ('two for each multiply-add of convolutions, linear layers '
                'and attention, and for each element of a norm',
                lambda m: 2 * (m['linear'] + m['attention']) + m['norm']),
}
"""What a table's FLOPs are: in words, and from counts."""

Size = tuple[int, int]
"""(H, W)."""


@dataclass
class Row:
    """One row; figures as printed in the paper, None where it has none.

    The fields are explained at the top of ``paper_tables.yml``.
    """
    model: str
    config: str | None = None
    peer: str | None = None
    not_built: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    part: list[str] = field(default_factory=list)
    params: str | None = None
    backbone_params: str | None = None
    flops: list[str] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    counting: str = ''
    results: dict[str, str] = field(default_factory=dict)
    tested_at: int | None = None
    speed: dict[str, str] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    note: str | None = None

    @property
    def source(self) -> str | None:
        """Its model: a config and what is changed in it."""
        name = self.config or self.peer
        if not self.options:
            return name
        return f'{name} {json.dumps(self.options, sort_keys=True)}'


@dataclass
class Table:
    """One table of a paper.

    Attributes:
        paper: Its short name.
        title: Number and subject.
        sizes: Of the images of its FLOPs.
        counting: Key of :data:`COUNTINGS`.
        rows: As in the paper; then those that are not in it. Each has sizes
            and counting of the table or its own.
        device: That the paper's speeds were measured on.
        batch: Images per step, for latency.
        speed_sizes: Of the images, for latency.
    """
    paper: str
    title: str
    sizes: list[Size]
    counting: str
    rows: list[Row]
    device: str | None = None
    batch: int = 1
    speed_sizes: list[Size] = field(default_factory=list)


@dataclass
class Counts:
    """What was counted of a model.

    Attributes:
        params: Parameters.
        parts: Parameters of its top-level modules, and of modules that are
            rows of a table.
        macs: By image size, for one image.
    """
    params: int
    parts: dict[str, int]
    macs: dict[Size, Macs]

    def params_of(self, row: Row) -> int:
        """Parameters of a row: of the model, or of the row's modules."""
        if row.part:
            return sum(self.parts[name] for name in row.part)
        return self.params

    def flops(self, size: Size, counting: str) -> int:
        """FLOPs as a key of :data:`COUNTINGS` says."""
        return COUNTINGS[counting][1](self.macs[size])


def load_tables() -> dict[str, Table]:
    """All tables, by names such as ``xformer-4``."""
    tables = {}
    for name, table in yaml.safe_load(TABLES.read_text('utf-8')).items():
        sizes = _sizes(table.pop('sizes'))
        speed_sizes = _sizes(table.pop('speed sizes', [])) or sizes
        rows = []
        for entry in table.pop('rows'):
            row = Row(**{k.replace(' ', '_'): v for k, v in entry.items()})
            row.sizes = _sizes(row.sizes) or sizes
            row.counting = row.counting or table['counting']
            if isinstance(row.part, str):
                row.part = [row.part]
            rows.append(row)
        tables[name] = Table(
            rows=rows, sizes=sizes, speed_sizes=speed_sizes, **table)
    return tables


def _sizes(values: list[int | list[int]]) -> list[Size]:
    return [(s, s) if isinstance(s, int) else tuple(s) for s in values]


def config_path(row: Row) -> Path:
    """The config file of a row.

    Raises:
        UserError: Its package is not installed.
    """
    if row.config:
        return config_root() / 'configs' / f'{row.config}.py'
    package, _, file = row.peer.partition('::')
    spec = find_spec(package)
    if spec is None:
        raise UserError(f'{row.model}: needs {package}, which is not '
                        'installed')
    return Path(spec.origin).parent / '.mim' / 'configs' / file


def row_config(row: Row, options: dict[str, Any] | None = None) -> Config:
    """The config of a row, with its options.

    Args:
        row: One that has a model.
        options: Further changes.

    Raises:
        UserError: Its package is not installed, or has no such config.
    """
    return load_config(
        str(config_path(row)),
        copy.deepcopy({**row.options, **(options or {})}))


def row_model(row: Row) -> dict:
    """What :func:`~.models.build_model` takes for a row."""
    return model_of_config(row_config(row))


def sources(tables: dict[str, Table]) -> dict[str, list[Row]]:
    """Rows that have a model, by ``Row.source``."""
    found: dict[str, list[Row]] = {}
    for table in tables.values():
        for row in table.rows:
            if row.source:
                found.setdefault(row.source, []).append(row)
    return found


def count(rows: list[Row]) -> Counts:
    """Count the model of rows anew.

    Args:
        rows: All have the same source; their sizes and modules are counted.
    """
    model = build_model(row_model(rows[0]))
    names = dict.fromkeys(
        [name for name, _ in model.named_children()] +
        [name for row in rows for name in row.part])
    return Counts(
        sum(p.numel() for p in model.parameters()),
        {n: sum(p.numel() for p in model.get_submodule(n).parameters())
         for n in names},
        {s: complexity(model, (3, *s), shapes_only=True).nominal
         for s in dict.fromkeys(s for row in rows for s in row.sizes)})


@cache
def load_counts() -> dict[str, Counts]:
    """What was counted of all models, by ``Row.source``."""
    return {
        source: Counts(
            entry['params'], entry['parts'],
            {tuple(map(int, size.split('x'))): dict(
                zip(PARTS, macs, strict=True))
             for size, macs in entry['macs'].items()})
        for source, entry in json.loads(COUNTS.read_text('utf-8')).items()
    }


def save_counts(counts: dict[str, Counts]) -> None:
    """Write ``paper_counts.json``."""
    entries = {
        source: dict(
            params=c.params, parts=c.parts,
            macs={f'{h}x{w}': [macs[p] for p in PARTS]
                  for (h, w), macs in c.macs.items()})
        for source, c in counts.items()
    }
    lines = (f'{json.dumps(s)}: {json.dumps(e)}' for s, e in
             sorted(entries.items()))
    COUNTS.write_text('{\n' + ',\n'.join(lines) + '\n}\n', 'utf-8')


def agrees(value: float, printed: str) -> bool:
    """Whether a figure is the printed one after rounding to its digits."""
    digits = len(printed.partition('.')[2])
    return f'{value:.{digits}f}' == printed


@dataclass
class Measured:
    """What was measured in one run, by ``Row.source``.

    Attributes:
        sizes: Of the images.
        seconds: Median seconds of a step, by size; NaN where a GPU has too
            little memory.
        peak_bytes: Highest sum of live tensors, by size; may be empty.
        batch: Images per step.
        about: Line on how, when and where.
    """
    sizes: list[Size]
    seconds: dict[str, dict[Size, float]]
    peak_bytes: dict[str, dict[Size, int]]
    batch: int
    about: str

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        entry = dict(
            about=self.about, batch=self.batch, sizes=self.sizes,
            **{key: {row: {f'{h}x{w}': v for (h, w), v in values.items()}
                     for row, values in getattr(self, key).items()}
               for key in ('seconds', 'peak_bytes')})
        path.write_text(json.dumps(entry, indent=1) + '\n', 'utf-8')

    @classmethod
    def load(cls, path: Path) -> 'Measured':
        """What :meth:`save` wrote."""
        entry = json.loads(path.read_text('utf-8'))
        entry['sizes'] = [tuple(s) for s in entry['sizes']]
        for key in ('seconds', 'peak_bytes'):
            entry[key] = {row: {tuple(map(int, size.split('x'))): v
                                for size, v in values.items()}
                          for row, values in entry[key].items()}
        return cls(**entry)


def cells(table: Table,
          counts: dict[str, Counts],
          link: str | None = None,
          measured: Measured | None = None,
          tested: dict[str, dict[str, float]] | None = None
          ) -> list[list[str]]:
    """Head and rows of a table, the paper's figures beside those here.

    Args:
        table: The table.
        counts: By ``Row.source``.
        link: From where the table stands to the folder of the configs; else
            a last column names them.
        measured: Speeds to add.
        tested: Accuracies to add: by ``Row.source``, then by column.
    """
    columns = _columns(table, counts, measured, tested)
    head = ['model', *columns, *['config'] * (link is None)]
    lines = [head]
    for i, row in enumerate(table.rows):
        name = row.model
        if row.config and link is not None:
            name = f'[{name}]({link}{row.config}.py)'
        lines.append([name, *(c[i] for c in columns.values())])
        if link is None:
            lines[-1].append(row.source or '')
    return lines


def _columns(table: Table, counts: dict[str, Counts],
             measured: Measured | None,
             tested: dict[str, dict[str, float]] | None
             ) -> dict[str, list[str]]:
    """Columns without empty ones, by their heads."""
    rows = table.rows
    counted = [counts[r.source] if r.source else None for r in rows]

    def printed(attribute: str, end: str = ', paper') -> dict:
        names = dict.fromkeys(n for r in rows for n in getattr(r, attribute))
        return {f'{n}{end}': [getattr(r, attribute).get(n, '') for r in rows]
                for n in names}

    columns = printed('printed', '')
    columns['parameters'] = [
        f'{c.params_of(r):,}' if c else f'not built: {r.not_built}'
        for r, c in zip(rows, counted, strict=True)]
    columns['parameters, paper'] = [
        f'{r.params}{"" if r.part else " M"}' if r.params else ''
        for r in rows]
    if any(r.backbone_params for r in rows):
        columns['of the backbone'] = [
            f'{c.parts["backbone"]:,}' if c else '' for c in counted]
        columns['of the backbone, paper'] = [
            f'{r.backbone_params} M' if r.backbone_params else ''
            for r in rows]
    if table.sizes:
        at = ' / '.join(map(size_text, table.sizes))

        def flops(row: Row, count: Counts | None, counting: str) -> str:
            if count is None or row.part:
                return ''
            figures = ' / '.join(f'{count.flops(s, counting) / 1e9:.3f}'
                                 for s in row.sizes)
            if row.sizes != table.sizes:
                figures += f' at {" / ".join(map(size_text, row.sizes))}'
            return figures

        columns[f'G FLOPs at {at}'] = [
            flops(r, c, r.counting)
            for r, c in zip(rows, counted, strict=True)]
        columns['G FLOPs, paper'] = [' / '.join(r.flops) for r in rows]
        if any(r.counting != 'full' for r in rows if r.source):
            columns['G MACs with attention'] = [
                flops(r, c, 'full')
                for r, c in zip(rows, counted, strict=True)]
    columns.update(printed('speed'))
    fps = any(n.startswith('FPS') for r in rows for n in r.speed)
    for size in measured.sizes if measured else ():
        for name, values, text in (
            ('ms', measured.seconds,
             lambda s: 'OOM' if math.isnan(s) else f'{s * 1e3:.1f}'),
            ('images/s', measured.seconds,
             lambda s: 'OOM' if math.isnan(s) else f'{measured.batch / s:.1f}'
             ),
            ('MiB', measured.peak_bytes, lambda b: f'{b / 2**20:.0f}')):
            if name == 'images/s' and not fps:
                continue
            columns[f'{name} at {size_text(size)}, here'] = [
                text(values[r.source][size])
                if size in values.get(r.source, {}) else
                'not measured' if r.source and any(values.values()) else ''
                for r in rows]
    columns.update(printed('results'))
    if tested is not None:
        for name in dict.fromkeys(n for r in rows for n in r.results):
            columns[f'{name}, tested here'] = [
                f'{tested[r.source][name]:.2f}' if not r.tested_at
                and name in tested.get(r.source, {}) else '' for r in rows]
    return {k: v for k, v in columns.items() if any(v)}


def size_text(size: Size) -> str:
    """A side, or height and width."""
    return str(size[0]) if size[0] == size[1] else f'{size[0]} x {size[1]}'


def remarks(table: Table, measured: Measured | None = None,
            tested: dict[str, dict[str, float]] | None = None) -> list[str]:
    """What is to be said below a table; the lines of a list begin with *."""
    rows = table.rows
    lines = []
    if table.sizes and any(r.source for r in rows):
        lines.append(f'FLOPs: {COUNTINGS[table.counting][0]}.')
    if any(r.results for r in rows):
        lines.append("Accuracies are the paper's, but for those tested here."
                     if tested else
                     "Accuracies are the paper's; nothing was trained here.")
    if any(r.speed for r in rows):
        lines.append("The paper's speeds are " +
                     (f'of {table.device}.' if table.device else
                      'of a device that it does not name.'))
    if measured:
        lines.append(measured.about)
        if any('top-1' not in r.results for r in rows
               if r.source and r.results):
            lines.append('Here the network alone is timed, without decoding '
                         'of boxes, NMS, resizing or sliding windows.')
    lines = [' '.join(lines)] if lines else []
    lines += [f'* {r.model}: {r.note}.' for r in rows if r.note]
    for counting in dict.fromkeys(r.counting for r in rows if r.source):
        if counting != table.counting:
            models = ', '.join(r.model for r in rows
                               if r.counting == counting and r.source)
            lines.append(f'* As its authors counted, {models}: '
                         f'{COUNTINGS[counting][0]}.')
    return lines


def markdown(table: Table, counts: dict[str, Counts], **kwargs: Any) -> str:
    """A table in Markdown, with remarks; see :func:`cells`."""
    head, *rows = cells(table, counts, **kwargs)
    if head[-1] == 'config':
        for row in rows:
            row[-1] = f'`{row[-1]}`' if row[-1] else ''
    lines = ['| ' + ' | '.join(row) + ' |'
             for row in (head, ['---'] * len(head), *rows)]
    below = remarks(table, kwargs.get('measured'), kwargs.get('tested'))
    text = [line for line in below if not line.startswith('*')]
    notes = [line for line in below if line.startswith('*')]
    return '\n\n'.join(
        filter(None, ['\n'.join(lines), *text, '\n'.join(notes)]))
