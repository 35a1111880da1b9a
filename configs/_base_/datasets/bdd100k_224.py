# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# BDD100K's masks of drivable areas and lane lines, at 224 x 224, the two
# binary tasks of the LOLViT paper. All classes: in every data set
#   metainfo=dict(tasks=dict(
#       drivable=('background', 'direct', 'alternative'),
#       lane=('background', 'crosswalk', 'double other', ...)))
# and num_classes of the heads to their numbers. For the older drivable_maps,
# where 0 is background and names end in _drivable_id.png, drivable_maps=True
# and data_prefix.drivable.
#
# Scale, shift, flip and colour as far as A-YOLOM's settings go in mmseg's
# transforms; its mosaics are left out, as they cut roads that are always at
# the bottom of the image (inferred).
dataset_type = 'mmxvit.BDD100KDataset'
data_root = 'data/bdd100k/'
size = (224, 224)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmxvit.LoadMultiTaskAnnotations'),
    dict(
        type='RandomResize',
        scale=size,
        ratio_range=(0.5, 1.5),
        keep_ratio=False),
    dict(type='RandomCrop', crop_size=size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='mmxvit.PackMultiTaskSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=False),
    # after Resize: scores are those of the original size
    dict(type='mmxvit.LoadMultiTaskAnnotations'),
    dict(type='mmxvit.PackMultiTaskSegInputs')
]
# 9000 images to train and 2000 to test, as in the paper; it does not say
# which, so these are the first ones by name
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/100k/train',
            drivable='labels/drivable/masks/train',
            lane='labels/lane/masks/train'),
        indices=9000,
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
            img_path='images/100k/val',
            drivable='labels/drivable/masks/val',
            lane='labels/lane/masks/val'),
        indices=2000,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmxvit.MultiTaskIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
