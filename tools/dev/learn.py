# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Does every family learn? Short trainings on toy data, with targets.

Each job takes a shipped config and changes data, number of classes, image size
and schedule, which is optimiser, learning rate and length. Jobs run one after
another by tools/train.py; a job that was finished before is not repeated, one
that was interrupted goes on from its last checkpoint. The report is written to
WORK_DIR/report.md.
"""
import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from toy_config import fit

ROOT = Path(__file__).resolve().parents[2]

# 10 classes x 30 images, no augmentation; the training set is tested
CLASSIFY = '''
_base_ = {config!r}

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96)),
    dict(type='PackInputs'),
]
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root={data!r},
    data_prefix='train',
    pipeline=pipeline)
loader = dict(
    batch_size=30,
    num_workers=1,
    dataset=dataset,
    collate_fn=dict(type='default_collate'))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(_delete_=True, type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

data_preprocessor = dict(num_classes=10)
model = dict(
    backbone=dict(drop_path_rate=0.),
    head=dict(num_classes=10),
    train_cfg=None{model})

train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters={iters}, val_interval=
    {iters})
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr={lr}, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end={iters}),
]
custom_hooks = []
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval={iters}))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
'''


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: That of the config, where the job has none of its own.
        layout: Of the toy data.
        text: What the fitted config is, given the folder of the data.
        length: Of the training, in words.
        metrics: Keys of the results, with blanks between them.
        target: All of them must reach this.
        start: Name of the job whose backbone it starts from.
    """
    name: str
    layout: str
    text: Callable[[Path], str]
    length: str
    metrics: str
    target: float
    start: str = ''


def classifier(config: str,
               iters: int = 80,
               lr: float = 1e-3,
               model: str = '') -> Job:

    def text(data: Path) -> str:
        return CLASSIFY.format(
            config=str(ROOT / 'configs' / config), data=str(data),
            iters=iters, lr=lr, model=model)

    return Job(Path(config).stem, 'imagenet', text, f'{iters} iterations',
               'accuracy/top1', 95.)


def fitted(config: str,
           metrics: str,
           target: float,
           length: int,
           size: int = 256,
           batch_size: int = 4,
           layout: str = 'coco',
           start: str = '',
           whole: bool = False,
           name: str = '',
           **changes: object) -> Job:
    """Train on 300 images, test on 60.

    Args:
        config: Shipped config, below ``configs/``.
        length: Epochs, or iterations where the config counts these.
        start: Name of the job whose backbone it starts from.
        whole: Whether it starts from the whole model of that job.
        name: Of the job, where another one has the same config.
        changes: Keys of the config, with ``__`` for the dots.
    """
    cfg = Config.fromfile(ROOT / 'configs' / config)
    by_epoch = 'max_epochs' in cfg.train_cfg

    def text(data: Path) -> str:
        new = fit(cfg, data, size, batch_size, length)
        new.param_scheduler = [
            dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=50),
            dict(type='CosineAnnealingLR', by_epoch=by_epoch, end=length,
                 eta_min_ratio=0.01, convert_to_iter_based=by_epoch)
        ]
        new.default_hooks.logger.interval = 10
        new.default_hooks.checkpoint.interval = max(1, length // 50)
        new.train_cfg.val_interval = max(1, length // 3)
        new.randomness = dict(seed=0)
        if start:
            last = (data.parents[1] / start / 'last_checkpoint').read_text()
            if whole:
                new.load_from = last
            else:  # as `pretrained` of the shipped configs
                new.model.backbone.init_cfg = dict(
                    type='Pretrained', checkpoint=last, prefix='backbone.')
        new.merge_from_dict(
            {k.replace('__', '.'): v for k, v in changes.items()})
        return new.pretty_text

    unit = 'epochs' if by_epoch else 'iterations'
    return Job(name or Path(config).stem, layout, text,
               f'{length} {unit} at {size} px', metrics, target, start)


ADAMW = dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05)
SEGMENTOR = dict(
    batch_size=2, optim_wrapper__optimizer__lr=3e-4,
    optim_wrapper__paramwise_cfg__custom_keys__head__lr_mult=3.)
TESTED_AT_384 = dict(
    val_dataloader__dataset__pipeline__1__scale=(1536, 384))
SEGFORMER_LVT = 'lvt/segformer_lvt_8xb2-160k_ade20k-512x512.py'
JOBS = [
    classifier('xformer/xformer_8xb128_in1k.py'),
    # images unmixed, as in all jobs
    classifier(
        'lvt/lvt_8xb128_in1k.py', iters=200, model=', mix_alpha=0.'),
    classifier('fcaformer/fcaformer-l0_8xb128_in1k.py'),
    classifier('fcaformer/fcaformer-l1_8xb128_in1k.py'),
    classifier('cabvit/cabvit-p-l0_8xb128_in1k.py'),
    classifier('cabvit/cabvit-h-l1_8xb128_in1k.py'),
    classifier('lolvit/lolvit-s_8xb128_in1k.py'),
    classifier('lolvit/lolvit-x_8xb128_in1k.py'),
    fitted(
        'xformer/yolov3_xformer_8xb24-320-300e_coco.py',
        'coco/bbox_mAP', 0.5, length=56,
        optim_wrapper__optimizer=ADAMW),
    # Other backbones dropped in, as cheap starts for segmentors. FcaFormer's
    # windows fit 224 px without padding.
    fitted(
        'xformer/yolov3_xformer_8xb24-320-300e_coco.py',
        'coco/bbox_mAP', 0.5, length=56, name='yolov3_lvt',
        optim_wrapper__optimizer=dict(ADAMW, lr=5e-4),
        model__backbone=dict(
            _delete_=True, type='mmxvit.LVT', out_indices=(1, 2, 3)),
        model__neck__in_channels=[256, 160, 64]),
    fitted(
        'xformer/yolov3_xformer_8xb24-320-300e_coco.py',
        'coco/bbox_mAP', 0.5, length=56, size=224, name='yolov3_fcaformer-l1',
        optim_wrapper__optimizer=ADAMW,
        # from 1e-6 blocks take many epochs before they count
        model__backbone=dict(
            _delete_=True, type='mmxvit.FcaFormer', arch='l1',
            layer_scale_init_value=0.1, out_indices=(1, 2, 3)),
        model__neck__in_channels=[320, 192, 128]),
    fitted(
        'lolvit/ssdlite_lolvit-x_8xb32-320-300e_coco.py',
        'coco/bbox_mAP', 0.5, length=48, size=320),
    fitted(
        'lolvit/yolo_lolvit-x_8xb32-640-500e_coco.py',
        'coco/bbox_mAP', 0.5, length=30,
        optim_wrapper__optimizer=ADAMW),
    fitted(
        'fcaformer/mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco.py',
        'coco/segm_mAP', 0.4, length=18, batch_size=2,
        optim_wrapper__optimizer__lr=7e-4),
    fitted(
        'lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco.py',
        'coco_panoptic/PQ', 40., length=30, layout='coco_panoptic',
        optim_wrapper__optimizer__lr=3e-4),
    # Pixels of shapes are few: from random weights segmentors need many times
    # the images that a detector does. They are tested at 1.5 times the size.
    fitted(
        'xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py',
        'mIoU', 80., length=6400, layout='cityscapes',
        start='yolov3_xformer_8xb24-320-300e_coco',
        val_dataloader__dataset__pipeline__1__scale=(768, 384), **SEGMENTOR),
    fitted(
        SEGFORMER_LVT, 'mIoU', 60., length=6000, layout='ade20k',
        start='yolov3_lvt', **TESTED_AT_384, **SEGMENTOR),
    *(fitted(  # warm restarts, of larger images
        SEGFORMER_LVT, 'mIoU', target, length=length, layout='ade20k',
        start=start, whole=True, name=f'segformer_lvt-{name}',
        train_dataloader__dataset__pipeline__2__scale=(1280, 320),
        **TESTED_AT_384, **SEGMENTOR)
      for name, start, target, length in (
          ('longer', Path(SEGFORMER_LVT).stem, 75., 9000),
          ('longest', 'segformer_lvt-longer', 78., 5000),
          ('last', 'segformer_lvt-longest', 80., 4000))),
    fitted(
        'fcaformer/segformer_fcaformer-l1_8xb2-160k_ade20k-512x512.py',
        'mIoU', 60., length=6400, size=224, layout='ade20k',
        start='yolov3_fcaformer-l1',
        train_dataloader__dataset__pipeline__2__scale=(1152, 288),
        **TESTED_AT_384, **dict(
            SEGMENTOR, optim_wrapper__optimizer__lr=5e-4,
            optim_wrapper__paramwise_cfg__custom_keys__head__lr_mult=2.)),
    fitted(  # a warm restart
        'fcaformer/segformer_fcaformer-l1_8xb2-160k_ade20k-512x512.py',
        'mIoU', 70., length=9000, size=224, layout='ade20k',
        start='segformer_fcaformer-l1_8xb2-160k_ade20k-512x512', whole=True,
        name='segformer_fcaformer-l1-longer',
        train_dataloader__dataset__pipeline__2__scale=(1152, 288),
        **TESTED_AT_384, **SEGMENTOR),
    fitted(
        'fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py',
        'mIoU', 80., length=1600, size=224, batch_size=2, layout='ade20k',
        start='segformer_fcaformer-l1-longer',
        train_dataloader__dataset__pipeline__2__scale=(1152, 288),
        optim_wrapper__optimizer__lr=5e-4, **TESTED_AT_384),
    fitted(
        'lolvit/two-head-fpn_lolvit-x_1xb32-224-300e_bdd100k.py',
        'drivable/mIoU lane/mIoU', 80., length=22, size=512, batch_size=8,
        layout='bdd100k', optim_wrapper__optimizer=ADAMW),
]


def run(*args: object) -> None:
    subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, check=True)


def result(folder: Path, metric: str) -> float | None:
    """Last value of a metric in the logs of a work folder."""
    values = [
        record[metric] for path in sorted(folder.glob('*/*.json'))
        for record in map(json.loads, path.read_text().splitlines())
        if metric in record
    ] if folder.is_dir() else []
    scalars = [
        record[metric]
        for path in sorted(folder.glob('*/vis_data/scalars.json'))
        for record in map(json.loads, path.read_text().splitlines())
        if metric in record
    ]
    return (scalars or values or [None])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        'jobs', nargs='*', help='parts of names; default: all jobs')
    parser.add_argument(
        '--work-dir', type=Path, default=ROOT / 'work_dirs/learn')
    parser.add_argument(
        '--amp', action='store_true', help='of tools/train.py')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    jobs = [j for j in JOBS
            if not args.jobs or any(part in j.name for part in args.jobs)]
    if not jobs:
        parser.error('no such job; there are ' + ', '.join(
            j.name for j in JOBS))
    for job in reversed(JOBS):  # a start stands before what starts from it
        if any(j.start == job.name for j in jobs):
            jobs.append(job)
    jobs = [j for j in JOBS if j in jobs]
    lines = ['| config | length | seconds | metric | reached | target |',
             '| --- | --- | --- | --- | --- | --- |']
    failed = False
    for job in jobs:
        data = work_dir / 'data' / job.layout
        if not (data / 'meta.json').exists():
            run('tools/dataset_tools/make_shapes.py', data, '--layout',
                job.layout)
        folder = work_dir / job.name
        config = work_dir / f'{job.name}.py'
        text = job.text(data)
        begun = (folder / 'last_checkpoint').exists() and (
            config.read_text() == text)
        config.write_text(text)
        finished = folder / 'finished.py'  # the config of a whole training
        start = time.monotonic()
        if not finished.exists() or finished.read_text() != text:
            run('tools/train.py', config, '--work-dir', folder,
                *['--resume'] * begun, *['--amp'] * args.amp)
            finished.write_text(text)
        seconds = time.monotonic() - start
        for metric in job.metrics.split():
            value = result(folder, metric)
            if value is None:
                sys.exit(f'{folder}: the training gave no {metric}')
            failed |= value < job.target
            lines.append(f'| {job.name} | {job.length} | {seconds:.0f} '
                         f'| {metric} | {value:.3g} | {job.target:g} |')
        (work_dir / 'report.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))
    sys.exit(failed)


if __name__ == '__main__':
    main()
