# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the FcaFormer paper: the recipe for ADE20K, crops and windows of
# XFormer's Table 5; two images on a GPU, as the head pools to one pixel, which
# BatchNorm cannot take from one image.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/cityscapes_1024.py',
    '../_base_/schedules/upernet_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(
        type='mmxvit.FcaFormer',
        arch='l1',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[64, 128, 192, 320], num_classes=19),
    auxiliary_head=dict(in_channels=192, num_classes=19),
    test_cfg=dict(crop_size=(1024, 1024), stride=(768, 768)))

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=8)
