# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The main job from start to end: data, training, test, pictures.

Makes toy data, trains a YOLOv3 with an XFormer backbone by tools/train.py,
tests it by tools/test.py, and writes pictures of the predictions beside the
ground truth and a page with the training curve, scores, predictions and
attention. Ten to twenty minutes on two cores.

Run again, it goes on with a training that was interrupted, and does not train
again after one that was finished.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py'


def run(*args: object) -> None:
    """Run one of the repository's commands, its output as it comes."""
    print('\n$ python', *args, flush=True)
    result = subprocess.run([sys.executable, *map(str, args)], cwd=ROOT)
    if result.returncode:
        sys.exit(result.returncode)


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda p: p.stat().st_mtime)


def is_newer(made: Path, checkpoint: Path) -> bool:
    """False also for what an older training in this folder has left."""
    return made.exists() and (
        made.stat().st_mtime >= checkpoint.stat().st_mtime)


def to_png(folder: Path) -> None:
    """mmdet names its pictures as the images, which are JPEG files."""
    for path in folder.glob('*.jpg'):
        Image.open(path).save(path.with_suffix('.png'))
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        '--epochs', type=int, default=16, help='default: %(default)s')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='default: work_dirs/demo, or work_dirs/demo-EPOCHSe')
    args = parser.parse_args()
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # mmcv is compiled for the CPU
    default = args.epochs == parser.get_default('epochs')
    name = 'demo' if default else f'demo-{args.epochs}e'
    work_dir = (args.work_dir or ROOT / 'work_dirs' / name).resolve()
    data = ROOT / 'data/shapes'

    if not (data / 'meta.json').exists():
        run('tools/dataset_tools/make_shapes.py', data, '--layout', 'coco')
    checkpoint = work_dir / f'epoch_{args.epochs}.pth'
    if checkpoint.exists():
        print(f'{checkpoint} is there: no training (remove {work_dir} for a '
              'new one)')
    else:
        run('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume',
            '--cfg-options', f'train_cfg.max_epochs={args.epochs}',
            f'param_scheduler.1.end={args.epochs}')
    pictures = work_dir / 'pictures'
    partial = work_dir / 'pictures.partial'
    shutil.rmtree(partial, ignore_errors=True)  # of a test that was killed
    show = [] if is_newer(pictures, checkpoint) else ['--show-dir', partial]
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', work_dir / 'test',
        '--cfg-options', 'test_evaluator.classwise=True', *show)
    if show:
        to_png(partial)
        shutil.rmtree(pictures, ignore_errors=True)
        partial.rename(pictures)
    result = newest(work_dir / 'test', '*/*.json')
    page = work_dir / 'gallery.html'
    if not is_newer(page, checkpoint):
        page.unlink(missing_ok=True)
        run('tools/visualization/gallery.py', CONFIG, checkpoint,
            '--work-dir', work_dir, '--scores', result, '--out', page)

    scores = json.loads(result.read_text().splitlines()[-1])
    print('\nCOCO AP on the 60 validation images')
    for key in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'):
        # mmdet has no scores for a model that finds nothing
        print(f'  {key:7s} {scores.get(f"coco/bbox_{key}", 0):.3f}')
    print(f'\nground truth | prediction: {pictures}/*.png'
          f'\nmodel:                     {checkpoint}'
          f'\nall of it on one page:     {page}')


if __name__ == '__main__':
    main()
