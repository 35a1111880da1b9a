# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Anchor-free YOLO with a distribution over the sides of a box and
# task-aligned assignment, in the settings that YOLOv8's documentation gives.
# A config that inherits it adds the backbone (three maps, strides 8, 16, 32)
# and the channels of neck and head.
norm_cfg = dict(type='BN', momentum=0.03, eps=0.001)
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    neck=dict(type='mmxvit.YOLOPAN', num_blocks=1, norm_cfg=norm_cfg),
    bbox_head=dict(
        type='mmxvit.YOLODFLHead',
        num_classes=80,
        strides=[8, 16, 32],
        reg_max=16,
        norm_cfg=norm_cfg,
        loss_cls=dict(
            type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox=dict(type='CIoULoss', loss_weight=7.5),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=1.5)),
    train_cfg=dict(
        assigner=dict(type='TaskAlignedAssigner', topk=10),
        alpha=0.5,
        beta=6.0),
    test_cfg=dict(
        nms_pre=1000,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.7),
        max_per_img=300))
