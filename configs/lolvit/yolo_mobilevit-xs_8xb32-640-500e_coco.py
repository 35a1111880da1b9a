# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the paper: the MobileViT-XS of its Table 7, on COCO. A peer.
_base_ = [
    '../_base_/models/yolo_dfl.py', '../_base_/datasets/coco_yolo_640.py',
    '../_base_/schedules/yolo_500e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a MobileViT classifier; None trains from scratch.
pretrained = None
# Widths: see yolo_mobilevit-xs_8xb32-640-500e_voc0712.py.
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
        in_channels=[16, 32, 64], reg_channels=32, cls_channels=32))
