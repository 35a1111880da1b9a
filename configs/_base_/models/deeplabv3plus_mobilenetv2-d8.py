# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's
# mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py (Apache-2.0,
# OpenMMLab).
_base_ = './fcn_mobilenetv2-d8.py'

model = dict(
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=320,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=24,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
