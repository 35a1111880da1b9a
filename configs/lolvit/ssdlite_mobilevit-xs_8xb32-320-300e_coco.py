# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 6 and 21: 24.80 AP (the paper's figure). A peer.
_base_ = [
    '../_base_/models/ssdlite_320.py', '../_base_/datasets/coco_ssd_320.py',
    '../_base_/schedules/ssd_300e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a MobileViT classifier; None trains from scratch.
pretrained = None
# mmpretrain's backbone ends in the 1x1 convolution to 384 channels, which
# MobileViT's authors leave out of their detectors.
model = dict(
    backbone=dict(
        type='mmpretrain.MobileViT',
        arch='x_small',
        out_indices=(3, 4),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(
        in_channels=(80, 384), out_channels=(80, 384, 512, 256, 256, 128)),
    bbox_head=dict(in_channels=(80, 384, 512, 256, 256, 128)))
