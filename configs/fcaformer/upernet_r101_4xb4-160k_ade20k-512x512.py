# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer and CabViT papers, Table 3: 44.9 mIoU on ADE20K (the papers'
# figure). A peer, with mmseg's optimiser for it, and tested on whole images as
# there.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/sgd_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmpretrain's ResNetV1c-101; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='ResNetV1c',
        depth=101,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(_delete_=True, mode='whole'))

train_dataloader = dict(batch_size=4)
