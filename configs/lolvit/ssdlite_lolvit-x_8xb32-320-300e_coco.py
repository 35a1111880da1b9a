# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 6 and 21: 23.36 AP (the paper's figure).
_base_ = [
    '../_base_/models/ssdlite_320.py', '../_base_/datasets/coco_ssd_320.py',
    '../_base_/schedules/ssd_300e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a LOLViT classifier; None trains from scratch.
pretrained = None
# The paper prints no parameters of this model; neck and head are mmdet's.
model = dict(
    backbone=dict(
        type='mmxvit.LOLViT',
        arch='x',
        out_indices=(2, 3),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(
        in_channels=(128, 192), out_channels=(128, 192, 512, 256, 256, 128)),
    bbox_head=dict(in_channels=(128, 192, 512, 256, 256, 128)))
