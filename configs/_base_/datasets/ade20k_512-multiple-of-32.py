# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Adapted from mmseg's fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py
# (Apache-2.0, OpenMMLab). ADE20K, tested as in the LVT paper and SegFormer's:
# the short side of 512, then each side rounded up to a multiple of 32.
_base_ = './ade20k_512.py'

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='mmxvit.LoadSegAnnotations'),
    dict(type='PackSegInputs')
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
