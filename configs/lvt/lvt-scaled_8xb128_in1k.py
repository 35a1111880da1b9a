# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 3, "LVT scaled up": 83.3 top-1 (the paper's figure). Its
# structure was not published; this one is inferred from its size.
_base_ = './lvt_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='lvt-scaled'), head=dict(in_channels=512, num_heads=16))
