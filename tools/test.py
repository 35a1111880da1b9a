# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Test a detector, a segmentor or a classifier."""
import argparse
from collections.abc import Sequence

from mmxvit.engine.command import (
    add_config_arguments,
    add_run_arguments,
    command,
    load_run_config,
)
from mmxvit.engine.testing import run_test
from mmxvit.utils.allocator import tune_allocator


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    add_run_arguments(parser)
    parser.add_argument(
        '--out',
        help='keep the predictions: a new .pkl file (detection, '
        'classification) or a new folder of PNG files (segmentation)')
    parser.add_argument(
        '--show-dir', help='folder for pictures of the predictions')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test time augmentation by tta_model and tta_pipeline of the '
        'config; without them flipping')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    cfg = load_run_config(args)
    run_test(cfg, args.checkpoint, args.tta, args.out, args.show_dir)


if __name__ == '__main__':
    main()
