# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import copy
from pathlib import Path

import pytest
import torch.nn as nn
from mmdet.models import FPN, YOLOV3Neck
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain.datasets import MNIST, ImageNet21k
from mmseg.datasets import ADE20KDataset

from mmxvit.engine.checks import check_channels, check_data
from mmxvit.engine.command import UserError
from mmxvit.models.backbones import XFormer

ROOT = Path(__file__).parents[2]

COCO = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/train.json',
    data_prefix=dict(img='train/'),
    metainfo=dict(classes=('cell', )))
ADE = dict(
    type='ADE20KDataset',
    data_root='data/ade',
    data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
    pipeline=[dict(type='LoadImageFromFile'),
              dict(type='LoadAnnotations')])


def data(dataset, split='train', **cfg):
    return Config({f'{split}_dataloader': dict(dataset=dataset), **cfg})


def message(check, *args):
    with pytest.raises(UserError) as error:
        check(*args)
    return str(error.value)


def make(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"images": [], "annotations": [], '
                            '"categories": [{"id": 1, "name": "cell"}]}')
        else:
            path.mkdir(parents=True, exist_ok=True)


def test_data_root_missing(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert message(check_data, data(COCO), ['train']).splitlines() == [
        'data not found:',
        '  file   data/coco/annotations/train.json  '
        '(train_dataloader.dataset.ann_file)',
        '  folder data/coco/train/  '
        '(train_dataloader.dataset.data_prefix.img)',
        "train_dataloader.dataset.data_root is 'data/coco/', no such folder",
        'Correct the config, or use --cfg-options KEY=VALUE; relative paths '
        'count from the current folder.',
        'Without data, a detector can be tried on toy data:',
        '  python tools/dataset_tools/make_shapes.py data/shapes '
        '--layout coco',
        '  python tools/train.py '
        'configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py'
    ]


@pytest.mark.parametrize('dataset, said', [
    (dict(), 'make_shapes.py data/coco/ --coco-names'),
    # its own classes, its own files, its own folder
    (dict(metainfo=dict(classes=('cell', ))), 'data/shapes --layout coco'),
    (dict(ann_file='train.json'), 'data/shapes --layout coco'),
    (dict(data_root=str(ROOT)), 'data/shapes --layout coco'),
])
def test_which_toy_data(dataset, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths are those of the clone
    stock = dict(COCO, metainfo=None,
                 ann_file='annotations/instances_train2017.json')
    lines = message(check_data, data(dict(stock, **dataset)),
                    ['train']).splitlines()
    tool = ROOT / 'tools/dataset_tools/make_shapes.py'
    (line, ) = [line for line in lines if 'make_shapes' in line]
    python, path, *arguments = line.split()
    assert python == 'python' and (tmp_path / path).resolve() == tool
    assert f'make_shapes.py {" ".join(arguments)}'.endswith(said)


def test_one_key_that_changes_all_is_named():
    text = message(check_data, data(COCO, data_root='data/coco/'), ['train'])
    assert '--cfg-options data_root=FOLDER' in text


def test_only_what_is_missing_is_listed(tmp_path):
    make(tmp_path, 'data/coco/train')
    text = message(check_data, data(COCO), ['train'])
    assert 'annotations/train.json' in text
    assert 'data_prefix.img' not in text
    assert 'no such folder' not in text
    make(tmp_path, 'data/coco/annotations/train.json')
    check_data(data(COCO), ['train'])


@pytest.mark.parametrize('wrap, key', [
    (lambda d: dict(type='RepeatDataset', times=2, dataset=d),
     'dataset.dataset'),
    (lambda d: dict(type='MultiImageMixDataset', pipeline=[], dataset=dict(
        type='ClassBalancedDataset', dataset=d)), 'dataset.dataset.dataset'),
    (lambda d: dict(type='ConcatDataset', datasets=[copy.deepcopy(COCO), d]),
     'dataset.datasets.1'),
])
def test_inside_wrappers(tmp_path, wrap, key):
    make(tmp_path, 'data/coco/train', 'data/coco/annotations/train.json')
    cfg = data(wrap(dict(COCO, data_root='data/other/')))
    text = message(check_data, cfg, ['train'])
    assert f'(train_dataloader.{key}.ann_file)' in text
    assert 'data/coco' not in text


def test_evaluator_and_splits(tmp_path):
    make(tmp_path, 'data/coco/train', 'data/coco/annotations/train.json')
    cfg = data(
        COCO, val_dataloader=dict(dataset=COCO),
        val_evaluator=[dict(type='CocoMetric', ann_file='data/val.json')],
        test_dataloader=dict(dataset=dict(COCO, data_root='data/none')))
    assert 'data/val.json  (val_evaluator.ann_file)' in message(
        check_data, cfg, ['train', 'val'])
    check_data(cfg, ['train'])
    # a config without validation
    check_data(data(COCO, val_dataloader=None, val_evaluator=None),
               ['train', 'val'])


def test_segmentation_labels_are_needed_only_where_they_are_read(tmp_path):
    make(tmp_path, 'data/ade/images/val')
    text = message(check_data, data(ADE, 'test'), ['test'])
    assert 'folder data/ade/annotations/val' in text
    assert '--layout ade20k' in text
    images_only = dict(ADE, pipeline=ADE['pipeline'][:1])
    check_data(data(images_only, 'test'), ['test'])


@pytest.mark.parametrize('dataset, missing', [
    (dict(type='ImageNet', data_root='in1k', split='val'), 'in1k/val'),
    (dict(type='ImageNet', data_root='in1k', ann_file='meta/val.txt',
          data_prefix='val'), 'in1k/meta/val.txt'),
    (dict(type='CustomDataset', data_prefix='cats/train'), 'cats/train'),
    (dict(type=ImageNet21k, data_root='in21k', split='train'),
     'in21k/train'),
])
def test_classification(dataset, missing):
    text = message(check_data, data(dataset), ['train'])
    assert missing in text and '--layout imagenet' in text


@pytest.mark.parametrize('kind', ['CUB', 'VOC', 'InShop', 'mmpretrain.DTD'])
def test_split_that_is_no_folder(tmp_path, kind):
    """Other data sets have lists of the files of a split."""
    dataset = dict(type=kind, data_root='data/birds', split='train')
    assert 'folder data/birds' in message(check_data, data(dataset),
                                          ['train'])
    make(tmp_path, 'data/birds')
    check_data(data(dataset), ['train'])


@pytest.mark.parametrize('dataset', [
    dict(COCO, data_root='s3://bucket/coco/'),
    dict(COCO, backend_args=dict(backend='petrel')),
    dict(type='CIFAR10', data_root='data/cifar10', split='train'),
    dict(type=MNIST, data_root='data/mnist', split='train'),
    dict(type='SomeDataset'),
])
def test_what_cannot_be_checked_passes(dataset):
    check_data(data(dataset), ['train'])


@pytest.mark.parametrize('kind, layout', [
    ('CocoPanopticDataset', 'coco_panoptic'),
    (ADE20KDataset, 'ade20k'),
    ('mmseg.CityscapesDataset', 'cityscapes'),
    ('VOCDataset', 'voc'),
])
def test_layout_of_the_toy_data(kind, layout):
    text = message(check_data, data(dict(COCO, type=kind)), ['train'])
    assert text.endswith(f'--layout {layout}')


XFORMER = dict(type='mmxvit.XFormer', arch='xformer')
THREE = dict(XFORMER, out_indices=(1, 2, 3))


def model(backbone, scope='mmdet', **parts):
    return Config(
        dict(default_scope=scope, model=dict(backbone=backbone, **parts)))


def yolo(channels):
    return dict(type='YOLOV3Neck', num_scales=3, in_channels=channels,
                out_channels=[96] * 3)


def ssd(channels, outs):
    return dict(
        neck=dict(type='SSDNeck', in_channels=channels, out_channels=outs),
        bbox_head=dict(type='SSDHead', in_channels=outs))


def fpn(channels, kind='FPN'):
    return dict(type=kind, in_channels=channels, out_channels=64, num_outs=5)


@pytest.mark.parametrize('cfg', [
    model(THREE, neck=yolo([160, 128, 96])),
    model(XFORMER, neck=fpn([64, 96, 128, 160])),
    model(XFORMER, neck=[fpn((64, 96, 128, 160)), dict(type='DyHead')]),
    model(dict(XFORMER, out_indices=(2, 3)),
          **ssd([128, 160], [128, 160, 512, 256])),
    model(XFORMER, neck=dict(type='CTResNetNeck', in_channels=160)),
    model(XFORMER, neck=dict(type='MyNeck', in_channels=[160, 64])),
    model(XFORMER, neck=dict(type='MyNeck')),
    model(dict(XFORMER, type=XFormer), neck=dict(
        type=FPN, in_channels=[64, 96, 128, 160])),
    model(XFORMER, bbox_head=dict(type='RPNHead', in_channels=160)),
    model(XFORMER, 'mmseg', decode_head=dict(
        type='UPerHead', in_channels=[64, 96, 128, 160],
        in_index=[0, 1, 2, 3]), auxiliary_head=dict(
            type='FCNHead', in_channels=128, in_index=2)),
    model(XFORMER, 'mmseg', decode_head=[
        dict(type='FPNHead', in_channels=(96, 160), in_index=(1, -1)),
        dict(type='PointHead', in_channels=[64], in_index=[0])]),
    model(XFORMER, 'mmseg', decode_head=dict(
        type='MaskFormerHead', in_channels=[64, 96, 128, 160])),
    model(XFORMER, 'mmseg', neck=fpn([64, 96, 128, 160]),
          decode_head=dict(type='FPNHead', in_channels=[64] * 4,
                           in_index=[0, 1, 2, 3])),
    model(XFORMER, 'mmpretrain', neck=dict(type='GlobalAveragePooling'),
          head=dict(type='LinearClsHead', in_channels=160)),
    model(XFORMER, 'mmpretrain', neck=dict(
        type='mmxvit.ConvPool', in_channels=160, out_channels=640),
          head=dict(type='LinearClsHead', in_channels=640)),
    # a stock backbone does not tell its channels
    model(dict(type='MobileNetV2', out_indices=(2, 4, 6)), neck=yolo([1] * 3)),
    Config(dict(model=dict(type='TTA'))),
])
def test_channels_that_match(cfg):
    check_channels(cfg)


@pytest.mark.parametrize('cfg, expected', [
    (model(THREE, neck=yolo([320, 96, 32])),
     'model.neck.in_channels is [320, 96, 32], but backbone mmxvit.XFormer '
     'gives maps of 96, 128, 160 channels (strides 8, 16, 32; '
     'out_indices=(1, 2, 3)): set model.neck.in_channels=[160, 128, 96]'),
    (model(THREE, neck=yolo([96, 128, 160])),
     'set model.neck.in_channels=[160, 128, 96]'),
    (model(dict(THREE, type=XFormer), neck=dict(
        yolo([96, 128, 160]), type=YOLOV3Neck)),
     'backbone mmxvit.XFormer gives maps of 96, 128, 160 channels (strides '
     '8, 16, 32; out_indices=(1, 2, 3)): set '
     'model.neck.in_channels=[160, 128, 96]'),
    (model(XFORMER, neck=yolo([160, 128, 96])),
     'set model.backbone.out_indices=(1, 2, 3)'),
    (model(XFORMER, neck=yolo([320, 96, 32])),
     'set model.backbone.out_indices=(1, 2, 3) and '
     'model.neck.in_channels=[160, 128, 96]'),
    (model(XFORMER, neck=fpn([256, 512, 1024, 2048])),
     'set model.neck.in_channels=[64, 96, 128, 160]'),
    (model(THREE, neck=fpn([64, 96, 128, 160])),
     'set model.backbone.out_indices=(0, 1, 2, 3)'),
    (model(XFORMER, neck=fpn([128, 256, 512], 'mmdet.YOLOXPAFPN')),
     'model.backbone.out_indices=(1, 2, 3) and '
     'model.neck.in_channels=[96, 128, 160]'),
    (model(dict(XFORMER, out_indices=(2, 3)),
           **ssd([96, 1280], [96, 1280, 512, 256])),
     'set model.neck.in_channels=[128, 160] and '
     'model.neck.out_channels=[128, 160, 512, 256] and '
     'model.bbox_head.in_channels=[128, 160, 512, 256]'),
    (model(XFORMER, neck=dict(type='CTResNetNeck', in_channels=512)),
     'model.neck.in_channels is 512, but'),
    (model(XFORMER, neck=dict(type='MyNeck', in_channels=[160, 63])),
     'is [160, 63], but'),
    (model(XFORMER, bbox_head=dict(type='RPNHead', in_channels=1024)),
     'model.bbox_head.in_channels is 1024, but'),
    (model(XFORMER, 'mmseg', decode_head=dict(
        type='SegformerHead', in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3])),
     'set model.decode_head.in_channels=[64, 96, 128, 160]'),
    (model(XFORMER, 'mmseg', decode_head=dict(
        type='FCNHead', in_channels=160), auxiliary_head=[
            dict(type='FCNHead', in_channels=1024, in_index=2)]),
     'set model.auxiliary_head.0.in_channels=128 (in_index=2)'),
    (model(THREE, 'mmseg', decode_head=dict(
        type='FCNHead', in_channels=160, in_index=3)),
     'model.decode_head.in_index is 3, but'),
    (model(XFORMER, 'mmpretrain', head=dict(
        type='LinearClsHead', in_channels=1280)),
     'set model.head.in_channels=160'),
    (model(dict(XFORMER, arch='xformr')), "'xformr'"),
    (model(dict(XFORMER, out_indices=(0, 4))), 'out_indices'),
    (model(dict(XFORMER, depth=50)), "keyword argument 'depth'; if it is left "
     'from a backbone that the config inherits, write _delete_=True into '
     'model.backbone'),
])
def test_channels_that_do_not_match(cfg, expected):
    assert expected in message(check_channels, cfg)


def test_backbones_of_others_are_left_alone(monkeypatch):
    """They may take no init_cfg, and may be dear to build twice."""
    built = []

    class Theirs(nn.Module):
        out_channels, out_strides, out_indices = (1, ), (4, ), (0, )

        def __init__(self, width):
            super().__init__()
            built.append(width)

    monkeypatch.setitem(MODELS._module_dict, 'Theirs', Theirs)
    check_channels(
        model(dict(type='mmengine.Theirs', width=1), neck=fpn([7])))
    assert not built


def test_subclasses_of_ours_are_checked(monkeypatch):

    class Mine(XFormer):
        pass

    monkeypatch.setitem(MODELS._module_dict, 'Mine', Mine)
    assert 'set model.neck.in_channels=[64, 96, 128, 160]' in message(
        check_channels, model(dict(type='mmengine.Mine', arch='xformer'),
                              neck=fpn([1, 2, 3, 4])))


def test_the_remedy_is_right():
    """What the message says to set is accepted."""
    cfg = model(XFORMER, **ssd([96, 1280, 7], [96, 1280, 7, 512]))
    text = message(check_channels, cfg)
    for change in text.partition(': set ')[2].split(' and '):
        key, _, value = change.partition('=')
        cfg.merge_from_dict({key: list(map(int, value[1:-1].split(',')))})
    check_channels(cfg)
