# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# LOLViT paper, Tables 7 and 20: 77.4 mAP at IoU 0.5 (the paper's figure) with
# fast window attention in MobileViT-XS.
_base_ = './yolo_mobilevit-xs_8xb32-640-500e_voc0712.py'

model = dict(backbone=dict(type='mmxvit.FWAMobileViT'))
