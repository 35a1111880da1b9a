# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 4: 22.7 AP at 320 (the paper's figure). A peer.
_base_ = './yolov3_xformer_8xb24-320-300e_coco.py'

# Checkpoint of mmpretrain's MobileNetV2; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileNetV2',
        out_indices=(2, 4, 6),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[320, 96, 32]))
# its last convolution feeds none of the three maps
find_unused_parameters = True
