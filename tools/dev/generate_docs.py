# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Write the tables in the documentation anew from the code.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""
import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from mmxvit.analysis import drop_in, paper_tables
from mmxvit.models import backbones
from mmxvit.models.backbones.base import PyramidBackbone

ROOT = Path(__file__).resolve().parents[2]
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


def counts_of_metafiles() -> paper_tables.Counts:
    """Counts as in the metafiles, where a test checks them; others anew."""
    known = {}
    for path in ROOT.glob('configs/*/metafile.yml'):
        for model in yaml.safe_load(path.read_text())['Models']:
            meta = model['Metadata']
            size = meta['FLOPs Image Size']
            known[model['Config'].removeprefix('configs/'),
                  size if isinstance(size, int) else tuple(size),
                  meta.get('FLOPs Counting', 'paper')] = (
                      meta['Parameters'], meta['FLOPs'])
    anew = paper_tables.count_row(ROOT / 'configs')

    def counts(config: str, size: paper_tables.Size,
               counting: str) -> tuple[int, int]:
        return known.get((f'{config}.py', size, counting)) or anew(
            config, size, counting)

    return counts


def paper_table(name: str) -> str:
    """A table of a paper, for the README in a folder of configs."""
    return paper_tables.render(
        paper_tables.load_tables()[name], counts_of_metafiles(), '../')


TABLES: dict[str, Callable[[], str]] = {
    'maps': maps,
    'drop-in': lambda: drop_in.table(archs()),
    **{name: partial(paper_table, name)
       for name in paper_tables.load_tables()},
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
    args = parser.parse_args()
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
