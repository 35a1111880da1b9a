# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# The 3x schedule of mmdet, 8 GPUs x 2 images.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=36,
        by_epoch=True,
        milestones=[27, 33],
        gamma=0.1)
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
