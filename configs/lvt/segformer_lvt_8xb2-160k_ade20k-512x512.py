# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 4: 39.3 mIoU on ADE20K (the paper's figure). Drop path as in
# its classification (inferred).
_base_ = [
    '../_base_/models/segformer.py',
    '../_base_/datasets/ade20k_512-multiple-of-32.py',
    '../_base_/schedules/segformer_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.LVT',
        arch='lvt',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[64, 64, 160, 256]))
