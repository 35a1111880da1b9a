# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Latency and peak memory of several backbones or configs in one run.

The models take turns (A B C A B C ...), so that drift of the machine hits
all alike, and each option holds for all of them.
"""
import argparse
import sys
from dataclasses import replace
from pathlib import Path

from mmxvit.analysis.benchmark import (
    Settings,
    environment,
    measure_latency,
    size_name,
)
from mmxvit.analysis.memory import measure_memory
from mmxvit.analysis.models import parse_models
from mmxvit.analysis.report import (
    Progress,
    benchmark_rows,
    format_table,
    plot_latency,
    write_csv,
)
from mmxvit.deployment.runtimes import PACKAGES, runtime_latency
from mmxvit.utils.allocator import tune_allocator


def parse_size(text: str) -> tuple[int, int]:
    """'512' or '512x1024', height first."""
    height, _, width = text.partition('x')
    return int(height), int(width or height)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'models',
        nargs='+',
        metavar='MODEL',
        help='mmxvit.XFormer:xformer (type and arch), '
        "\"dict(type='mmpretrain.MobileViT', arch='small')\", JSON or a "
        'config file; NAME= in front gives it a name')
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=parse_size,
        default=[(224, 224), (512, 512), (1024, 1024)],
        metavar='H[xW]',
        help='image sizes, default 224 512 1024')
    parser.add_argument(
        '--baseline', metavar='NAME', help='ratios are to this model '
        '(default: the first)')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument(
        '--mode',
        choices=('infer', 'train'),
        default='infer',
        help='forward in inference mode, or forward and backward')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads, default 2')
    parser.add_argument(
        '--fuse',
        action='store_true',
        help='fold BatchNorms into convolutions before timing')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--compile', action='store_true', help='torch.compile')
    parser.add_argument(
        '--runtimes',
        action='store_true',
        help='ONNX Runtime and OpenVINO as well, all with BatchNorms folded, '
        'in float32 on the CPU; without memory')
    parser.add_argument(
        '--allocator',
        choices=('tuned', 'default'),
        default='tuned',
        help='memory allocator: tuned as in all tools, or as glibc comes')
    parser.add_argument(
        '--rounds', type=int, default=20, help='fewest rounds, default 20')
    parser.add_argument(
        '--min-time',
        type=float,
        default=2.,
        help='fewest seconds measured per size, default 2')
    parser.add_argument(
        '--no-memory', action='store_true', help='do not measure peak memory')
    parser.add_argument('--csv', type=Path, metavar='FILE')
    parser.add_argument(
        '--plot', type=Path, metavar='FILE.png', help='latency over size')
    args = parser.parse_args()
    try:
        args.cfgs = parse_models(args.models)
    except ValueError as error:
        parser.error(str(error))
    args.baseline = args.baseline or next(iter(args.cfgs))
    if args.baseline not in args.cfgs:
        parser.error(f'--baseline {args.baseline}: expected one of '
                     f'{", ".join(args.cfgs)}')
    if min(args.rounds, args.batch, args.threads) < 1:
        parser.error('--rounds, --batch and --threads must be at least 1')
    if args.runtimes:
        other = [f'--{name.replace("_", "-")}' for name in (
            'mode', 'dtype', 'device', 'channels_last', 'compile', 'plot')
            if getattr(args, name) != parser.get_default(name)]
        if other:
            parser.error(f'--runtimes cannot be used with {", ".join(other)}')
    for file in filter(None, (args.csv, args.plot)):
        if file.exists():
            parser.error(f'{file} exists; remove it or choose another name')
        file.parent.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args = parse_args()
    tuned = args.allocator == 'tuned' and tune_allocator()
    if args.allocator == 'tuned' and not tuned:
        print('The allocator cannot be tuned here or is switched off; '
              'measured with the default one.', file=sys.stderr)
    progress = Progress()
    try:
        settings = Settings(
            tuple(dict.fromkeys(args.sizes)), args.batch, args.mode,
            args.dtype, args.device, args.threads, args.fuse,
            args.channels_last, args.compile, args.rounds, args.min_time)
        if args.runtimes:
            settings = replace(settings, fuse=True)
            timed = runtime_latency(args.cfgs, settings, progress)
            runs = {
                runtime: {(name, size): values for (name, other, size), values
                          in timed.items() if other == runtime}
                for runtime in ('torch', *PACKAGES)}
        else:
            runs = {'torch': measure_latency(args.cfgs, settings, progress)}
        memory = {}
        if not (args.no_memory or args.runtimes):
            for name, cfg in args.cfgs.items():
                progress(f'memory of {name} at '
                         f'{", ".join(map(size_name, settings.sizes))}')
                memory[name] = measure_memory(cfg, settings, tuned)
    except ValueError as error:
        sys.exit(f'benchmark.py: error: {error}')
    rows = []
    for runtime, seconds in runs.items():
        rows += benchmark_rows(seconds, memory, settings, args.baseline,
                               'tuned' if tuned else 'default',
                               environment(args.device), runtime)
        print(format_table(rows[-len(seconds):]) + '\n')
    if args.csv:
        write_csv(rows, args.csv)
        print(f'written: {args.csv}')
    if args.plot:
        plot_latency(rows, args.plot)
        print(f'written: {args.plot}')


if __name__ == '__main__':
    main()
