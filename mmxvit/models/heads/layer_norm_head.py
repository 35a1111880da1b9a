# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch.nn as nn
from mmpretrain.models.heads import LinearClsHead

from mmxvit.registry import MODELS

from .plain import LayerNormHead


@MODELS.register_module()
class LayerNormClsHead(LinearClsHead):
    """:class:`~.plain.LayerNormHead` with its loss.

    Args:
        num_classes: Classes.
        in_channels: Channels C of the backbone's last map.
        kwargs: As in mmpretrain's LinearClsHead.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 **kwargs: object) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.norm = nn.LayerNorm(in_channels)

    pre_logits = LayerNormHead.pre_logits
