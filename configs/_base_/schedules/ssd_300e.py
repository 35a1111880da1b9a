# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# 300 epochs at a batch of 256, as the LOLViT paper prints (Table 21), which
# for the rest refers to MobileViTv2. Of its published SSDLite training
# (ml-cvnets, config/detection/ssd_coco/mobilevit_v2.yaml; 200 epochs, batch
# 128): AdamW with weight decay on everything, 500 iterations of warm-up from a
# tenth of the learning rate, a cosine from 9e-4 to 1e-6, a moving average of
# the weights by 5e-4, mixed precision (--amp). Inferred: the learning rate is
# not scaled to the larger batch; the average forgets faster at first, so that
# short runs do not evaluate their initial weights; norms are not synchronised.
max_epochs = 300
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=9e-4, betas=(0.9, 0.999), weight_decay=0.05))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min=1e-6)
]

custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=5e-4,
        update_buffers=True,
        priority=49)
]

# 8 GPUs x 32 images
auto_scale_lr = dict(enable=False, base_batch_size=256)
