# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Parameters and multiply-accumulates of a backbone or a config, per stage."""
import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import mmxvit  # noqa: F401  it says what is missing

# isort: split
import torch
from mmengine.config import Config, DictAction

from mmxvit.analysis.complexity import PARTS, Complexity, complexity
from mmxvit.analysis.models import (
    build_model,
    config_input_size,
    load_config,
    model_of_config,
    parse_model,
)
from mmxvit.utils.allocator import tune_allocator

DEFAULT_SIZE = (224, 224)
LEGEND = """\
Multiply-accumulates (MACs) in millions for the whole batch.
nominal   what the paper's structure asks for, at weights x output positions:
  linear       convolutions and linear layers, without bias
  attention    products of activations with activations, where the module
               states them, and all of torch.nn.MultiheadAttention
  norm         2 per element of a norm with affine parameters, else 1
  elementwise  1 per output of a convolution with bias, per element of a
               ReLU-like activation, per input element of a pooling layer
executed  half of what torch's FlopCounterMode sees in the real forward: all
          convolutions and matrix products
Neither has operators with kernels of their own (deformable convolution, RoI
align). Two-stage detectors run RoI heads on what their untrained RPN proposes.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'model',
        help='type with scope (mmxvit.XFormer, mmpretrain.MobileViT), the '
        'same as dict(type=..., ...) or JSON, or a config file')
    parser.add_argument('--arch', help='arch of the backbone')
    parser.add_argument(
        '--size',
        nargs='+',
        type=int,
        metavar=('H', 'W'),
        help='image size; default: the size the config tests at, else 224')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='keywords of the backbone or settings of the config, key=value')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the same as JSON')
    args = parser.parse_args()
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    if args.json and args.json.exists():
        parser.error(f'{args.json} exists; remove it or choose another name')
    return args


def read_model(
        args: argparse.Namespace) -> tuple[str, dict, tuple[int, int], str]:
    """Name, config for build_model, (H, W) and where the size is from."""
    size, origin = DEFAULT_SIZE, 'default'
    if args.model.endswith('.py'):
        if args.arch:
            raise ValueError('--arch is for a backbone by its type; for a '
                             'config use --cfg-options model.backbone.arch=')
        config = load_config(args.model)
        config.merge_from_dict(args.cfg_options)
        name, cfg = args.model, model_of_config(config)
        size, origin = config_input_size(config) or (size, origin)
    else:
        name, cfg = parse_model(args.model)
        if args.arch:
            name, cfg['arch'] = f'{cfg["type"]}:{args.arch}', args.arch
        config = Config(cfg)
        config.merge_from_dict(args.cfg_options)
        cfg = config.to_dict()
    if args.size:
        size, origin = (args.size[0], args.size[-1]), '--size'
    return name, cfg, size, origin


def format_counts(counts: Complexity) -> str:
    """The table: a row per stage, and the sum."""
    rows = [(s.name, s.params, s.nominal, s.executed) for s in counts.stages]
    rows.append(('sum', counts.params, counts.nominal, counts.executed))
    width = max(len(r[0]) for r in rows)
    head = f'{"stage":{width}}{"params":>13}' + ''.join(
        f'{c:>13}' for c in (*PARTS, 'executed'))
    lines = [head, '-' * len(head)]
    for name, params, nominal, executed in rows:
        macs = [*(nominal[p] for p in PARTS), executed]
        lines.append(f'{name:{width}}{params:>13,}' +
                     ''.join(f'{m / 1e6:>13,.2f}' for m in macs))
    lines.insert(-1, lines[1])
    return '\n'.join(lines)


def main() -> None:
    tune_allocator()
    args = parse_args()
    torch.manual_seed(0)
    try:
        name, cfg, size, origin = read_model(args)
        model = build_model(cfg)
    except ValueError as error:
        sys.exit(f'get_flops.py: error: {error}')
    try:
        counts = complexity(model, (3, *size), args.batch)
    except (RuntimeError, ValueError) as error:
        sys.exit(f'get_flops.py: error: {name} does not run on images of '
                 f'{size[0]} x {size[1]} ({error}); detectors and segmentors '
                 'pad images to multiples of 32, so give such a --size')
    print(f'{name}, input {args.batch} x 3 x {size[0]} x {size[1]} '
          f'(size from: {origin})\n')
    print(format_counts(counts))
    print(f'\nlinear + attention           {counts.full / 1e9:.3f} GMACs\n'
          f'linear + norm + elementwise  {counts.paper / 1e9:.3f} GMACs '
          '(as mmcv 1.x and many papers count)\n'
          f'executed                     {counts.executed / 1e9:.3f} GMACs\n'
          f'parameters                   {counts.params / 1e6:.3f} M\n')
    print(LEGEND, end='')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with open(args.json, 'x', encoding='utf-8') as file:
            json.dump(
                dict(
                    model=name,
                    shape=counts.shape,
                    batch=counts.batch,
                    params=counts.params,
                    nominal=counts.nominal,
                    executed=counts.executed,
                    paper=counts.paper,
                    full=counts.full,
                    stages=[asdict(s) for s in counts.stages]),
                file,
                indent=2)
        print(f'\nwritten: {args.json}')


if __name__ == '__main__':
    main()
