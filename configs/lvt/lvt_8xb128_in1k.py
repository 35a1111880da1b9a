# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 3: 74.8 top-1 (the paper's figure). It needs token labels
# (see LVTClsHead); without them the label of an image stands for its patches.
_base_ = [
    '../_base_/datasets/imagenet_224.py', '../_base_/mmpretrain_runtime.py'
]

# Checkpoint whose backbone the training starts from; None trains from scratch.
pretrained = None
model = dict(
    type='mmxvit.LVTClassifier',
    backbone=dict(
        type='mmxvit.LVT',
        arch='lvt',
        out_indices=(3, ),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    head=dict(type='mmxvit.LVTClsHead', num_classes=1000, in_channels=256))

# The recipe also names colour jitter of 0.4, which the trainer it is for does
# not apply beside RandAugment.
# crop ratio 0.96
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = 233
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# lr 1.6e-3 x batch / 1024. That norms and biases do not decay is inferred
# from DeiT and token labeling, whose recipe the paper follows.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.6e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys={'.cls_token': dict(decay_mult=0.)}))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=300)
]

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
