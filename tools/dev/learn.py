# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Does every family learn? Short trainings on toy data, with targets.

Each job inherits a shipped config and changes data, size and schedule. Jobs
run one after another by tools/train.py; a job that was finished before is not
repeated. The report is written to WORK_DIR/report.md.
"""
import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
        config: Shipped config, below ``configs/``.
        layout: Of the toy data.
        template: Config that inherits it.
        metric: Key of the result.
        target: It must reach this.
        options: What the template asks for.
    """
    config: str
    layout: str
    template: str
    metric: str
    target: float
    options: dict

    @property
    def name(self) -> str:
        return Path(self.config).stem


def classifier(config: str,
               iters: int = 80,
               lr: float = 1e-3,
               model: str = '') -> Job:
    return Job(config, 'imagenet', CLASSIFY, 'accuracy/top1', 95.,
               dict(iters=iters, lr=lr, model=model))


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
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    jobs = [j for j in JOBS
            if not args.jobs or any(part in j.name for part in args.jobs)]
    if not jobs:
        parser.error('no such job; there are ' + ', '.join(
            j.name for j in JOBS))
    lines = ['| config | iterations | seconds | metric | reached | target |',
             '| --- | --- | --- | --- | --- | --- |']
    failed = False
    for job in jobs:
        data = work_dir / 'data' / job.layout
        if not (data / 'meta.json').exists():
            run('tools/dataset_tools/make_shapes.py', data, '--layout',
                job.layout)
        folder = work_dir / job.name
        config = work_dir / f'{job.name}.py'
        config.write_text(
            job.template.format(
                config=str(ROOT / 'configs' / job.config),
                data=str(data),
                **job.options))
        start = time.monotonic()
        value = result(folder, job.metric)
        if value is None:
            run('tools/train.py', config, '--work-dir', folder)
            value = result(folder, job.metric)
        if value is None:
            sys.exit(f'{folder}: the training gave no {job.metric}')
        failed |= value < job.target
        lines.append(
            f'| {job.name} | {job.options["iters"]} '
            f'| {time.monotonic() - start:.0f} | {job.metric} '
            f'| {value:.3g} | {job.target:g} |')
        (work_dir / 'report.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))
    sys.exit(failed)


if __name__ == '__main__':
    main()
