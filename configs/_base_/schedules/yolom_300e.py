# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# 300 epochs of SGD at a batch of 32. The LOLViT paper prints batch and epochs
# (Table 22) and refers to A-YOLOM for the rest, whose published settings are
# lr 0.01 falling linearly to 1 %, momentum 0.937, weight decay 5e-4 and 3
# epochs of warm-up. Nesterov momentum and the limit of the gradient's norm are
# defaults of the package that it is built on; its moving average of the
# weights is left out.
max_epochs = 300
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='SGD',
        lr=0.01,
        momentum=0.937,
        weight_decay=5e-4,
        nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10, norm_type=2))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=3,
        convert_to_iter_based=True),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        by_epoch=True,
        begin=3,
        end=max_epochs,
        convert_to_iter_based=True)
]

# 1 GPU x 32 images
auto_scale_lr = dict(enable=False, base_batch_size=32)
