# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 74.9 mIoU on Cityscapes (the paper's figure). Not in
# the LVT paper: the recipe of SegFormer with XFormer, drop path as on ADE20K
# (inferred).
_base_ = '../xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'

model = dict(
    backbone=dict(type='mmxvit.LVT', arch='lvt', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 64, 160, 256]))
