# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 3 and 19: 67.43 top-1 at 224 (the paper's figure).
_base_ = [
    '../_base_/datasets/imagenet_224.py', '../_base_/mmpretrain_runtime.py'
]

# Checkpoint whose backbone the training starts from; None trains from scratch.
pretrained = None
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmxvit.LOLViT',
        arch='s',
        out_indices=(3, ),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(
        type='mmxvit.ConvPool',
        in_channels=128,
        out_channels=1280,
        act_cfg=dict(type='ReLU', inplace=True)),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5)))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=500, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The paper trains in half precision: add --amp. It prints no weight decay and
# no schedule; those here and below are the defaults of the trainer it names
# (ultralytics 8.1.45).
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys={'.length_scale': dict(decay_mult=0.)}))

# 3 epochs up to 0.01, then a line to 0.0001
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=3,
        convert_to_iter_based=True),
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.01,
        by_epoch=True,
        begin=3,
        end=500,
        convert_to_iter_based=True)
]

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
