# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 3, "LVT scaled up": 83.3 top-1 (the paper's figure). Its
# structure was not published; this one is inferred from its size.
_base_ = './lvt_8xb128_in1k.py'

# Checkpoint whose backbone the training starts from; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmxvit.LVT',
        arch='lvt-scaled',
        out_indices=(3, ),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    head=dict(in_channels=512, num_heads=16))
