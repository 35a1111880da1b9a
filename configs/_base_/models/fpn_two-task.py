# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Drivable area and lane lines: a feature pyramid, and for each task a head of
# 3x3 convolutions that sums its four maps. A config that inherits it adds the
# backbone (four maps, strides 4 to 32) and the widths.
#
# The LOLViT paper uses the heads of A-YOLOM, which is published under the AGPL
# and not in the mm* packages. They are pyramids with heads of convolutions,
# too, and one loss for both tasks, of focal and Tversky loss. Cross-entropy
# stands for the focal loss: mmseg's is wrong on the CPU, where it loses its
# targets. Weights of 1 are inferred.
norm_cfg = dict(type='BN')
head = dict(
    type='FPNHead',
    in_index=[0, 1, 2, 3],
    feature_strides=[4, 8, 16, 32],
    num_classes=2,
    dropout_ratio=0.1,
    norm_cfg=norm_cfg,
    align_corners=False,
    loss_decode=[
        dict(type='CrossEntropyLoss', loss_weight=1.0),
        # false positives and false negatives as in A-YOLOM
        dict(type='TverskyLoss', alpha=0.3, beta=0.7, loss_weight=1.0)
    ])
model = dict(
    type='mmxvit.MultiTaskSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(224, 224)),
    neck=dict(type='FPN', num_outs=4),
    decode_head=dict(drivable=head, lane=head),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
