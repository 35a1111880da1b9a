# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Make small, learnable, exactly annotated toy data."""
import argparse
import time

from mmxvit.datasets.shapes import CLASSES, LAYOUTS, SHAPES, write_dataset
from mmxvit.dependencies import explain_import_error
from mmxvit.utils.allocator import tune_allocator


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', metavar='OUT', help='folder to write to')
    parser.add_argument(
        '--layout', nargs='+', default=['coco'], choices=LAYOUTS,
        metavar='NAME', help=f'one or several of {", ".join(LAYOUTS)}')
    parser.add_argument(
        '--train', type=int, default=300, help='number of training images')
    parser.add_argument(
        '--val', type=int, default=60, help='number of validation images')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[256], metavar='PX',
        help='side of the images, or height and width')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--classes', type=int, default=None,
        help=f'number of classes, up to {len(SHAPES)}; without it '
        f'{len(CLASSES)}, for imagenet {len(SHAPES)}')
    parser.add_argument(
        '--coco-names', action='store_true',
        help="call the shapes of the layout coco by COCO's class names, of "
        'which the file lists all 80; a config for COCO then runs as it is')
    parser.add_argument(
        '--force', action='store_true',
        help='replace the toy data that an earlier run wrote to OUT')
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes one number, or height and width')
    return args


def main() -> None:
    tune_allocator()
    args = parse_args()
    start = time.time()
    try:
        meta = write_dataset(
            args.out, args.layout, train=args.train, val=args.val,
            size=(args.size[0], args.size[-1]), seed=args.seed,
            classes=args.classes, coco_names=args.coco_names,
            force=args.force)
    except (ValueError, OSError) as error:
        raise SystemExit(f'make_shapes: {error}') from None
    except ImportError as error:
        raise SystemExit('make_shapes: the names of COCO are those of mmdet: '
                         f'{explain_import_error(error)}') from None
    print(f'{args.out}: {", ".join(meta["layouts"])}; {args.train} training '
          f'and {args.val} validation images of {meta["height"]} x '
          f'{meta["width"]}, {len(meta["files"])} files, '
          f'{time.time() - start:.1f} s')


if __name__ == '__main__':
    main()
