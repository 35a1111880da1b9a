# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# ConvNeXt's recipe at a batch of 1024, as in the FcaFormer and CabViT papers:
# AdamW, 20 epochs of warm-up, cosine to 1e-6, moving average of the weights.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# no decay of vectors and biases, but of the factors of cross tokens, which
# the authors keep as a matrix
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'attn.scale': dict(decay_mult=1.0)}))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        end=20,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=20,
        end=300)
]

custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')
]

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
