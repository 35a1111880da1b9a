# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# The peer of yolov3_xformer_1xb8-320-20e_bccd.py: only the backbone differs.
_base_ = './yolov3_xformer_1xb8-320-20e_bccd.py'

pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[320, 96, 32]))
# its last convolution feeds none of the three maps
find_unused_parameters = True
