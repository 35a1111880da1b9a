# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Not in the paper: LOLViT-X with the heads of its Table 8.
_base_ = './two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k.py'

model = dict(
    backbone=dict(arch='x'), neck=dict(in_channels=[64, 96, 128, 192]))
