# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 5 and 20: 41.9 AP (the paper's figure).
_base_ = [
    '../_base_/models/yolo_dfl.py', '../_base_/datasets/coco_yolo_640.py',
    '../_base_/schedules/yolo_500e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a LOLViT classifier; None trains from scratch.
pretrained = None
# The paper does not print neck and head. These are the widths of YOLOv8n,
# and with them the model has the FLOPs and parameters of the paper.
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
        in_channels=[64, 128, 256], reg_channels=64, cls_channels=80))
