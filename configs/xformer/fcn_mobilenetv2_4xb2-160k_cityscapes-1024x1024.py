# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 64.6 mIoU on Cityscapes (the paper's figure). A peer,
# with mmseg's optimiser for it.
_base_ = [
    '../_base_/models/fcn_mobilenetv2-d8.py',
    '../_base_/datasets/cityscapes_1024.py',
    '../_base_/schedules/sgd_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmpretrain's MobileNetV2; None trains from scratch.
pretrained = None
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)))

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=8)
