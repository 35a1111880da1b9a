# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# CabViT paper, Table 3: 46.7 mIoU on ADE20K (the paper's figure). The recipe,
# which it does not print, is FcaFormer's (inferred).
_base_ = '../fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(type='mmxvit.CabViT', arch='h-l2'),
    decode_head=dict(in_channels=[96, 192, 320, 480]),
    auxiliary_head=dict(in_channels=320))
