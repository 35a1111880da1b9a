# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the paper: MobileNetV2 in the place of LOLViT. A peer.
_base_ = [
    '../_base_/models/ssdlite_320.py', '../_base_/datasets/coco_ssd_320.py',
    '../_base_/schedules/ssd_300e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a MobileNetV2 classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='MobileNetV2',
        out_indices=(4, 7),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(
        in_channels=(96, 1280), out_channels=(96, 1280, 512, 256, 256, 128)),
    bbox_head=dict(in_channels=(96, 1280, 512, 256, 256, 128)))
