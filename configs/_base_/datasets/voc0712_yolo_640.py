# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmdet's VOC and YOLOX configs (Apache-2.0, OpenMMLab).
# PASCAL VOC at 640 x 640, trained on 2007 + 2012 trainval and tested on 2007
# test; augmentation as in coco_yolo_640.py.
_base_ = './coco_yolo_640.py'

dataset_type = 'VOCDataset'
data_root = 'data/VOCdevkit/'
backend_args = None

part = dict(
    type=dataset_type,
    data_root=data_root,
    filter_cfg=dict(filter_empty_gt=False, min_size=32),
    pipeline=_base_.load_pipeline,
    backend_args=backend_args)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='ConcatDataset',
            # the two years differ in it
            ignore_keys=['dataset_type'],
            datasets=[
                dict(
                    ann_file='VOC2007/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root='VOC2007/'),
                    **part),
                dict(
                    ann_file='VOC2012/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root='VOC2012/'),
                    **part)
            ])))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
        backend_args=backend_args))
test_dataloader = val_dataloader

# mAP at IoU 0.5, the area under the curve
val_evaluator = dict(
    _delete_=True, type='VOCMetric', metric='mAP', eval_mode='area')
test_evaluator = val_evaluator
