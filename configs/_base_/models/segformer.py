# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's segformer_mit-b0.py (Apache-2.0, OpenMMLab): SegFormer's
# all-MLP decoder for ADE20K. A config that inherits it adds the backbone (four
# maps, strides 4 to 32) and decode_head.in_channels.
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
        type='SegformerHead',
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
