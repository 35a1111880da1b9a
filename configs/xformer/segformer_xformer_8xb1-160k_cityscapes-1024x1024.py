# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 78.5 mIoU on Cityscapes (the paper's figure). Batch
# size, warm-up and weight decay, which it does not print, are SegFormer's. No
# drop path, as it names none (inferred).
_base_ = [
    '../_base_/models/segformer.py', '../_base_/datasets/cityscapes_1024.py',
    '../_base_/schedules/segformer_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(
        type='mmxvit.XFormer',
        arch='xformer',
        drop_path_rate=0.,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[64, 96, 128, 160], num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)))

optim_wrapper = dict(optimizer=dict(lr=5e-5))
auto_scale_lr = dict(base_batch_size=8)
