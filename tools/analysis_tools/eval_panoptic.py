# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Panoptic quality of predictions in COCO's panoptic format."""
import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmxvit.engine.command import UserError, command
from mmxvit.evaluation.coco_panoptic import evaluate_files
from mmxvit.evaluation.panoptic import format_table
from mmxvit.utils.allocator import tune_allocator


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, what in (('gt', 'the ground truth'), ('pred', 'predictions')):
        parser.add_argument(
            f'--{name}-json',
            required=True,
            metavar='FILE.json',
            help=f'JSON file of {what}')
        parser.add_argument(
            f'--{name}-dir',
            required=True,
            metavar='FOLDER',
            help=f'folder of the PNG files of {what}')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE.json',
        help='write the result, as fractions 0..1, and that of each category')
    parser.add_argument(
        '--force', action='store_true', help='replace --out if it exists')
    parser.add_argument(
        '--classwise',
        action='store_true',
        help='print a row for each category too')
    parser.add_argument(
        '--nproc',
        type=int,
        default=1,
        help='images to work on at a time (default: %(default)s)')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    args = parse_args(argv)
    if args.nproc < 1:
        raise UserError(f'--nproc {args.nproc}: must be 1 or more')
    if args.out and args.out.is_dir():
        raise UserError(f'{args.out}: is a folder; name the file to write')
    if (args.out and args.out.exists() and args.out.stat().st_size
            and not args.force):
        raise UserError(f'{args.out}: exists already; remove it, choose '
                        'another name or give --force')
    quality, categories = evaluate_files(args.gt_json, args.gt_dir,
                                         args.pred_json, args.pred_dir,
                                         args.nproc)
    print(format_table(quality, categories if args.classwise else None))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(quality, indent=1) + '\n')
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
