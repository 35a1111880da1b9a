# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The papers' tables beside what is counted here.

``paper_tables.yml`` holds the papers' figures and says which config is which
row; figures counted here come from the configs' models, or from the
metafiles, which the tests compare with the models.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from mmxvit.engine.command import load_config

from .complexity import Complexity, complexity
from .models import build_model, model_of_config

COUNTINGS: dict[str, tuple[str, Callable[[Complexity], int]]] = {
    'linear': ('multiply-adds of convolutions and linear layers',
               lambda c: c.nominal['linear']),
    'full': ('multiply-adds of convolutions, linear layers and attention',
             lambda c: c.full),
    'paper': ('multiply-adds of convolutions, linear layers and norms, as '
             'mmcv 1.x counted', lambda c: c.paper),
    # a norm's part is two for each element
    'doubled': ('two for each multiply-add of convolutions, linear layers '
                'and attention, and for each element of a norm',
                lambda c: 2 * c.full + c.nominal['norm']),
}
"""What a table's FLOPs are: in words, and from counts."""

Size = int | tuple[int, int]


@dataclass
class Row:
    """One row; figures as printed in the paper, None where it has none."""
    model: str
    config: str | None = None
    not_built: str | None = None
    params: str | None = None
    flops: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    counting: str | None = None
    note: str | None = None


@dataclass
class Table:
    """One table of a paper.

    Attributes:
        paper: Its short name.
        title: Number and subject.
        sizes: Side, or height and width, of the images of its FLOPs.
        counting: Key of :data:`COUNTINGS`.
        rows: As in the paper; then those that are not in it.
    """
    paper: str
    title: str
    sizes: list[Size]
    counting: str
    rows: list[Row]


def load_tables() -> dict[str, Table]:
    """All tables, by names such as ``xformer-4``."""
    path = Path(__file__).with_name('paper_tables.yml')
    tables = {}
    for name, table in yaml.safe_load(path.read_text()).items():
        rows = [Row(**{k.replace(' ', '_'): v for k, v in row.items()})
                for row in table.pop('rows')]
        sizes = [s if isinstance(s, int) else tuple(s)
                 for s in table.pop('sizes')]
        tables[name] = Table(rows=rows, sizes=sizes, **table)
    return tables


@cache
def count(config: Path, size: Size) -> Complexity:
    """Counts of a config's model for one image."""
    height, width = (size, size) if isinstance(size, int) else size
    model = build_model(model_of_config(load_config(str(config))))
    return complexity(model, (3, height, width))


def agrees(value: float, printed: str) -> bool:
    """Whether a figure is the printed one after rounding to its digits."""
    digits = len(printed.partition('.')[2])
    return f'{value:.{digits}f}' == printed


Counts = Callable[[str, Size, str], tuple[int, int]]
"""(config, size, counting) -> parameters and FLOPs."""


def count_row(root: Path) -> Counts:
    """Counts from the configs below a folder."""

    def counts(config: str, size: Size, counting: str) -> tuple[int, int]:
        counted = count(root / f'{config}.py', size)
        return counted.params, COUNTINGS[counting][1](counted)

    return counts


def render(table: Table, counts: Counts, link: str = '') -> str:
    """A table in Markdown, the paper's figures beside those counted.

    Args:
        table: The table.
        counts: Of the rows that have a config.
        link: From where the table stands to the folder of the configs.
    """
    def size(s: Size) -> str:
        return str(s) if isinstance(s, int) else f'{s[0]} x {s[1]}'

    results = list(dict.fromkeys(k for r in table.rows for k in r.results))
    has_params = any(r.params for r in table.rows)
    has_flops = any(r.flops for r in table.rows)
    lines = [[
        'model', 'parameters', *['paper'] * has_params,
        f'G FLOPs at {" / ".join(map(size, table.sizes))}',
        *['paper'] * has_flops, *(f'{r}, paper' for r in results)
    ]]
    lines.append(['---'] * len(lines[0]))
    for row in table.rows:
        name, params, flops = row.model, 'not built', ''
        if row.config:
            name = f'[{name}]({link}{row.config}.py)'
            counting = row.counting or table.counting
            counted = [counts(row.config, s, counting) for s in table.sizes]
            params = f'{counted[0][0]:,}'
            flops = ' / '.join(f'{c[1] / 1e9:.3f}' for c in counted)
        lines.append([
            name, params,
            *[f'{row.params} M' if row.params else ''] * has_params, flops,
            *[' / '.join(row.flops)] * has_flops,
            *(row.results.get(r, '') for r in results)
        ])
    rows = ['| ' + ' | '.join(cells) + ' |' for cells in lines]
    says = f'FLOPs: {COUNTINGS[table.counting][0]}.'
    if results:
        says += " Accuracies are the paper's; nothing was trained here."
    notes = [f'* {r.model}: {r.note}.' for r in table.rows if r.note]
    for counting in dict.fromkeys(r.counting for r in table.rows):
        if counting:
            models = ', '.join(
                r.model for r in table.rows if r.counting == counting)
            notes.append(f'* As its authors counted, {models}: '
                         f'{COUNTINGS[counting][0]}.')
    reasons = dict.fromkeys(r.not_built for r in table.rows if r.not_built)
    for reason in reasons:
        models = ', '.join(
            r.model for r in table.rows if r.not_built == reason)
        notes.append(f'* Not built: {models} ({reason}).')
    return '\n\n'.join(
        filter(None, ['\n'.join(rows), says, '\n'.join(notes)]))
