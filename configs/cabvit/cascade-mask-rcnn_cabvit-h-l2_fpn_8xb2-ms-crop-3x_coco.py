# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the CabViT paper: the recipe of FcaFormer-L2, the stages' own widths.
_base_ = [
    '../fcaformer/cascade-mask-rcnn_fcaformer-l2_fpn_8xb2-ms-crop-3x_coco.py'
]

model = dict(
    backbone=dict(type='mmxvit.CabViT', arch='h-l2'),
    neck=dict(in_channels=[96, 192, 320, 480]))
