# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 5: 42.8 PQ on COCO val (the paper's figure).
_base_ = [
    '../_base_/models/panoptic-fpn_light.py',
    '../_base_/datasets/coco_panoptic_ms.py',
    '../_base_/schedules/panoptic_36e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.LVT',
        arch='lvt',
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[64, 64, 160, 256]))

# also draws predictions in which nothing was found
visualizer = dict(type='mmxvit.DetLocalVisualizer')
