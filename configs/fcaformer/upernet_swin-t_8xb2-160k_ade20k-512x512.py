# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 3: 45.8 mIoU on ADE20K; CabViT paper, Table 3: 46.1
# (the papers' figures). A peer, with mmseg's optimiser for it, and tested on
# whole images as there.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/upernet_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmpretrain's Swin-T; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        pad_small_map=True,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
    test_cfg=dict(_delete_=True, mode='whole'))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.)
        }))
