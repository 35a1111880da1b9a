# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Data and schedule of XFormer's yolov3_xformer_1xb8-320-20e_bccd.py.
_base_ = [
    '../_base_/models/yolo_dfl.py', '../_base_/datasets/bccd_yolov3_320.py',
    '../_base_/schedules/adamw_20e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a LOLViT classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.LOLViT',
        arch='x',
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[96, 128, 192], out_channels=[64, 128, 256]),
    bbox_head=dict(
        num_classes=3,
        in_channels=[64, 128, 256],
        reg_channels=64,
        cls_channels=80))
default_hooks = dict(logger=dict(interval=10))
