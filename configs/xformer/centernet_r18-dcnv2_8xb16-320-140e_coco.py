# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 4: 25.3 AP at 320 (the paper's figure). A peer.
# Adapted from mmdet's centernet_r18-dcnv2_8xb16-crop512-140e_coco.py
# (Apache-2.0, OpenMMLab). Model, augmentation, optimiser and schedule are its
# own; here crops of 320 take the place of those of 512, and test images are
# resized to 320 and padded to a multiple of 32, where mmdet tests them at
# their own size.
_base_ = [
    '../_base_/datasets/coco_yolov3_320.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of mmpretrain's ResNet-18; None trains from scratch.
pretrained = None
model = dict(
    type='CenterNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=18,
        norm_eval=False,
        norm_cfg=dict(type='BN'),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(
        type='CTResNetNeck',
        in_channels=512,
        num_deconv_filters=(256, 128, 64),
        num_deconv_kernels=(4, 4, 4),
        use_dcn=True),
    bbox_head=dict(
        type='CenterNetHead',
        num_classes=80,
        in_channels=64,
        feat_channels=64,
        loss_center_heatmap=dict(type='GaussianFocalLoss', loss_weight=1.0),
        loss_wh=dict(type='L1Loss', loss_weight=0.1),
        loss_offset=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=None,
    test_cfg=dict(topk=100, local_maximum_kernel=3, max_per_img=100))

input_size = _base_.input_size
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18),
    dict(
        type='RandomCenterCropPad',
        crop_size=input_size,
        ratios=(0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
        mean=[0, 0, 0],
        std=[1, 1, 1],
        to_rgb=True,
        test_pad_mode=None),
    dict(type='Resize', scale=input_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
load = dict(
    type='LoadImageFromFile',
    to_float32=True,
    backend_args=_base_.backend_args)
resize = dict(type='Resize', scale=input_size, keep_ratio=True)
pad = dict(
    type='RandomCenterCropPad',
    ratios=None,
    border=None,
    mean=[0, 0, 0],
    std=[1, 1, 1],
    to_rgb=True,
    test_mode=True,
    test_pad_mode=['size_divisor', 32])
test_pipeline = [
    load, resize, pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'border'))
]
train_dataloader = dict(
    batch_size=16,
    dataset=dict(times=5, dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# as mmdet's: the image and its mirror image, one scale
tta_model = dict(
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    load, resize,
    dict(
        type='TestTimeAug',
        transforms=[
            # before the padding, whose border is not flipped back
            [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)],
            [pad],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                               'scale_factor', 'flip', 'flip_direction',
                               'border'))
            ]
        ])
]

# 28 epochs over a data set that is repeated 5 times
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=28, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2))

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0,
        end=1000),
    dict(
        type='MultiStepLR',
        begin=0,
        end=28,
        by_epoch=True,
        milestones=[18, 24],
        gamma=0.1)
]

# 8 GPUs x 16 images
auto_scale_lr = dict(enable=False, base_batch_size=128)
