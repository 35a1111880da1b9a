# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 5: 36.3 PQ on COCO val (the paper's figure). A peer.
_base_ = './panoptic-fpn_lvt_8xb8-ms-3x_coco.py'

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[24, 32, 96, 320]))
# its last convolution feeds none of the four maps
find_unused_parameters = True
