# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 76.5 mIoU on Cityscapes (the paper's figure). A peer.
_base_ = './segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'

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
