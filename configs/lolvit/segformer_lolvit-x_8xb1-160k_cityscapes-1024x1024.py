# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the LOLViT paper: the recipe of SegFormer with XFormer, no drop path,
# as the paper names none (inferred).
_base_ = '../xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.LOLViT', arch='x', drop_path_rate=0.),
    decode_head=dict(in_channels=[64, 96, 128, 192]))
