# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Test a detector, a segmentor or a classifier."""
import argparse
from collections.abc import Sequence

from mmengine.logging import print_log

from mmxvit.engine.checkpoints import check_checkpoint, check_weights
from mmxvit.engine.checks import check_channels, check_data
from mmxvit.engine.command import (
    add_config_arguments,
    add_run_arguments,
    build_runner,
    command,
    load_run_config,
)
from mmxvit.engine.run_options import (
    use_out,
    use_own_hooks,
    use_show_dir,
    use_tta,
)
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
        'config; without them flipping (detection, classification)')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    cfg = load_run_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if cfg.pop('strategy', None):  # for training; this checkpoint is whole
        cfg.pop('runner_type', None)
    use_own_hooks(cfg)
    notes = check_data(cfg, ['test'])
    check_channels(cfg)
    check_checkpoint(args.checkpoint)
    if args.tta:
        use_tta(cfg)
    if args.out:
        use_out(cfg, args.out)
    if args.show_dir:
        use_show_dir(cfg, args.show_dir)

    runner = build_runner(cfg)
    for note in notes:
        print_log(note, logger='current')
    check_weights(runner.model, args.checkpoint, strict=True)
    runner.test()


if __name__ == '__main__':
    main()
