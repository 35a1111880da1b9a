# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Every shipped config, on toy data: two iterations, test, pictures."""
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmxvit.datasets.shapes import write_dataset

from ..shipped import CONFIGS, few_proposals, marked
from .conftest import load_script

toy_config = load_script('tools/dev/toy_config.py')
SIZE = 64
ODD = (72, 101)  # of images for segmentors: more than a window
MASKS = ('ade20k', 'cityscapes', 'bdd100k')
# one for each head and each family; the others are slow
FAST = {
    'cabvit-h-l1_8xb128_in1k',
    'fcaformer-l1_8xb128_in1k',
    'lolvit-s_8xb128_in1k',
    'lvt_8xb128_in1k',
    'xformer_8xb128_in1k',
    'segformer_lvt_8xb2-160k_ade20k-512x512',
    'segformer_xformer_8xb1-160k_cityscapes-1024x1024',
    'upernet_cabvit-h-l1_4xb2-160k_cityscapes-1024x1024',
    'upernet_fcaformer-l2-native_8xb2-160k_ade20k-512x512',
    'upernet_lolvit-x_8xb2-160k_ade20k-512x512',
    'fcn_mobilenetv2_4xb4-160k_ade20k-512x512',
    'pspnet_mobilenetv2_4xb4-160k_ade20k-512x512',
    'two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k',
    'deeplabv3plus_mobilenetv2_4xb4-160k_ade20k-512x512',
    'cascade-mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco',
    'centernet_r18-dcnv2_8xb16-320-140e_coco',
    'mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco',
    'panoptic-fpn_lvt_8xb8-ms-3x_coco',
    'retinanet_lvt_fpn_1xb8-320-20e_bccd',
    'ssdlite_lolvit-x_8xb32-320-300e_coco',
    'yolo_lolvit-s_8xb32-640-500e_voc0712',
    'yolov3_xformer_8xb24-320-300e_coco',
    'yolox_tiny_8xb8-320-300e_coco',
}


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """``toy(layout)``: a folder of toy data."""
    root = tmp_path_factory.mktemp('toy')

    def folder(layout):
        if not (root / layout).exists():
            train, val = (20, 10) if layout == 'imagenet' else (4, 3)
            write_dataset(
                root / layout, layout, train=train, val=val,
                size=ODD if layout in MASKS else SIZE)
        return root / layout

    return folder


@pytest.mark.parametrize(
    'path', marked(slow={p.stem for p in CONFIGS} - FAST))
def test_trains_and_tests(path, toy, script):
    cfg = Config.fromfile(path)
    layout = toy_config.layout(cfg)
    # as few as the config has, where norms may need several
    images = 10 if layout == 'imagenet' else min(
        2, cfg.train_dataloader.batch_size)
    counts_iters = 'max_iters' in cfg.train_cfg
    cfg = toy_config.fit(cfg, toy(layout), SIZE, batch_size=images,
                         length=2 if counts_iters else 1)
    for key in ('conf_thr', 'score_thr'):  # random weights are sure of none
        if key in (cfg.model.get('test_cfg') or ()):
            cfg.model.test_cfg[key] = -1
    if cfg.default_scope == 'mmdet':
        cfg.default_hooks.visualization.score_thr = -1
    few_proposals(cfg)
    cfg.dump('toy.py')
    script('tools/train.py').main(['toy.py'])
    log = ''.join(p.read_text() for p in Path('work_dirs').rglob('*.log'))
    assert ('Iter(train) [2/2]' if counts_iters else
            'Epoch(train) [1][2/2]') in log
    name = 'iter_2.pth' if counts_iters else 'epoch_1.pth'
    script('tools/test.py').main([
        'toy.py', f'work_dirs/toy/{name}', '--work-dir', 'test',
        '--show-dir', 'pictures'])
    (scores, ) = Path('test').glob('*/*.json')
    scores = {k: v for k, v in json.loads(scores.read_text()).items()
              if not k.endswith('time')}
    # -1: no object of that size
    assert scores and all(-1 <= v <= 100 for v in scores.values()), scores
    pictures = [p for p in Path('pictures').rglob('*.*')
                if p.suffix in ('.jpg', '.png')]
    drawn_on = list(images_drawn_on(cfg))
    assert len(pictures) == len(drawn_on) in (3, 10)
    for name, image in drawn_on:
        (picture, ) = (cv2.imread(os.fspath(p)) for p in pictures
                       if name in p.name)
        # ground truth, and the prediction right of it
        parts = picture.shape[1] // image.shape[1]
        assert picture.shape == np.hstack([image] * parts).shape
        assert parts == (1 if cfg.default_scope == 'mmpretrain' else 2)
        # nothing found but background, which is not drawn
        if layout in ('bdd100k', 'coco_panoptic'):
            picture = picture[:, :image.shape[1]]
        for part in np.hsplit(picture, picture.shape[1] // image.shape[1]):
            drawn = np.abs(part.astype(int) - image).max()
            assert drawn > 60, name  # more than what JPEG changes


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.stem in FAST], ids=lambda p: p.stem)
@pytest.mark.skipif(torch.cuda.is_available(), reason='for CPUs')
def test_trains_in_bfloat16(path, toy, script):
    """--amp on a CPU: mmcv's operators, which lack it there, get float32."""
    cfg = Config.fromfile(path)
    layout = toy_config.layout(cfg)
    cfg = toy_config.fit(cfg, toy(layout), SIZE, batch_size=2, length=2)
    few_proposals(cfg)
    cfg.dump('toy.py')
    script('tools/train.py').main([
        'toy.py', '--amp', '--cfg-options', 'val_cfg=None',
        'val_dataloader=None', 'val_evaluator=None'])
    (log, ) = Path('work_dirs').rglob('*.log')
    losses = re.findall(r' loss: (\S+)', log.read_text())
    assert losses and np.isfinite(np.array(losses, float)).all()


def images_drawn_on(cfg):
    """Name and pixels, BGR."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for i in range(len(dataset)):
        item = dataset[i]
        path = item['data_samples'].img_path
        if cfg.default_scope == 'mmpretrain':
            # as the net sees it, in the other order of channels
            image = item['inputs'].flip(0).permute(1, 2, 0).numpy()
        else:
            image = cv2.imread(path)
        yield Path(path).name, image
