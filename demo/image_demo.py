# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Draw the predictions of a detector, segmentor or classifier on an image."""
import argparse
from collections.abc import Sequence
from pathlib import Path

import mmxvit  # noqa: F401  it says what is missing

# isort: split
from mmengine.device import is_cuda_available

from mmxvit.engine.checks import check_channels
from mmxvit.engine.command import (
    add_config_arguments,
    command,
    load_config,
    new_file,
)
from mmxvit.engine.predict import build_model, draw, predict, read_image
from mmxvit.utils.allocator import tune_allocator

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help='image file')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file or URL; without it the weights are random')
    parser.add_argument(
        '--out',
        default='.',
        help='picture to write, or folder for it '
        '(default: ./<image name>_<config name>.png)')
    parser.add_argument(
        '--device',
        default='cuda:0' if is_cuda_available() else 'cpu',
        help='where to compute (default: %(default)s)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='objects with a lower score are left out (default: %(default)s)')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    image = read_image(args.image)
    check_channels(cfg)
    model = build_model(cfg, args.checkpoint, args.device)
    if args.checkpoint is None:
        print('no checkpoint given: the weights are random')
    sample = predict(model, cfg, args.image)
    out = Path(args.out)
    if out.suffix.lower() not in SUFFIXES:
        out /= f'{Path(args.image).stem}_{Path(args.config).stem}.png'
    path = new_file(out)
    draw(cfg, image, sample, str(path), args.score_thr)
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
