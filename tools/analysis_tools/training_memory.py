# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Memory per GPU of a training in float32, from steps of 2 and 4 images.

Counted are the bytes of the tensors that are alive in a step on the CPU.
"""
import argparse
import copy
import sys

from mmxvit.analysis.benchmark import Settings, prepare
from mmxvit.analysis.memory import bytes_per_image
from mmxvit.analysis.models import parse_model
from mmxvit.utils.allocator import tune_allocator

STATES = 20
"""Bytes per parameter of DDP and AdamW in float32."""
LEGEND = f"""
MiB per GPU with DDP and AdamW = fixed + images per GPU x per image
fixed      {STATES} bytes per parameter: weight, gradient, AdamW's averages,
           the copy of the gradient that DDP sends
per image  what an image adds to the peak of a step: it grows with H x W
with_cp    the same with with_cp=True in the backbone"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'models',
        nargs='+',
        metavar='MODEL',
        help='mmxvit.XFormer:xformer (type and arch), dict(type=..., ...), '
        'JSON or a config file; NAME= in front gives it a name')
    parser.add_argument(
        '--size', type=int, default=224, metavar='PIXELS',
        help='height and width of the images, default 224')
    return parser.parse_args()


def main() -> None:
    tune_allocator()
    args = parse_args()
    settings = Settings(((args.size, args.size), ), mode='train', threads=1)
    print('| model | parameters | fixed | per image | with_cp |\n'
          '| --- | --- | --- | --- | --- |')
    try:
        for text in args.models:
            name, cfg = parse_model(text)
            per_image = []
            for with_cp in (False, True):
                cfg = copy.deepcopy(cfg)
                cfg.get('backbone', cfg)['with_cp'] = with_cp
                model = prepare(cfg, settings)
                per_image.append(bytes_per_image(model, settings.sizes[0]))
            params = sum(p.numel() for p in model.parameters())
            mib = [f'{size / 2**20:.0f}'
                   for size in (STATES * params, *per_image)]
            print(f'| {name} | {params:,} | {" | ".join(mib)} |', flush=True)
    except ValueError as error:
        sys.exit(f'training_memory.py: error: {error}')
    print(LEGEND)


if __name__ == '__main__':
    main()
