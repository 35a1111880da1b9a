# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Of the authors' repository: 84.2 top-1 (their figure).
_base_ = './fcaformer-l1_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='l3', drop_path_rate=0.2),
    head=dict(in_channels=512))
