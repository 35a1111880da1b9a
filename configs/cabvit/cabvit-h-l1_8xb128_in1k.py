# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# CabViT paper, Table 2: 80.3 top-1 (the paper's figure).
_base_ = '../fcaformer/fcaformer-l1_8xb128_in1k.py'

model = dict(backbone=dict(type='mmxvit.CabViT', arch='h-l1'))
