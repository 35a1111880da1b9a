# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's SegFormer configs (Apache-2.0, OpenMMLab); also the
# recipe of the LVT paper, Sec. 4.2: 8 GPUs x 2 images.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# As in SegFormer's: no weight decay for the norms of the backbone (in the head
# the key of its learning rate wins) and for tables of positions, which are
# FcaFormer's and CabViT's here.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'position_bias': dict(decay_mult=0.),
            'depth_bias': dict(decay_mult=0.),
            'head': dict(lr_mult=10.)
        }))

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        begin=1500,
        end=160000,
        by_epoch=False)
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
