# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 7 and 20: 79.3 mAP at IoU 0.5 (the paper's figure).
# A peer. The paper's "MobileViT-X", 5.19 M parameters, is MobileViT-S.
_base_ = './yolo_mobilevit-xs_8xb32-640-500e_voc0712.py'

model = dict(
    backbone=dict(arch='small'), neck=dict(in_channels=[96, 128, 640]))
