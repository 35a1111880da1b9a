# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 76.3 mIoU on Cityscapes (the paper's figure). A peer,
# with mmseg's optimiser for it.
_base_ = [
    '../_base_/models/fcn_hrnet-w18-small.py',
    '../_base_/datasets/cityscapes_1024.py',
    '../_base_/schedules/sgd_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmcv's open-mmlab://msra/hrnetv2_w18_small; None trains from
# scratch.
pretrained = None
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)
        if pretrained else None))

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=8)
