# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Panoptic FPN from data to pictures, without panopticapi."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer

from mmxvit.datasets.coco_panoptic import read_ids
from mmxvit.datasets.shapes import CLASSES, STUFF_CLASSES, write_dataset
from mmxvit.evaluation.panoptic import rgb_to_ids

pytest.importorskip('mmdet')

VOID = len(CLASSES) + len(STUFF_CLASSES)
SIZE = 64


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy')
    write_dataset(root, 'coco_panoptic', train=2, val=3, size=SIZE)
    return root


def model_config():
    counts = dict(num_things_classes=5, num_stuff_classes=3)
    extractor = dict(
        type='SingleRoIExtractor', out_channels=8,
        featmap_strides=[4, 8, 16, 32])
    nms = dict(type='nms', iou_threshold=0.7)
    sampler = dict(
        type='RandomSampler', num=16, pos_fraction=0.5, neg_pos_ub=-1,
        add_gt_as_proposals=True)
    assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
        min_pos_iou=0.3, ignore_iof_thr=-1)
    return dict(
        type='PanopticFPN',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3,
            pad_size_divisor=32, pad_mask=True, pad_seg=True,
            seg_pad_value=255),
        backbone=dict(type='mmxvit.XFormer', arch='xformer'),
        neck=dict(type='FPN', in_channels=[64, 96, 128, 160],
                  out_channels=8, num_outs=5),
        rpn_head=dict(
            type='RPNHead', in_channels=8, feat_channels=8,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[8], ratios=[0.5, 1.],
                strides=[4, 8, 16, 32, 64]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                extractor, roi_layer=dict(type='RoIAlign', output_size=7)),
            bbox_head=dict(
                type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=8,
                num_classes=5, bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
            mask_roi_extractor=dict(
                extractor, roi_layer=dict(type='RoIAlign', output_size=14)),
            mask_head=dict(
                type='FCNMaskHead', num_convs=1, in_channels=8,
                conv_out_channels=8, num_classes=5)),
        semantic_head=dict(
            type='PanopticFPNHead', in_channels=8, inner_channels=32,
            end_level=4, loss_seg=dict(
                type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5),
            **counts),
        panoptic_fusion_head=dict(type='HeuristicFusionHead', **counts),
        train_cfg=dict(
            rpn=dict(assigner=assigner, sampler=sampler, pos_weight=-1,
                     allowed_border=-1),
            rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=nms,
                              min_bbox_size=0),
            rcnn=dict(assigner=assigner, sampler=sampler, pos_weight=-1,
                      mask_size=28)),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=20, nms=nms, min_bbox_size=0),
            rcnn=dict(score_thr=0., nms=nms, max_per_img=3,
                      mask_thr_binary=0.5),
            panoptic=dict(mask_overlap=0.5, stuff_area_limit=16)))


@pytest.fixture
def panoptic(toy):
    """``pan.py``, a config as users write one."""
    load = dict(type='LoadImageFromFile')
    labels = dict(type='mmxvit.LoadPanopticAnnotations')
    size = dict(type='Resize', scale=(SIZE, SIZE))

    def loader(split, pipeline):
        return dict(
            batch_size=2, num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='CocoPanopticDataset', data_root=str(toy),
                ann_file=f'annotations/panoptic_{split}2017.json',
                data_prefix=dict(img=f'{split}2017/',
                                 seg=f'annotations/panoptic_{split}2017/'),
                metainfo=dict(
                    classes=(*CLASSES, *STUFF_CLASSES),
                    thing_classes=CLASSES, stuff_classes=STUFF_CLASSES),
                test_mode=split == 'val', pipeline=pipeline))

    test = loader('val', [
        load, size, labels, dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                       'scale_factor'))
    ])
    evaluator = dict(
        type='mmxvit.CocoPanopticMetric',
        ann_file=f'{toy}/annotations/panoptic_val2017.json',
        seg_prefix=f'{toy}/annotations/panoptic_val2017')
    Config(
        dict(
            default_scope='mmdet', model=model_config(),
            train_dataloader=loader('train', [
                load, labels, size, dict(type='RandomFlip', prob=0.5),
                dict(type='PackDetInputs')
            ]),
            val_dataloader=test, test_dataloader=test,
            val_evaluator=evaluator, test_evaluator=evaluator,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3)),
            visualizer=dict(
                type='DetLocalVisualizer',
                vis_backends=[dict(type='LocalVisBackend')]),
            randomness=dict(seed=0))).dump('pan.py')
    return 'pan.py'


NOTHING_FOUND = ('model.test_cfg.rcnn.score_thr=1.1',
                 'model.test_cfg.panoptic.stuff_area_limit=9999')


def log(folder):
    (path, ) = Path(folder).glob('*/*.log')
    return path.read_text()


def picture(path):
    return cv2.imread(str(path)).astype(int)


def test_train_test_and_look(panoptic, toy, script, failure, capfd):
    script('tools/train.py').main([panoptic])
    text = log('work_dirs/pan')
    assert 'loss_seg' in text and 'loss_mask' in text
    assert 'coco_panoptic/PQ_st' in text
    weights = 'work_dirs/pan/epoch_1.pth'

    test = script('tools/test.py').main
    options = ['--cfg-options', 'test_evaluator.classwise=True',
               'test_evaluator.outfile_prefix=out/pan']
    test([panoptic, weights, '--work-dir', 'test', '--show-dir', 'pictures',
          *options, 'experiment_name=test'])
    tested = log('test')
    assert 'panoptic quality\n' in tested and '104 grain' in tested
    names = sorted(p.stem for p in (toy / 'val2017').iterdir())
    assert sorted(p.stem for p in Path('pictures').iterdir()) == names
    for name in names:  # ground truth beside the prediction
        assert picture(f'pictures/{name}.jpg').shape[1] == 2 * SIZE
    truth = toy / 'annotations/panoptic_val2017'
    capfd.readouterr()
    script('tools/analysis_tools/eval_panoptic.py').main([
        '--gt-json', f'{truth}.json', '--gt-dir', str(truth), '--pred-json',
        'out/pan.panoptic.json', '--pred-dir', 'out/pan.panoptic'
    ])
    table = capfd.readouterr().out.splitlines()
    for row in table:  # the same, but for the width of the names
        assert any(row.split() == line.split()
                   for line in tested.splitlines()), row
    assert 'panoptic model' in failure(test, panoptic, weights, '--tta')

    image = toy / 'val2017' / f'{names[0]}.jpg'
    demo = script('demo/image_demo.py').main
    demo([str(image), panoptic, weights, '--device', 'cpu'])
    assert np.abs(picture(f'{names[0]}_pan.png') -
                  picture(image)).mean() > 1

    inference(panoptic, weights, [str(toy / 'val2017' / f'{name}.jpg')
                                  for name in names])


def inference(config, weights, images):
    """As mmdet's inferencer; the predictions are those of the test."""
    from mmxvit.apis import DetInferencer
    inferencer = DetInferencer(
        config, weights, device='cpu', show_progress=False)
    tested = json.loads(Path('out/pan.panoptic.json').read_text())
    results = inferencer(images, batch_size=2)['predictions']
    for result, annotation in zip(
            results, tested['annotations'], strict=True):
        ids = rgb_to_ids(result['panoptic_seg'])
        file_ids = read_ids(f'out/pan.panoptic/{annotation["file_name"]}',
                            annotation['segments_info'])
        assert (ids == np.maximum(file_ids - 1, 0)).all()
        assert ids.any()
    written = inferencer(
        images, out_dir='out', no_save_pred=False)['predictions']
    for result, path, expected in zip(written, images, results, strict=True):
        stem = Path('out/preds', Path(path).stem)
        assert result == dict(panoptic_seg_path=f'{stem}_panoptic_seg.png')
        assert (picture(result['panoptic_seg_path'])[..., ::-1] ==
                expected['panoptic_seg']).all()
        assert json.loads(Path(f'{stem}.json').read_text()) == result
        assert Path('out/vis', Path(path).name).is_file()
    (sample, ) = inferencer(
        picture(images[0]).astype(np.uint8),
        return_datasamples=True)['predictions']
    seg = sample.pred_panoptic_seg.sem_seg
    seg[:, :20] = VOID
    before = seg.clone()
    ids = rgb_to_ids(inferencer.pred2dict(sample)['panoptic_seg'])
    assert (ids == np.where(seg[0] == VOID, 0, seg[0])).all()
    assert torch.equal(sample.pred_panoptic_seg.sem_seg, before)

    # a checkpoint that does not tell its classes
    state = torch.load(weights, weights_only=False)['state_dict']
    torch.save(dict(state_dict=state), 'bare.pth')
    inferencer = DetInferencer(
        config, 'bare.pth', device='cpu', show_progress=False)
    assert inferencer.model.dataset_meta['classes'] == (*CLASSES,
                                                        *STUFF_CLASSES)
    (again, ) = inferencer(images[0], return_vis=True)['predictions']
    assert (again['panoptic_seg'] == results[0]['panoptic_seg']).all()


def test_nothing_found(panoptic, toy, script, checkpoint):
    """mmdet's own visualizer fails on it."""
    path = toy / 'val2017/000000500001.jpg'
    script('demo/image_demo.py').main([
        os.fspath(path), panoptic, '--device', 'cpu', '--cfg-options',
        *NOTHING_FOUND
    ])
    image = picture(path)
    drawn = picture('000000500001_pan.png')
    # older versions of matplotlib move the image by half a pixel
    visualizer = Visualizer()
    visualizer.set_image(image[..., ::-1].astype(np.uint8))
    bare = visualizer.get_image()[..., ::-1].astype(int)
    assert (drawn == bare).all()
    script('tools/test.py').main([
        panoptic, checkpoint(panoptic), '--show-dir', 'pictures',
        '--cfg-options', *NOTHING_FOUND
    ])
    assert 'coco_panoptic/PQ: 0.0000' in log('work_dirs/pan')
    pair = picture('pictures/000000500001.jpg')
    truth, prediction = np.abs(pair - np.hstack([bare, bare])).reshape(
        SIZE, 2, SIZE, 3).mean((0, 2, 3))
    assert prediction < 10 < truth
