# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 5: 41.3 PQ on COCO val (the paper's figure). A peer.
_base_ = './panoptic-fpn_lvt_8xb8-ms-3x_coco.py'

# Checkpoint of the authors of PVTv2; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformerV2',
        embed_dims=32,
        num_layers=[2, 2, 2, 2],
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)
        if pretrained else None),
    neck=dict(in_channels=[32, 64, 160, 256]))
