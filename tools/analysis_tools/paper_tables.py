# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The papers' tables, row by row: their figures beside those counted here.

Parameters and FLOPs are those in mmxvit/analysis/paper_counts.json, which the
tests compare with the models. --latency measures all rows of a table in
turns; --checkpoints tests weights that you have. Accuracies in columns that
end in "paper" are the papers', and no others are printed without weights.
"""
import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import mmxvit  # noqa: F401  it says what is missing

# isort: split
from mmengine.config import DictAction

from mmxvit.analysis.benchmark import Settings
from mmxvit.analysis.paper_measures import (
    checkpoint_accuracies,
    checkpoint_names,
    measure_speed,
)
from mmxvit.analysis.paper_plots import plot_papers
from mmxvit.analysis.paper_tables import (
    Table,
    cells,
    load_counts,
    load_tables,
    markdown,
    remarks,
)
from mmxvit.analysis.report import Progress, plot_table
from mmxvit.engine.command import UserError, command
from mmxvit.utils.allocator import tune_allocator


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    names = list(load_tables())
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--table',
        nargs='+',
        choices=names,
        default=names,
        metavar='NAME',
        help=f'default: all, which are {", ".join(names)}')
    parser.add_argument(
        '--format', choices=('md', 'csv', 'png'), default='md')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='write a file NAME.FORMAT for each table; default: print them '
        '(md, csv)')
    parser.add_argument(
        '--plots',
        type=Path,
        metavar='DIR',
        help='write no tables but pictures: the papers\' ImageNet accuracies '
        'over parameters and over latency measured now, and latency and '
        'memory over the resolution')
    parser.add_argument(
        '--checkpoints',
        type=Path,
        metavar='DIR',
        help='test the rows that have a file <name of the config>.pth here')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='for --checkpoints: changes of all configs, such as data_root=')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/paper_tables'),
        help='for --checkpoints: folder for logs')
    speed = parser.add_argument_group('speed')
    speed.add_argument(
        '--latency',
        action='store_true',
        help='measure latency and peak memory of all rows')
    speed.add_argument(
        '--speeds',
        type=Path,
        metavar='DIR',
        help='for --latency: write the figures to NAME.json as well, which is '
        'what the pages of the documentation show')
    speed.add_argument('--no-memory', action='store_true')
    speed.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    speed.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32')
    speed.add_argument(
        '--threads', type=int, default=2, help='CPU threads, default 2')
    speed.add_argument(
        '--rounds', type=int, default=20, help='fewest rounds, default 20')
    speed.add_argument(
        '--min-time',
        type=float,
        default=2.,
        help='fewest seconds measured per size, default 2')
    args = parser.parse_args(argv)
    if min(args.rounds, args.threads) < 1:
        parser.error('--rounds and --threads must be at least 1')
    if args.plots:  # are all that is made
        for option in 'out', 'latency', 'checkpoints':
            if getattr(args, option):
                parser.error(f'--plots cannot be used with --{option}')
    elif args.format == 'png' and not args.out:
        parser.error('--format png needs --out DIR')
    if args.checkpoints and not args.checkpoints.is_dir():
        parser.error(f'--checkpoints {args.checkpoints}: no such folder')
    if args.speeds and not args.latency:
        parser.error('--speeds needs --latency')
    for option, ending in ('out', args.format), ('speeds', 'json'):
        folder = getattr(args, option)
        for name in args.table if folder else ():
            file = folder / f'{name}.{ending}'
            if file.exists():
                parser.error(f'{file} exists; remove it or choose another '
                             f'--{option}')
    return args


def check_names(folder: Path, tables: dict[str, Table]) -> None:
    """Name checkpoints that belong to no row of these tables.

    Raises:
        UserError: None belongs to one.
    """
    known = {name for table in tables.values()
             for name in checkpoint_names(table.rows).values()}
    files = {path.name for path in folder.glob('*.pth')}
    if not files & known:
        raise UserError(
            f'--checkpoints {folder}: no file there belongs to a row of '
            f'these tables; they are called {", ".join(sorted(known)[:3])} '
            '...: the name of the config and .pth')
    if files - known:
        print(f'warning: {folder} has files of no row of these tables: '
              f'{", ".join(sorted(files - known))}', file=sys.stderr)


def csv_text(lines: list[list[str]]) -> str:
    file = io.StringIO(newline='')
    csv.writer(file, lineterminator='\n').writerows(lines)
    return file.getvalue()


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    tuned = tune_allocator()
    tables = {n: t for n, t in load_tables().items() if n in args.table}
    progress = Progress()

    def settings(sizes: list[tuple[int, int]], batch: int) -> Settings:
        try:
            return Settings(
                tuple(sizes), batch, dtype=args.dtype, device=args.device,
                threads=args.threads, rounds=args.rounds,
                min_time=args.min_time)
        except ValueError as error:
            raise UserError(str(error)) from error

    if args.plots:
        for path in plot_papers(tables, args.plots, settings, tuned,
                                not args.no_memory, progress):
            print(f'written: {path}')
        return
    if args.checkpoints:
        check_names(args.checkpoints, tables)
    for name, table in tables.items():
        measured = tested = None
        if args.latency and table.speed_sizes:
            measured = measure_speed(
                table.rows, settings(table.speed_sizes, table.batch), tuned,
                not args.no_memory, progress)
            if args.speeds:
                args.speeds.mkdir(parents=True, exist_ok=True)
                measured.save(args.speeds / f'{name}.json')
        if args.checkpoints:
            tested = checkpoint_accuracies(
                table.rows, args.checkpoints, args.cfg_options, args.work_dir)
        extra = dict(measured=measured, tested=tested)
        title = f'{table.paper}, {table.title}'
        if args.format == 'md':
            text = f'## {title} ({name})\n\n' + markdown(
                table, load_counts(), **extra)
        else:
            lines = cells(table, load_counts(), **extra)
            text = csv_text(lines)
        if not args.out:
            print(text, end='\n\n')
            continue
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f'{name}.{args.format}'
        if args.format == 'png':
            plot_table(lines, title, remarks(table, **extra), path)
        else:
            path.write_text(text, 'utf-8')
        print(f'written: {path}', file=sys.stderr)


if __name__ == '__main__':
    main()
