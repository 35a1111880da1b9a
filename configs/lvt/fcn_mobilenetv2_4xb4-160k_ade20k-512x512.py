# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 4: 19.7 mIoU on ADE20K (the paper's figure). A peer, with
# mmseg's optimiser for it.
_base_ = [
    '../_base_/models/fcn_mobilenetv2-d8.py',
    '../_base_/datasets/ade20k_512-multiple-of-32.py',
    '../_base_/schedules/sgd_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmpretrain's MobileNetV2; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None))

train_dataloader = dict(batch_size=4)
