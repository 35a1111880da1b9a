# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Of the authors' repository: 84.9 top-1 (their figure).
_base_ = './fcaformer-l1_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='l4', drop_path_rate=0.4),
    head=dict(in_channels=768))
