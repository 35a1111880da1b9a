# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 8 and 22: mIoU 0.622 of lane lines and 0.896 of drivable
# areas on BDD100K (the paper's figures). A peer.
_base_ = './two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k.py'

# Checkpoint of a MobileViT classifier; None trains from scratch.
pretrained = None
# 55 channels give the parameters of Table 8, 1.44 M with the backbone.
head = dict(in_channels=[55, 55, 55, 55], channels=55)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileViT',
        arch='xx_small',
        out_indices=(1, 2, 3, 4),
        # The classifier's last convolution widens 80 channels to 320. At 80
        # it is not in the checkpoint and starts from random weights.
        last_exp_factor=1,
        init_cfg=dict(
            type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        if pretrained else None),
    neck=dict(in_channels=[24, 48, 64, 80], out_channels=55),
    decode_head=dict(drivable=head, lane=head))
