# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 7 and 20: 74.5 mAP at IoU 0.5 (the paper's figure).
_base_ = './yolo_lolvit-x_8xb32-640-500e_voc0712.py'

# See yolo_lolvit-s_8xb32-640-500e_coco.py.
model = dict(
    backbone=dict(arch='s'),
    neck=dict(in_channels=[64, 96, 128], out_channels=[32, 64, 160]),
    bbox_head=dict(
        in_channels=[32, 64, 160], reg_channels=32, cls_channels=40))
