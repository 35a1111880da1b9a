# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 3: 47.6 mIoU on ADE20K (the paper's figure, probably
# with several scales and flips: --tta). The stages' own widths, with which
# parameters are the 46 M of the paper.
_base_ = './upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='l2', out_dims=None),
    decode_head=dict(in_channels=[96, 192, 320, 480]),
    auxiliary_head=dict(in_channels=320))
