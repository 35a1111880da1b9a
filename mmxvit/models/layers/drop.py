# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch.nn as nn
from torch import Tensor


class DropPath(nn.Module):
    """Drop the residual branch of whole samples (stochastic depth).

    Args:
        p: Probability of dropping a sample's branch.
    """

    def __init__(self, p: float = 0.) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), kept samples scaled by 1 / (1 - p)."""
        if self.p == 0 or not self.training:
            return x
        keep = x.new_empty((x.shape[0], ) + (1, ) * (x.dim() - 1))
        return x * keep.bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f'p={self.p}'
