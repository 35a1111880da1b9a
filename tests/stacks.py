# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What must be the same on every stack.

``data/stacks/NAME.pth`` is what a training leaves after two of four epochs on
the stack of that name, ``data/stacks/NAME-backbones.pth`` small backbones with
the maps that they made there, ``data/stacks/weights.json`` the names and
shapes of the weights of some shipped models; written by::

    python -m tests.stacks NAME

The training has what a checkpoint can hold: BatchNorm, the optimizer's and
the scheduler's state, the log, and the best value of a metric.
"""
import copy
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from mmxvit.engine.command import build_runner

from .shipped import ROOT

FOLDER = Path(__file__).parent / 'data' / 'stacks'
WEIGHTS = FOLDER / 'weights.json'
MODELS_OF_STACKS = (
    'xformer/yolov3_xformer_8xb24-320-300e_coco.py',
    'xformer/xformer_8xb128_in1k.py',
    'xformer/segformer_xformer_8xb2-160k_ade20k-512x512.py',
    'lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco.py',
    'fcaformer/mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco.py',
    'fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py',
    'lolvit/ssdlite_lolvit-x_8xb32-320-300e_coco.py',
)
BACKBONES = dict(
    XFormer=dict(
        stem_channels=8,
        mv3=(((8, 1), (8, 2)), ((16, 2), ), ((16, 2), ), ((24, 2), )),
        xf=(None, (16, 1, 2), (16, 1, 2), (24, 1, 3)),
        expand_ratio=2,
        qkv_dims=16),
    LVT=dict(
        embed_dims=(8, 8, 16, 32),
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        mlp_ratios=(2, 2, 2, 2),
        sr_ratios=(None, 4, 2, 1)),
    FcaFormer=dict(
        embed_dims=(8, 16, 16, 32),
        depths=(1, 1, 2, 1),
        num_heads=(None, None, 1, 2),
        windows=(None, None, 14, 7),
        out_dims=None),
    LOLViT=dict(
        stem_channels=8,
        ghost=(((8, 1, False), (8, 2, False)), ((16, 2, True), ),
               ((16, 2, True), ), ((24, 2, True), )),
        lol=(None, (16, 1), (16, 1), (24, 1)),
        num_heads=2),
)


@MODELS.register_module(name='StacksModel', force=True)
class Model(BaseModel):
    """Convolution, BatchNorm, mean square; starts from fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.conv.weight.copy_(
                torch.linspace(-1, 1, 54).view_as(self.conv.weight))

    def forward(self, image: Tensor, mode: str = 'tensor') -> object:
        image = torch.stack(list(image))
        loss = (self.norm(self.conv(image)) - 1).pow(2).mean()
        return dict(loss=loss) if mode == 'loss' else [loss]


@DATASETS.register_module(name='StacksData', force=True)
class Data(Dataset):
    """Four images of sines."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return dict(image=torch.arange(2 * 5 * 6).view(2, 5, 6).mul(
            i + 1.).sin())


@METRICS.register_module(name='StacksMetric', force=True)
class Metric(BaseMetric):
    """The loss, as a number of numpy."""

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results.append(float(data_samples[0]))

    def compute_metrics(self, results: list) -> dict[str, np.float64]:
        return dict(loss=np.float64(np.mean(results)))


def train(work_dir: Path, epochs: int, resume: Path | None = None) -> Runner:
    """Train up to that epoch, from the start or from a checkpoint."""
    data = dict(
        batch_size=2, dataset=dict(type='StacksData'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'))
    runner = build_runner(Config(dict(
        model=dict(type='StacksModel'),
        work_dir=str(work_dir),
        experiment_name=Path(work_dir).name,  # one for each run
        train_dataloader=data,
        val_dataloader=data,
        val_evaluator=dict(type='StacksMetric'),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=.05)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=4, end=4),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', save_best='loss',
                            rule='less')),
        load_from=resume and str(resume),
        resume=resume is not None)))
    runner.train()
    return runner


def weights(config: str) -> dict[str, list]:
    """Number, and digest of names and shapes, by part of a shipped model."""
    cfg = Config.fromfile(ROOT / config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    parts: dict[str, list[str]] = {}
    for name, value in model.state_dict().items():
        parts.setdefault(name.partition('.')[0], []).append(
            f'{name} {list(value.shape)}')
    return {
        part: [len(lines), hashlib.sha256(
            '\n'.join(lines).encode()).hexdigest()[:16]]
        for part, lines in parts.items()
    }


def backbone(name: str) -> nn.Module:
    """One of ``BACKBONES``, its norms with statistics of some images."""
    torch.manual_seed(0)
    model = MODELS.build(dict(type=f'mmxvit.{name}', arch=BACKBONES[name]))
    model(torch.randn(4, 3, 64, 64))
    return model.eval()


def maps(model: nn.Module) -> tuple[Tensor, ...]:
    """Of an image of sines, 64 x 64."""
    image = torch.arange(3. * 64 * 64).view(1, 3, 64, 64).sin()
    with torch.no_grad():
        return model(image)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), 2)
        checkpoint = torch.load(
            Path(folder) / 'epoch_2.pth', weights_only=False)
    # the folder is not to be in it
    for info in checkpoint['meta'], checkpoint['message_hub']['runtime_info']:
        info.update({key: value.replace(folder, 'work_dirs/stacks')
                     for key, value in info.items() if isinstance(value, str)})
    FOLDER.mkdir(exist_ok=True)
    WEIGHTS.write_text(json.dumps(
        {config: weights(config) for config in MODELS_OF_STACKS},
        indent=1) + '\n')
    torch.save(checkpoint, FOLDER / f'{sys.argv[1]}.pth')
    # half of the bytes, and no kilobyte around each weight
    models = {name: backbone(name).half() for name in BACKBONES}
    torch.save(
        {name: dict(state_dict=model.state_dict(),
                    maps=maps(copy.deepcopy(model).float()))
         for name, model in models.items()},
        FOLDER / f'{sys.argv[1]}-backbones.pth',
        _use_new_zipfile_serialization=False)
