# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Data and schedule of XFormer's yolov3_xformer_1xb8-320-20e_bccd.py, with half
# of its learning rate.
_base_ = [
    '../_base_/models/retinanet_fpn_light.py',
    '../_base_/datasets/bccd_yolov3_320.py',
    '../_base_/schedules/adamw_20e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of an LVT classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.LVT',
        arch='lvt',
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[64, 64, 160, 256]),
    bbox_head=dict(num_classes=3))

optim_wrapper = dict(optimizer=dict(lr=5e-4))  # LVT has no batch norm
default_hooks = dict(logger=dict(interval=10))
