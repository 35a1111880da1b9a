# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 2: 80.3 top-1 (the paper's figure).
_base_ = [
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/convnext_300e.py',
    '../_base_/mmpretrain_runtime.py',
]

# Checkpoint whose backbone the training starts from; None trains from scratch.
pretrained = None
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmxvit.FcaFormer',
        arch='l1',
        out_indices=(3, ),
        out_dims=None,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    head=dict(
        type='mmxvit.LayerNormClsHead',
        num_classes=1000,
        in_channels=320,
        loss=dict(
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]))
