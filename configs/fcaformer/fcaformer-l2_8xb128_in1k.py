# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 2: 83.1 top-1 (the paper's figure).
_base_ = './fcaformer-l1_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='l2', drop_path_rate=0.1),
    head=dict(in_channels=480))
