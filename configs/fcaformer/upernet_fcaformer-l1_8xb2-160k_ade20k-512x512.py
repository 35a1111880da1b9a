# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the FcaFormer paper: its recipe for FcaFormer-L2. Tested with one
# scale; with several and flips by --tta.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/upernet_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of a classifier; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmxvit.FcaFormer',
        arch='l1',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[64, 128, 192, 320]),
    auxiliary_head=dict(in_channels=192))
