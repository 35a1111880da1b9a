# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Write an HTML page about a trained model: curve, scores, pictures."""
import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import mmxvit  # noqa: F401  it says what is missing

# isort: split
from mmengine.device import is_cuda_available

from mmxvit.analysis.gallery import (
    Gallery,
    compare,
    draw_attentions,
    read_curve,
    read_scores,
    score_tables,
    use_class_scores,
    write_page,
)
from mmxvit.engine.checks import check_channels, check_data
from mmxvit.engine.command import (
    UserError,
    add_config_arguments,
    command,
    load_config,
    new_file,
)
from mmxvit.engine.predict import build_model
from mmxvit.engine.testing import run_test
from mmxvit.utils.allocator import tune_allocator

ATTENTION_IMAGES = 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--work-dir',
        help='folder of the training, for its curve '
        '(default: ./work_dirs/<config name>)')
    parser.add_argument(
        '--scores',
        type=Path,
        metavar='JSON',
        help='scores that tools/test.py has written for this checkpoint, '
        'WORK_DIR/<time>/<time>.json; without them it is tested first')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='HTML',
        help='page to write (default: <work dir>/gallery.html)')
    parser.add_argument(
        '--images',
        type=int,
        default=8,
        help='how many test images are shown (default: %(default)s)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='objects with a lower score are left out (default: %(default)s)')
    parser.add_argument(
        '--device',
        default='cuda:0' if is_cuda_available() else 'cpu',
        help='where the pictures are computed (default: %(default)s)')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    if args.images < 1:
        raise UserError(f'--images {args.images}: expected 1 or more')
    name = Path(args.config).stem
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    work_dir = Path(cfg.work_dir)
    if args.work_dir and not work_dir.is_dir():
        raise UserError(f'--work-dir {work_dir}: no such folder; give that '
                        'of the training')
    scores = read_scores(args.scores) if args.scores else None
    check_channels(cfg)
    check_data(cfg, ['test'])
    model = build_model(cfg, args.checkpoint, args.device)
    if scores is None:
        tested = copy.deepcopy(cfg)
        use_class_scores(tested)
        scores = run_test(tested, args.checkpoint)

    comparisons, images = compare(cfg, model, args.images, args.score_thr)
    model.to('cpu')
    attention, note = [], ''
    try:
        for shown, image in zip(
                comparisons[:ATTENTION_IMAGES], images, strict=False):
            attention += draw_attentions(cfg, model, shown.name, **image)
    except UserError as error:  # such as a backbone of another package
        note = str(error)
    curve = read_curve(work_dir)
    if curve is None:
        print(f'{work_dir} has no log of a training: the page has no curve')
    path = new_file(args.out or work_dir / 'gallery.html')
    parameters = sum(p.numel() for p in model.parameters())
    write_page(
        Gallery(
            title=name,
            facts=[('backbone', type(model.backbone).__name__),
                   ('parameters', f'{parameters:,}'),
                   ('checkpoint', Path(args.checkpoint).name)],
            curve=curve,
            tables=score_tables(scores),
            comparisons=comparisons,
            attention=attention,
            attention_note=note), path)
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
