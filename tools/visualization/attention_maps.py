# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Draw the attention weights of a model's backbone for an image."""
import argparse
from collections.abc import Sequence
from pathlib import Path

import mmxvit  # noqa: F401  it says what is missing

# isort: split
import mmcv
from mmengine.config import Config

from mmxvit.analysis.attention_maps import (
    CLASS_TOKEN,
    draw_attention,
    record_attentions,
)
from mmxvit.analysis.models import config_input_size
from mmxvit.engine.command import (
    UserError,
    add_config_arguments,
    command,
    load_config,
    new_file,
)
from mmxvit.engine.predict import build_model, preprocess, read_image
from mmxvit.utils.allocator import tune_allocator

DEFAULT_SIZE = (224, 224)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help='image file')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file or URL; without it the weights are random')
    parser.add_argument(
        '--query',
        nargs='+',
        default=['0.5', '0.5'],
        metavar=('X', 'Y'),
        help='place whose weights are drawn, as fractions of width and '
        f"height (default: 0.5 0.5), or '{CLASS_TOKEN}', the class token of "
        'a plain model')
    parser.add_argument(
        '--size',
        nargs='+',
        type=int,
        metavar=('H', 'W'),
        help='size the image is brought to; default: the size the config '
        'tests at, else 224')
    parser.add_argument(
        '--layers',
        nargs='+',
        default=[],
        metavar='SUBSTR',
        help='only attentions with one of these in their names '
        '(default: all)')
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path(),
        help='folder for the pictures, <image name>_<config name>_<layer>.png '
        '(default: the current one)')
    return parser.parse_args(argv)


def read_query(words: list[str]) -> tuple[float, float] | str:
    """Fractions (x, y) or the name of the class token."""
    if words == [CLASS_TOKEN]:
        return CLASS_TOKEN
    try:
        x, y = map(float, words)
    except ValueError:
        x = y = -1
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UserError(
            f'--query {" ".join(words)}: expected X Y, two numbers from 0 to '
            f"1 (fractions of width and height), or '{CLASS_TOKEN}'")
    return x, y


def read_size(words: list[int] | None, cfg: Config,
              smallest: int) -> tuple[int, int]:
    """(H, W) of the image for the model."""
    size, origin = config_input_size(cfg) or (DEFAULT_SIZE, 'default')
    if words is not None:
        size, origin = (words[0], words[-1]), '--size'
        if len(words) > 2 or min(size) < smallest:
            raise UserError(
                f'--size {" ".join(map(str, words))}: expected H W, or one '
                f'number for both, from {smallest} up')
    print(f'input {size[0]} x {size[1]} (size from: {origin})')
    return size


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    query = read_query(args.query)
    cfg = load_config(args.config, args.cfg_options)
    image = read_image(args.image)
    model = build_model(cfg, args.checkpoint, 'cpu')
    if args.checkpoint is None:
        print('no checkpoint given: the weights are random')
    backbone = getattr(model, 'backbone', model)
    size = read_size(args.size, cfg, getattr(backbone, 'min_size', 1))
    image = mmcv.imresize(image, size[::-1])
    records = record_attentions(backbone, preprocess(model, image),
                                args.layers)
    for record in records:
        figure = draw_attention(record, image, query)
        path = new_file(args.out_dir / (
            f'{Path(args.image).stem}_{Path(args.config).stem}_'
            f'{record.name}.png'))
        figure.savefig(path, dpi=110, bbox_inches='tight')
        print(f'wrote {path}')


if __name__ == '__main__':
    main()
