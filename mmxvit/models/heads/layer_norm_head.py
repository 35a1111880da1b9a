# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch.nn as nn
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor

from mmxvit.registry import MODELS


@MODELS.register_module()
class LayerNormClsHead(LinearClsHead):
    """Global mean, LayerNorm, linear layer (FcaFormer, CabViT).

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

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, H, W) or vectors (B, C) -> (B, C) of the last one."""
        x = feats[-1]
        return self.norm(x.mean((2, 3)) if x.dim() == 4 else x)
