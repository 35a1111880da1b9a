# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# 20 epochs of a small data set from random weights.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2))

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, milestones=[15, 18], gamma=0.1)
]

# 1 GPU (or CPU) x 8 images
auto_scale_lr = dict(enable=False, base_batch_size=8)
