# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the XFormer paper: the recipe of SegFormer with LVT, no drop path, as
# on Cityscapes.
_base_ = '../lvt/segformer_lvt_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(type='mmxvit.XFormer', arch='xformer', drop_path_rate=0.),
    decode_head=dict(in_channels=[64, 96, 128, 160]))
