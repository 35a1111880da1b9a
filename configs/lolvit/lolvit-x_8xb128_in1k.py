# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 3 and 19: 72.53 top-1 at 224 (the paper's figure).
_base_ = './lolvit-s_8xb128_in1k.py'

model = dict(backbone=dict(arch='x'), neck=dict(in_channels=192))
