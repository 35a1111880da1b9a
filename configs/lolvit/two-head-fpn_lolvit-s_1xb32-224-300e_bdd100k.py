# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 8 and 22: mIoU 0.623 of lane lines and 0.895 of drivable
# areas on BDD100K (the paper's figures).
_base_ = [
    '../_base_/models/fpn_two-task.py', '../_base_/datasets/bdd100k_224.py',
    '../_base_/schedules/yolom_300e.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of a LOLViT classifier; None trains from scratch.
pretrained = None
# 56 channels give the parameters of Table 8, 1.6 M with the backbone.
head = dict(in_channels=[56, 56, 56, 56], channels=56)
model = dict(
    backbone=dict(
        type='mmxvit.LOLViT',
        arch='s',
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[48, 64, 96, 128], out_channels=56),
    decode_head=dict(drivable=head, lane=head))

# epochs, where mmseg's runtime counts iterations
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=10))
log_processor = dict(by_epoch=True)
visualizer = dict(type='mmxvit.MultiTaskSegLocalVisualizer')
