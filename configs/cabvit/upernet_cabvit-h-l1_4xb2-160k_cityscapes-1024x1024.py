# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the CabViT paper: the recipe of UPerNet with FcaFormer-L1, drop
# path too (inferred).
_base_ = '../fcaformer/upernet_fcaformer-l1_4xb2-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.CabViT', arch='h-l1', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 192, 320]),
    auxiliary_head=dict(in_channels=192))
