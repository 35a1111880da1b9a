# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer and CabViT papers, Table 3: 46.7 mIoU on ADE20K (the papers'
# figure). A peer, with mmseg's optimiser for it, and its sliding windows.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/upernet_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of mmpretrain's ConvNeXt-T; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(
        decay_rate=0.9, decay_type='stage_wise', num_layers=6),
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05))
