# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Tiny data and configs of all three tasks, and commands run in-process."""
import copy
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[2]
CLASSES = ('circle', 'square')


def load_script(name: str) -> ModuleType:
    """A script of the repository, as a module."""
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of a circle or a square, annotated for every task."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.RandomState(0)
    for split, count in (('train', 4), ('val', 3)):
        images, boxes = [], []
        for i in range(count):
            label = i % 2
            image = rng.randint(0, 80, (72, 64, 3), np.uint8)
            mask = np.full((72, 64), 2, np.uint8)
            if label == 0:
                cv2.circle(image, (32, 30), 16, (200, 220, 240), -1)
                cv2.circle(mask, (32, 30), 16, 0, -1)
            else:
                cv2.rectangle(image, (16, 14), (48, 46), (240, 220, 200), -1)
                cv2.rectangle(mask, (16, 14), (48, 46), 1, -1)
            name = f'{i}.png'
            for folder, array in ((f'{split}', image), (f'{split}_mask', mask),
                                  (f'cls/{split}/{CLASSES[label]}', image)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / name), array)
            images.append(dict(id=i, file_name=name, height=72, width=64))
            boxes.append(
                dict(
                    id=i + 1,
                    image_id=i,
                    category_id=label + 1,
                    bbox=[16, 14, 33, 33],
                    area=1089,
                    iscrowd=0,
                    segmentation=[[16, 14, 49, 14, 49, 47, 16, 47]]))
        categories = [dict(id=i + 1, name=c) for i, c in enumerate(CLASSES)]
        (root / f'{split}.json').write_text(
            json.dumps(
                dict(
                    images=images, annotations=boxes, categories=categories)))
    return root


def _run_settings(scope: str) -> dict:
    return dict(
        default_scope=scope,
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=1)),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4)),
        auto_scale_lr=dict(enable=False, base_batch_size=8),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        log_level='INFO',
        randomness=dict(seed=0))


def _loaders(train: dict, test: dict) -> dict:
    def loader(dataset: dict, shuffle: bool) -> dict:
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            dataset=dataset)

    return dict(
        train_dataloader=loader(train, True),
        val_dataloader=loader(test, False),
        test_dataloader=loader(copy.deepcopy(test), False))


def det_config(data: Path, backbone: dict | None = None,
               channels: tuple[int, ...] = (160, 128, 96)) -> dict:
    """YOLOv3, by default with XFormer."""
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True)
    ]
    size = dict(type='Resize', scale=(64, 64), keep_ratio=False)
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')

    def dataset(split: str, pipeline: list[dict]) -> dict:
        return dict(
            type='CocoDataset',
            data_root=str(data),
            ann_file=f'{split}.json',
            data_prefix=dict(img=split),
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline)

    train = dataset('train', [
        *load, size, dict(type='PackDetInputs')
    ])
    test = dataset('val', [
        load[0], size, load[1], dict(type='PackDetInputs', meta_keys=meta)
    ])
    test['test_mode'] = True
    evaluator = dict(
        type='CocoMetric', ann_file=str(data / 'val.json'), metric='bbox')
    model = dict(
        type='YOLOV3',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3,
            pad_size_divisor=32),
        backbone=backbone or dict(
            type='mmxvit.XFormer', arch='xformer', out_indices=(1, 2, 3)),
        neck=dict(
            type='YOLOV3Neck', num_scales=3, in_channels=list(channels),
            out_channels=[32, 32, 32]),
        bbox_head=dict(
            type='YOLOV3Head', num_classes=2, in_channels=[32, 32, 32],
            out_channels=[32, 32, 32],
            anchor_generator=dict(
                type='YOLOAnchorGenerator',
                base_sizes=[[(40, 40)], [(30, 30)], [(16, 16)]],
                strides=[32, 16, 8]),
            bbox_coder=dict(type='YOLOBBoxCoder'),
            featmap_strides=[32, 16, 8]),
        train_cfg=dict(
            assigner=dict(
                type='GridAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
                min_pos_iou=0)),
        test_cfg=dict(
            # every box counts: an untrained network gives no sure ones
            nms_pre=100, min_bbox_size=0, score_thr=0., conf_thr=-1,
            nms=dict(type='nms', iou_threshold=0.45), max_per_img=100))
    return dict(
        _run_settings('mmdet'), model=model, **_loaders(train, test),
        val_evaluator=evaluator, test_evaluator=copy.deepcopy(evaluator),
        visualizer=dict(
            type='DetLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')]))


MOBILENET = dict(type='MobileNetV2', out_indices=(2, 4, 6))
MOBILENET_CHANNELS = (320, 96, 32)


def seg_config(data: Path) -> dict:
    """FCN head on stock MobileNetV2."""
    def dataset(split: str, pipeline: list[dict]) -> dict:
        return dict(
            type='BaseSegDataset',
            data_root=str(data),
            data_prefix=dict(img_path=split, seg_map_path=f'{split}_mask'),
            img_suffix='.png',
            metainfo=dict(classes=(*CLASSES, 'ground')),
            pipeline=pipeline)

    load = dict(type='LoadImageFromFile')
    size = dict(type='Resize', scale=(64, 64), keep_ratio=False)
    labels, pack = dict(type='LoadAnnotations'), dict(type='PackSegInputs')
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[128.] * 3, std=[64.] * 3,
            size=(64, 64)),
        backbone=dict(
            type='MobileNetV2', out_indices=(1, 2, 4, 6),
            norm_cfg=dict(type='BN')),
        decode_head=dict(
            type='FCNHead', in_channels=320, in_index=3, channels=16,
            num_convs=1, num_classes=3, concat_input=False,
            norm_cfg=dict(type='BN')),
        train_cfg=dict(), test_cfg=dict(mode='whole'))
    return dict(
        _run_settings('mmseg'), model=model,
        **_loaders(
            dataset('train', [load, labels, size, pack]),
            dataset('val', [load, size, labels, pack])),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']))


def cls_config(data: Path) -> dict:
    """Linear head on stock MobileNetV2."""
    def dataset(split: str) -> dict:
        return dict(
            type='CustomDataset', data_root=str(data / 'cls'),
            data_prefix=split,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=64),
                dict(type='CenterCrop', crop_size=64),
                dict(type='PackInputs')
            ])

    model = dict(
        type='ImageClassifier',
        backbone=dict(type='MobileNetV2', widen_factor=0.5),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=2, in_channels=1280,
            topk=(1, ), loss=dict(type='CrossEntropyLoss')))
    return dict(
        _run_settings('mmpretrain'), model=model,
        data_preprocessor=dict(
            num_classes=2, mean=[128.] * 3, std=[64.] * 3, to_rgb=True),
        **_loaders(dataset('train'), dataset('val')),
        val_evaluator=dict(type='Accuracy', topk=(1, )),
        test_evaluator=dict(type='Accuracy', topk=(1, )))


CONFIGS = dict(det=det_config, seg=seg_config, cls=cls_config)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Callable[..., str]:
    """``config('det', **changes)`` writes ``det.py`` and returns its path.

    Changes are keys of the config with ``__`` for the dots.
    """

    def write(task: str, name: str | None = None, **changes: object) -> str:
        cfg = Config(CONFIGS[task](data))
        cfg.merge_from_dict(
            {k.replace('__', '.'): v for k, v in changes.items()})
        path = tmp_path / f'{name or task}.py'
        cfg.dump(str(path))
        return os.path.relpath(path)

    return write


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], str]:
    """``checkpoint(config)``: a file of random weights for its model."""

    def write(path: str) -> str:
        cfg = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        torch.save(dict(state_dict=model.state_dict(), meta={}), 'random.pth')
        return 'random.pth'

    return write


@pytest.fixture
def failure() -> Callable[..., str]:
    """``failure(main, *argv)``: the message of a command that must fail."""

    def run(main: Callable, *argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        assert isinstance(stop.value.code, str), stop.value.code
        assert stop.value.code.startswith('error: ')
        return stop.value.code

    return run


@pytest.fixture
def script() -> Callable[[str], ModuleType]:
    """``script('tools/train.py')``: the script as a module."""
    return load_script
