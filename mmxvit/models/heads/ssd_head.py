# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from mmdet.models.dense_heads import SSDHead as MMDetSSDHead

from mmxvit.registry import MODELS


@MODELS.register_module()
class SSDHead(MMDetSSDHead):
    """mmdet's SSDHead, able to predict.

    Since mmdet 3.2 prediction asks every head for ``loss_cls``, and mmdet's
    SSDHead has none (open-mmlab/mmdetection issues 11063, 11305, 11780).
    """

    loss_cls = None
