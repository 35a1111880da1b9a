# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's upernet_r50.py (Apache-2.0, OpenMMLab): UPerNet for
# ADE20K. A config that inherits it adds the backbone (four maps, strides 4 to
# 32) and in_channels of both heads; the auxiliary one has the third map.
model = dict(
    type='EncoderDecoder',
    # size: that of the crops for training
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512)),
    decode_head=dict(
        type='UPerHead',
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(),
    # windows of the size of the crops, a third of each overlapping the next
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
