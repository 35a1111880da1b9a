# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the FcaFormer paper: the recipe of SegFormer with XFormer, drop path
# as with UPerNet (inferred).
_base_ = '../xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.FcaFormer', arch='l1', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 192, 320]))
