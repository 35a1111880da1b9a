# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# XFormer paper, Table 5: 75.6 mIoU on Cityscapes (the paper's figure). A peer.
_base_ = './segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'

# Checkpoint of mmpretrain's MobileViT-S; None trains from scratch.
pretrained = None
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileViT',
        arch='small',
        out_indices=(1, 2, 3, 4),
        # The classifier's last convolution widens 160 channels to 640. At 160
        # it is not in the checkpoint and starts from random weights.
        last_exp_factor=1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None))
