# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Write the tables in the documentation anew from the code.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""
import argparse
import csv
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from mmxvit.analysis import drop_in, paper_tables
from mmxvit.analysis.operators import profile_tables
from mmxvit.analysis.speed_tables import slower_than_peers, speed_tables
from mmxvit.models import backbones
from mmxvit.models.backbones.base import PyramidBackbone

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / 'docs/data/benchmark'
"""CSV files of benchmark.py."""
PROFILES = ROOT / 'docs/data/profiles'
"""CSV files of profile_operators.py."""
SPEEDS = ROOT / 'docs/data/speeds'
"""JSON files of paper_tables.py."""
SECTION = re.compile(r'(<!-- generated: (\S+) -->\n).*?(<!-- end -->)', re.S)


def archs() -> list[tuple[type[PyramidBackbone], str]]:
    """All backbones with all their archs."""
    return [(backbone, arch) for name in backbones.__all__
            if issubclass(backbone := getattr(backbones, name),
                          PyramidBackbone) for arch in backbone.arch_settings]


def maps() -> str:
    """Maps of every arch: strides, channels, parameters."""
    lines = ['| backbone | parameters | strides | channels |',
             '| --- | --- | --- | --- |']
    for backbone, arch in archs():
        model = backbone(arch)
        params = sum(p.numel() for p in model.parameters())
        strides, channels = (', '.join(map(str, values)) for values in (
            model.out_strides, model.out_channels))
        lines.append(f'| `mmxvit.{backbone.__name__}`, `{arch}` | {params:,} '
                     f'| {strides} | {channels} |')
    return '\n'.join(lines)


def zoo() -> str:
    """All models of the metafiles, by task and family."""
    models = [
        model for index in sorted(ROOT.glob('configs/*/metafile.yml'))
        for model in yaml.safe_load(index.read_text())['Models']
    ]
    lines = []
    for task in dict.fromkeys(m['Results'][0]['Task'] for m in models):
        lines += [f'## {task}', '', '| config | data | parameters | '
                  'multiply-adds | paper |', '| --- | --- | --- | --- | --- |']
        for model in models:
            result, meta = model['Results'][0], model['Metadata']
            if result['Task'] != task:
                continue
            size = str(meta['FLOPs Image Size']).replace('x', ' x ')
            figures = ', '.join(f'{value} {key}' for key, value in meta.get(
                'Paper Results', {}).items()).replace(
                    'Top 1 Accuracy', 'top-1')
            lines.append(
                f'| `{model["Config"].removeprefix("configs/")}` '
                f'| {result["Dataset"]} | {meta["Parameters"] / 1e6:.2f} M '
                f'| {meta["FLOPs"] / 1e9:.2f} G at {size} | {figures} |')
        lines.append('')
    return '\n'.join(lines).strip()


def paper_table(name: str) -> str:
    """A table of a paper, for the README in a folder of configs."""
    return paper_tables.markdown(
        paper_tables.load_tables()[name], paper_tables.load_counts(),
        link='../')


def paper_page(paper: str) -> str:
    """All tables of a paper, for its page, with the speeds that are kept."""
    sections = []
    for name, table in paper_tables.load_tables().items():
        if table.paper == paper:
            speeds = SPEEDS / f'{name}.json'
            measured = paper_tables.Measured.load(
                speeds) if speeds.exists() else None
            sections.append(
                f'## {table.title}\n\n`--table {name}`\n\n' +
                paper_tables.markdown(table, paper_tables.load_counts(),
                                      measured=measured))
            printed = ' '.join(n for row in table.rows for n in row.speed)
            if printed and not measured:
                sections[-1] += '\n\nNone of these speeds was measured here.'
            elif 'MB at' in printed and not measured.peak_bytes:
                sections[-1] += '\n\nMemory was not measured here.'
    return '\n\n'.join(sections)


def benchmark(name: str) -> str:
    """Tables of all files whose names begin so."""
    files = sorted(BENCHMARKS.glob(f'{name}*.csv'), key=lambda f: f.stem)
    return speed_tables(files) or 'Not measured yet.'


def profiles(name: str) -> str:
    """Tables of a file of profile_operators.py."""
    with open(PROFILES / f'{name}.csv', newline='') as file:
        return profile_tables(csv.DictReader(file))


def count() -> None:
    """Count the models of all tables anew, some minutes."""
    counts = {}
    rows = paper_tables.sources(paper_tables.load_tables())
    for i, source in enumerate(rows):
        print(f'{i + 1}/{len(rows)} {source}', flush=True)
        counts[source] = paper_tables.count(rows[source])
    paper_tables.save_counts(counts)


TABLES: dict[str, Callable[[], str]] = {
    'maps': maps,
    **{f'benchmark-{name}': partial(benchmark, name)
       for name in ('cpu-infer', 'cpu-sizes', 'cpu-train', 'cuda')},
    **{f'profile-{file.stem}': partial(profiles, file.stem)
       for file in PROFILES.glob('*.csv')},
    'slower': lambda: slower_than_peers(sorted(BENCHMARKS.glob('*.csv'))),
    'zoo': zoo,
    'drop-in': lambda: drop_in.table(archs()),
    **{name: partial(paper_table, name)
       for name in paper_tables.load_tables()},
    **{f'tables-{paper}': partial(paper_page, paper) for paper in {
        t.paper: None for t in paper_tables.load_tables().values()}},
}


def generate(text: str) -> str:
    """A page with its tables made anew."""
    return SECTION.sub(
        lambda m: f'{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}', text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        '--check', action='store_true', help='only report what would change')
    parser.add_argument(
        '--count',
        action='store_true',
        help="before that, count the models of the papers' tables anew")
    args = parser.parse_args()
    if args.count:
        count()
    changed = []
    pages = [ROOT / 'README.md', *ROOT.glob('docs/**/*.md'),
             *ROOT.glob('configs/*/README.md')]
    for page in pages:
        text = page.read_text()
        new = generate(text)
        if new != text:
            changed.append(page.relative_to(ROOT))
            if not args.check:
                page.write_text(new)
    for page in changed:
        print(f'{page}: {"out of date" if args.check else "written"}')
    sys.exit(bool(changed) and args.check)


if __name__ == '__main__':
    main()
