# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 7 and 20: 77.9 mAP at IoU 0.5 (the paper's figure).
# A peer.
_base_ = [
    '../_base_/models/yolo_dfl.py', '../_base_/datasets/voc0712_yolo_640.py',
    '../_base_/schedules/yolo_500e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a MobileViT classifier; None trains from scratch.
pretrained = None
# The paper does not print neck and head, which are much smaller than those of
# LOLViT. A quarter of YOLOv8n's neck gives the parameters of Table 7, 2.2 M
# for XS and 5.19 M for the larger MobileViT.
model = dict(
    backbone=dict(
        type='mmpretrain.MobileViT',
        arch='x_small',
        out_indices=(2, 3, 4),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[64, 80, 384], out_channels=[16, 32, 64]),
    bbox_head=dict(
        num_classes=20,
        in_channels=[16, 32, 64],
        reg_channels=32,
        cls_channels=32))
