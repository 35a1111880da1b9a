# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
_base_ = [
    '../_base_/models/yolov3_light.py',
    '../_base_/datasets/bccd_yolov3_320.py',
    '../_base_/schedules/adamw_20e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of an XFormer classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.XFormer',
        arch='xformer',
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[160, 128, 96]),
    bbox_head=dict(num_classes=3))
default_hooks = dict(logger=dict(interval=10))
