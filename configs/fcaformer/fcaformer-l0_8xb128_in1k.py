# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 2: 74.3 top-1 (the paper's figure). The recipe is that
# of DeiT, as the paper says, without distillation; repeated augmentation is
# left out, and the moving average is that of the other archs (inferred).
_base_ = './fcaformer-l1_8xb128_in1k.py'

model = dict(
    backbone=dict(
        arch='l0',
        out_indices=(0, ),
        out_type='cls_token',
        drop_path_rate=0.1),
    head=dict(in_channels=192))

optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        }))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        end=5,
        convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5,
         end=300)
]
