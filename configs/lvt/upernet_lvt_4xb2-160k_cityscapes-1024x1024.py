# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the LVT paper: the recipe of UPerNet with FcaFormer-L1, drop path
# of the paper's classifier (inferred).
_base_ = '../fcaformer/upernet_fcaformer-l1_4xb2-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.LVT', arch='lvt', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160))
