# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# FcaFormer paper, Table 3: 46.8 mIoU on ADE20K (the paper's figure). A peer:
# heads of 384 channels, as in the DeiT III paper, give the 42 M of the table.
# Tested on whole images, as in mmseg's configs of DeiT.
_base_ = [
    '../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/upernet_160k.py', '../_base_/mmseg_runtime.py'
]

# Checkpoint of DeiT III-S with mmpretrain's names and, in its pos_embed, a row
# of zeros in front for the class token; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        # In mmpretrain's DeiT3 layers never use their second norm. This one
        # differs in the class token, which has a position of its own.
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        img_size=512,  # as many positions as the paper's parameters count
        out_indices=(3, 5, 7, 11),
        out_type='featmap',
        final_norm=False,
        layer_scale_init_value=1e-5,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(type='Feature2Pyramid', embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
    test_cfg=dict(_delete_=True, mode='whole'))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'pos_embed': dict(decay_mult=0.),
            'cls_token': dict(decay_mult=0.)
        }))
