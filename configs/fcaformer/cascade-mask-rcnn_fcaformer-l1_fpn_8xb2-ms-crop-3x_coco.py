# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the paper: its recipe of L2 with L1.
_base_ = './cascade-mask-rcnn_fcaformer-l2_fpn_8xb2-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(arch='l1', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 192, 320]))
