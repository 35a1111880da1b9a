# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 5 and 20: 37.8 AP (the paper's figure).
_base_ = './yolo_lolvit-x_8xb32-640-500e_coco.py'

# Half of X, but for the last map: chosen for the paper's FLOPs and parameters.
model = dict(
    backbone=dict(arch='s'),
    neck=dict(in_channels=[64, 96, 128], out_channels=[32, 64, 160]),
    bbox_head=dict(
        in_channels=[32, 64, 160], reg_channels=32, cls_channels=40))
