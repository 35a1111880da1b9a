# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from mmengine.model import BaseModule
from torch import Tensor

from mmxvit.registry import MODELS

from ..layers import ConvNormAct


@MODELS.register_module()
class ConvPool(BaseModule):
    """A classifier's last 1x1 convolution and global mean.

    Light classifiers widen their last map before pooling; dense tasks have no
    use for it, so it is a neck and not part of the backbone.

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the pooled vector.
        norm_cfg: Norm after the convolution.
        act_cfg: Activation after the norm.
        init_cfg: As in MMEngine.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.conv = ConvNormAct(
            in_channels,
            out_channels,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg or dict(type='SiLU'))

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Maps of the backbone -> ((B, out_channels), ) of the last one."""
        return (self.conv(inputs[-1]).mean((2, 3)), )
