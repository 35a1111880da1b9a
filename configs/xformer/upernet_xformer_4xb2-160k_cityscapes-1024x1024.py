# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the XFormer paper: the recipe of UPerNet with FcaFormer-L1, no drop
# path, as the paper names none (inferred).
_base_ = '../fcaformer/upernet_fcaformer-l1_4xb2-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.XFormer', arch='xformer', drop_path_rate=0.),
    decode_head=dict(in_channels=[64, 96, 128, 160]),
    auxiliary_head=dict(in_channels=128))
