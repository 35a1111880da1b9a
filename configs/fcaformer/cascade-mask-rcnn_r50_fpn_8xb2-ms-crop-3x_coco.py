# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 4: 46.3 box AP, 40.1 mask AP (the paper's figures).
# A peer.
_base_ = [
    '../_base_/models/cascade-mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/det_36e.py', '../_base_/mmdet_runtime.py'
]

# Checkpoint of a classifier with keys `backbone.*`; None trains from scratch.
pretrained = None
# Given to the backbone beside weights: norms and first stage stay as they are.
pretrained_backbone = dict(frozen_stages=1, norm_eval=True)
model = dict(
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        style='pytorch',
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None,
        **(pretrained_backbone if pretrained else dict(norm_eval=False))),
    neck=dict(in_channels=[256, 512, 1024, 2048]))

# Swin's, from whose paper the row is: there only the backbones differ
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
