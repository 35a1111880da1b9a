# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The main job from start to end: data, training, test, pictures.

Makes toy data, trains a YOLOv3 with an XFormer backbone by tools/train.py,
tests it by tools/test.py, and writes pictures of the predictions beside the
ground truth and a plot of the training. About ten minutes on two cores.

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

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

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


def plot(work_dir: Path, out_file: Path) -> tuple[plt.Axes, plt.Axes]:
    """Loss and AP over the epochs, of all log files of a work folder."""
    records = [
        json.loads(line)
        for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    train = [r for r in records if 'loss' in r and 'epoch' in r]
    val = [r for r in records if 'coco/bbox_mAP' in r and 'epoch' not in r]
    per_epoch = max(r['iter'] for r in train) / max(r['epoch'] for r in train)
    figure, left = plt.subplots(figsize=(8, 4.5))
    left.plot([r['iter'] / per_epoch for r in train],
              [r['loss'] for r in train], color='tab:gray')
    left.set(xlabel='epoch', ylabel='training loss', yscale='log')
    right = left.twinx()
    for key, style in (('bbox_mAP', 'o-'), ('bbox_mAP_50', 's--')):
        # MMEngine counts validations by epoch in an epoch-based loop
        right.plot([r['step'] for r in val], [r[f'coco/{key}'] for r in val],
                   style, label=key.removeprefix('bbox_'))
    right.set(ylabel='AP on the validation set', ylim=(0, 1))
    right.legend(loc='lower left')
    figure.tight_layout()
    figure.savefig(out_file, dpi=120)
    return left, right


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
    show = [] if pictures.exists() else ['--show-dir', partial]
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', work_dir / 'test',
        *show)
    if show:
        to_png(partial)
        partial.rename(pictures)

    curves = work_dir / 'training.png'
    plot(work_dir, curves)
    scores = json.loads(
        newest(work_dir / 'test', '*/*.json').read_text().splitlines()[-1])
    print('\nCOCO AP on the 60 validation images')
    for key in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'):
        print(f'  {key:7s} {scores[f"coco/bbox_{key}"]:.3f}')
    print(f'\nground truth | prediction: {pictures}/*.png'
          f'\nloss and AP:               {curves}'
          f'\nmodel:                     {checkpoint}')


if __name__ == '__main__':
    main()
