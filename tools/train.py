# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Train a detector, a segmentor or a classifier."""
import argparse
from collections.abc import Sequence

import mmxvit  # noqa: F401  it says what is missing

# isort: split
from mmengine.logging import print_log

from mmxvit.engine.checkpoints import (
    check_checkpoint,
    check_weights,
    pretrained_weights,
)
from mmxvit.engine.checks import check_channels, check_data
from mmxvit.engine.command import (
    add_config_arguments,
    add_run_arguments,
    build_runner,
    command,
    load_run_config,
)
from mmxvit.engine.run_options import (
    use_amp,
    use_auto_scale_lr,
    use_own_hooks,
    use_resume,
)
from mmxvit.utils.allocator import tune_allocator


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on with a training; without a file from the newest good '
        'checkpoint of the work folder')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision; in bfloat16 where there is no GPU')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the total batch size over '
        'auto_scale_lr.base_batch_size')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    cfg = load_run_config(args)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        use_auto_scale_lr(cfg)
    use_own_hooks(cfg)
    check_channels(cfg)  # needs no data
    notes = check_data(cfg, ['train', 'val'])
    if args.resume or cfg.get('resume'):
        notes += use_resume(cfg, args.resume or cfg.get('load_from') or 'auto')
    pretrained = pretrained_weights(cfg)
    if cfg.get('resume'):
        pass  # use_resume has checked it
    elif cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
    elif pretrained:
        check_checkpoint(pretrained['checkpoint'], pretrained['prefix'])
    elif cfg.get('pretrained') is None:
        notes.append('backbone trained from scratch (pretrained = None)')
    else:  # the base of this config has built its init_cfg from None
        notes.append(
            'backbone trained from scratch: the config sets pretrained = '
            f'{cfg.pretrained!r}, but model.backbone.init_cfg does not use '
            f'it; to use it add --cfg-options pretrained={cfg.pretrained}')

    runner = build_runner(cfg)
    for note in notes:
        print_log(note, logger='current')
    if cfg.get('load_from'):
        check_weights(
            runner.model, cfg.load_from, strict=cfg.get('resume', False))
    runner.train()


if __name__ == '__main__':
    main()
