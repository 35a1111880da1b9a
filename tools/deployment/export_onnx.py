# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Write a backbone, classifier, segmentor or detector as an ONNX file."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mmxvit.analysis.benchmark import Settings, size_name
from mmxvit.deployment.onnx_export import export_onnx, load_model, require
from mmxvit.deployment.runtimes import (
    PACKAGES,
    check_shapes,
    differences,
    make_runners,
    time_runners,
)
from mmxvit.engine.command import UserError, command
from mmxvit.utils.allocator import tune_allocator

TOLERANCE = 1e-4


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help='config file, or a backbone as mmxvit.XFormer:xformer (type and '
        'arch) or dict(type=..., ...)')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file or URL; without it the weights are random')
    parser.add_argument(
        '--out', required=True, type=Path, help='file to write')
    parser.add_argument(
        '--backbone',
        action='store_true',
        help='only the backbone of the config')
    parser.add_argument(
        '--size',
        nargs='+',
        type=int,
        metavar=('H', 'W'),
        help='size to trace, check and measure at; default: the size the '
        'config tests at, else 224. The file takes any size.')
    parser.add_argument(
        '--opset', type=int, default=17, help='from 17 up (default: 17)')
    parser.add_argument(
        '--check',
        action='store_true',
        help='compare ONNX Runtime and OpenVINO with torch at three sizes, '
        'and measure all three')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads, default 2')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    if args.out.exists():
        raise UserError(f'--out {args.out}: exists already; choose another '
                        'name or remove it')
    if args.opset < 17:
        raise UserError(f'--opset {args.opset}: must be 17 (which brought '
                        'LayerNormalization) or higher')
    if args.size and (len(args.size) > 2 or min(args.size) < 32):
        raise UserError('--size takes one or two numbers from 32 up')
    if args.threads < 1:
        raise UserError(f'--threads {args.threads}: must be at least 1')
    require('onnx', *(PACKAGES if args.check else ()))
    model, size, metadata = load_model(args.config, args.checkpoint,
                                       args.backbone)
    if args.size:
        size = args.size[0], args.size[-1]
    if args.checkpoint is None:
        print('no checkpoint given: the weights are random')
    names = export_onnx(model, args.out, size, args.opset, metadata)
    print(f'wrote {args.out}: images -> {", ".join(names)}')
    if not args.check:
        return

    runners = make_runners(model, args.out, args.threads)
    shapes = check_shapes(model, size)
    found = differences(runners, shapes)
    if not any(side % 32 for _, *size in shapes for side in size):
        print('the model takes multiples of 32 only')
    print('\nlargest difference from torch, of the largest output')
    for shape in shapes:
        cells = ''.join(f'  {name} {found[name, shape]:.1e}'
                        for name in PACKAGES)
        print(f'  {shape[0]} x 3 x {shape[1]} x {shape[2]}:{cells}')
    settings = Settings((size, ), threads=args.threads)
    seconds = time_runners({(name, ): run for name, run in runners.items()},
                           settings, lambda line: None)
    print(f'\nmedian of one image of {size_name(size)}, {args.threads} '
          'threads, in turns')
    for (name, _), values in seconds.items():
        print(f'  {name:12}{median(values) * 1e3:9.2f} ms')
    if not max(found.values()) <= TOLERANCE:
        sys.exit(f'error: {args.out} differs from torch by more than '
                 f'{TOLERANCE:g}')


if __name__ == '__main__':
    main()
