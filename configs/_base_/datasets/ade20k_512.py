# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's ade20k.py (Apache-2.0, OpenMMLab). ADE20K with 150
# classes, crops of 512 x 512 for training, the short side of 512 for testing.
# Batch size 8 GPUs x 2 images; a config of another one sets it.
dataset_type = 'mmxvit.ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmxvit.LoadSegAnnotations'),
    dict(
        type='RandomResize',
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    # after Resize: scores are those of the original size
    dict(type='mmxvit.LoadSegAnnotations'),
    dict(type='PackSegInputs')
]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# tools/test.py --tta: several scales and flips
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(side * 4, side), keep_ratio=True)
                for side in (256, 384, 512, 640, 768, 896)
            ],
            [
                dict(type='RandomFlip', prob=prob, direction='horizontal')
                for prob in (0., 1.)
            ],
            [dict(type='mmxvit.LoadSegAnnotations')],
            [dict(type='PackSegInputs')]
        ])
]
