# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from mmengine.structures import BaseDataElement, PixelData

from mmxvit.engine.predict import (
    _names_and_colours,
    build_model,
    draw,
    predict,
    read_image,
)


@pytest.fixture
def demo(script):
    return script('demo/image_demo.py').main


@pytest.fixture
def image(data):
    return str(data / 'val/0.png')


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_writes_a_picture(task, config, checkpoint, demo, image, capfd):
    path = config(task)
    demo([image, path, checkpoint(path), '--device', 'cpu',
          '--score-thr', '0'])
    assert f'wrote 0_{task}.png' in capfd.readouterr().out
    picture, original = cv2.imread(f'0_{task}.png'), cv2.imread(image)
    height, width = original.shape[:2]
    if task == 'cls':  # enlarged, to make room for the text
        original = cv2.resize(original, picture.shape[1::-1])
    assert picture.shape == original.shape
    assert picture.shape[0] * width == picture.shape[1] * height
    assert np.abs(picture.astype(int) - original).mean() > 1


def test_instance_masks(config, demo, image):
    channels = dict(in_channels=16, num_classes=2)
    path = config(
        'det', model=dict(
            _delete_=True,
            type='MaskRCNN',
            data_preprocessor=dict(
                type='DetDataPreprocessor', pad_mask=True,
                pad_size_divisor=32),
            backbone=dict(type='mmxvit.XFormer', arch='xformer'),
            neck=dict(
                type='FPN', in_channels=[64, 96, 128, 160], out_channels=16,
                num_outs=5),
            rpn_head=dict(
                type='RPNHead', in_channels=16, feat_channels=16,
                anchor_generator=dict(
                    type='AnchorGenerator', scales=[8], ratios=[0.5, 1.],
                    strides=[4, 8, 16, 32, 64]),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
            roi_head=dict(
                type='StandardRoIHead',
                bbox_roi_extractor=dict(
                    type='SingleRoIExtractor', out_channels=16,
                    roi_layer=dict(type='RoIAlign', output_size=7),
                    featmap_strides=[4, 8, 16, 32]),
                bbox_head=dict(
                    type='Shared2FCBBoxHead', fc_out_channels=16,
                    reg_class_agnostic=True,
                    bbox_coder=dict(type='DeltaXYWHBBoxCoder'), **channels),
                mask_roi_extractor=dict(
                    type='SingleRoIExtractor', out_channels=16,
                    roi_layer=dict(type='RoIAlign', output_size=14),
                    featmap_strides=[4, 8, 16, 32]),
                mask_head=dict(
                    type='FCNMaskHead', num_convs=1, conv_out_channels=16,
                    **channels)),
            train_cfg=None,
            test_cfg=dict(
                rpn=dict(
                    nms_pre=50, max_per_img=20, min_bbox_size=0,
                    nms=dict(type='nms', iou_threshold=0.7)),
                rcnn=dict(
                    score_thr=0., max_per_img=5, mask_thr_binary=0.5,
                    nms=dict(type='nms', iou_threshold=0.5)))))
    demo([image, path, '--device', 'cpu', '--score-thr', '0'])
    picture, original = cv2.imread('0_det.png'), cv2.imread(image)
    assert np.abs(picture.astype(int) - original).mean() > 1


def test_without_checkpoint_it_says_so(config, demo, image, capfd):
    demo([image, config('cls'), '--device', 'cpu'])
    assert 'the weights are random' in capfd.readouterr().out


def test_nothing_is_overwritten(config, demo, image, capfd):
    path = config('cls')
    Path('0_cls.png').write_text('mine')
    Path('pics').mkdir()
    Path('pics/a.jpg').write_text('mine')
    for argv, wrote in ((), '0_cls-1.png'), ((), '0_cls-2.png'), (
        ('--out', 'pics'), 'pics/0_cls.png'), (
        ('--out', 'pics/a.jpg'), 'pics/a-1.jpg'), (
        ('--out', 'new/b.png'), 'new/b.png'):
        demo([image, path, '--device', 'cpu', *argv])
        assert f'wrote {wrote}\n' in capfd.readouterr().out
        assert cv2.imread(wrote) is not None
    assert Path('0_cls.png').read_text() == 'mine'
    assert Path('pics/a.jpg').read_text() == 'mine'


def test_types_of_a_pure_python_config(config, image):
    cfg = Config.fromfile(config('seg'))
    init_default_scope('mmseg')
    dataset = cfg.test_dataloader.dataset
    for part, registry in ((dataset, DATASETS),
                           *((s, TRANSFORMS) for s in dataset.pipeline)):
        with registry.switch_scope_and_registry(None) as scope:
            part.type = scope.get(part.type)
    model = build_model(cfg, None, 'cpu')
    sample = predict(model, cfg, image)  # without annotations
    assert sample.pred_sem_seg.data.shape == (1, 72, 64)
    draw(cfg, read_image(image), sample, 'a.png', 0.)
    assert cv2.imread('a.png').shape == (72, 64, 3)


def test_class_names_come_from_the_config(config):
    cfg = Config.fromfile(config('seg'))
    init_default_scope('mmseg')
    sample = BaseDataElement(
        pred_sem_seg=PixelData(data=torch.full((1, 2, 2), 4)))
    meta = _names_and_colours(cfg, sample)
    # a label that the data set has no name for gets one
    assert meta['classes'] == ['circle', 'square', 'ground', 'class 3',
                               'class 4']
    assert len(meta['palette']) == 5


def test_bad_image(config, demo, failure, tmp_path):
    path = config('cls')
    (tmp_path / 'text.png').write_text('no image')
    assert 'text.png: cannot be read as an image' in failure(
        demo, 'text.png', path)
    (tmp_path / 'empty.png').touch()
    assert 'empty.png: cannot be read as an image' in failure(
        demo, 'empty.png', path)
    assert 'none.png: no such image file' in failure(demo, 'none.png', path)


def test_bad_checkpoint_and_device(config, checkpoint, demo, failure, image,
                                   tmp_path):
    path = config('cls')
    other = checkpoint(config('seg'))
    assert 'and the model differ' in failure(demo, image, path, other)
    (tmp_path / 'cut.pth').write_bytes(Path(other).read_bytes()[:999])
    assert 'cut.pth: cannot be loaded' in failure(demo, image, path, 'cut.pth')
    assert '--device moon' in failure(demo, image, path, '--device', 'moon')


def test_mistakes_in_the_config(config, demo, failure, image):
    assert 'no such config file' in failure(demo, image, 'clss.py')
    path = config('det', model__neck__in_channels=[1, 2, 3])
    assert 'set model.neck.in_channels=[160, 128, 96]' in failure(
        demo, image, path)
    path = config('cls', default_scope='mmengine')
    assert "default_scope is 'mmengine'" in failure(demo, image, path)
