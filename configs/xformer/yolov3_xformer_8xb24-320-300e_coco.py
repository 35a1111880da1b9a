# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 4: 33.2 AP at 320 (the paper's figure).
_base_ = [
    '../_base_/models/yolov3_light.py',
    '../_base_/datasets/coco_yolov3_320.py',
    '../_base_/schedules/yolov3_300e.py', '../_base_/mmdet_runtime.py'
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
    neck=dict(in_channels=[160, 128, 96]))
