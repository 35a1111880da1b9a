# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the LVT paper: the recipe of UPerNet with FcaFormer-L2.
_base_ = '../fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(type='mmxvit.LVT', arch='lvt'),
    decode_head=dict(in_channels=[64, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160))
