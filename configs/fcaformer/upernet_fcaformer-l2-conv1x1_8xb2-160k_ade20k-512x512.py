# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 3, with the 1x1 convolutions to 96, 192, 384 and 768
# channels that the authors' dense backbone has: 48.76 M parameters, where the
# paper prints the 46 M of fcaformer-l2-native.
_base_ = './upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='l2'),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
