# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 3: 78.5 top-1 (the paper's figure).
_base_ = [
    '../_base_/datasets/imagenet_224.py', '../_base_/mmpretrain_runtime.py'
]

# Checkpoint whose backbone the training starts from; None trains from scratch.
pretrained = None
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmxvit.XFormer',
        arch='xformer',
        out_indices=(3, ),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(type='mmxvit.ConvPool', in_channels=160, out_channels=640),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=640,
        loss=dict(
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2))

# 3000 iterations from 2e-4 to 2e-3, then cosine back to 2e-4
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3000),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0002,
        by_epoch=True,
        begin=0,
        end=300,
        convert_to_iter_based=True)
]

# The paper evaluates the moving average of the weights; its rate is not
# printed.
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
