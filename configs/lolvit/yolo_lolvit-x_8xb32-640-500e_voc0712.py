# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 7 and 20: 77.5 mAP at IoU 0.5 (the paper's figure).
_base_ = [
    '../_base_/models/yolo_dfl.py', '../_base_/datasets/voc0712_yolo_640.py',
    '../_base_/schedules/yolo_500e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a LOLViT classifier; None trains from scratch.
pretrained = None
# With fewer classes YOLOv8n has a narrower class branch than on COCO.
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
        num_classes=20,
        in_channels=[64, 128, 256],
        reg_channels=64,
        cls_channels=64))
