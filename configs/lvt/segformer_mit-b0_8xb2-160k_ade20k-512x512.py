# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LVT paper, Table 4: 37.4 mIoU on ADE20K (the paper's figure). A peer.
_base_ = './segformer_lvt_8xb2-160k_ade20k-512x512.py'

# Checkpoint of the authors of SegFormer, as mmseg publishes it; None trains
# from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='MixVisionTransformer',
        embed_dims=32,
        num_layers=[2, 2, 2, 2],
        num_heads=[1, 2, 5, 8],
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)
        if pretrained else None),
    decode_head=dict(in_channels=[32, 64, 160, 256]))
