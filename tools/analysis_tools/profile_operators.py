# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Where the time of a forward on a CPU goes: operators by what they do.

One image, float32, inference mode.  Beside the shares: how many
multiply-adds of each model run in a second, and how many of the machine's own
best operators do.
"""
import argparse
import sys
from pathlib import Path
from statistics import median

from mmxvit.analysis.benchmark import (
    Settings,
    environment,
    make_images,
    measure_latency,
    prepare,
    size_name,
)
from mmxvit.analysis.complexity import complexity
from mmxvit.analysis.models import parse_models
from mmxvit.analysis.operators import (
    machine_rates,
    operator_times,
    profile_tables,
)
from mmxvit.analysis.report import Progress, write_csv
from mmxvit.utils.allocator import tune_allocator


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'models',
        nargs='+',
        metavar='MODEL',
        help='as of benchmark.py: mmxvit.XFormer:xformer, dict(type=..., '
        '...), JSON or a config file; NAME= in front gives it a name')
    parser.add_argument(
        '--sizes', nargs='+', type=int, default=[512], metavar='PIXELS',
        help='heights and widths of the image, default 512')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads, default 2')
    parser.add_argument(
        '--rounds', type=int, default=20,
        help='fewest forwards of each model and size that are timed, and at '
        'most six that are profiled; default 20')
    parser.add_argument('--csv', type=Path, metavar='FILE')
    args = parser.parse_args()
    try:
        args.cfgs = parse_models(args.models)
    except ValueError as error:
        parser.error(str(error))
    if min(args.rounds, args.threads, *args.sizes) < 1:
        parser.error('--rounds, --threads and --sizes must be at least 1')
    if args.csv:
        if args.csv.exists():
            parser.error(
                f'{args.csv} exists; remove it or choose another name')
        args.csv.parent.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args = parse_args()
    tuned = tune_allocator()
    progress = Progress()
    settings = Settings(
        tuple((size, size) for size in dict.fromkeys(args.sizes)),
        threads=args.threads, rounds=args.rounds)
    try:
        seconds = measure_latency(args.cfgs, settings, progress)
    except ValueError as error:
        sys.exit(f'profile_operators.py: error: {error}')
    rates = machine_rates()
    rows = []
    for (name, size), values in seconds.items():
        progress(f'profile of {name} at {size_name(size)}')
        model = prepare(args.cfgs[name], settings)
        times = operator_times(model, make_images(model, size, settings),
                               min(6, args.rounds))
        rows.append(dict(
            model=name,
            height=size[0],
            width=size[1],
            median_ms=round(median(values) * 1e3, 3),
            executed_gmac=round(
                complexity(model, (3, *size)).executed / 1e9, 4),
            calls=times.calls,
            **{kind: round(value * 1e3, 3)
               for kind, value in times.seconds.items()},
            matmul_gmac_s=round(rates['matmul'] / 1e9, 1),
            conv_gmac_s=round(rates['conv'] / 1e9, 1),
            threads=args.threads,
            allocator='tuned' if tuned else 'default',
            **environment('cpu')))
    print(profile_tables(rows))
    if args.csv:
        write_csv(rows, args.csv)
        print(f'\nwritten: {args.csv}')


if __name__ == '__main__':
    main()
