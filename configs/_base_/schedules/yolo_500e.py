# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# 500 epochs of SGD at a batch of 256, the last 10 without mosaics. The LOLViT
# paper prints optimiser, lr, momentum, batch, epochs and the training package;
# weight decay, linear decay to 1 %, 3 epochs of warm-up and the moving average
# are that package's documented defaults. There, losses are summed over the
# images of a batch before the gradient's norm is cut to 10; here they are
# means, as everywhere in mmdet. The paper trains with mixed precision: --amp.
max_epochs = 500
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True),
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

custom_hooks = [
    # it also asks YOLOX's head for another loss, which this head has not
    dict(
        type='YOLOXModeSwitchHook',
        num_last_epochs=10,
        skip_type_keys=('Mosaic', 'RandomAffine'),
        priority=48),
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=1e-4,
        update_buffers=True,
        priority=49)
]

# 8 GPUs x 32 images
auto_scale_lr = dict(enable=False, base_batch_size=256)
