# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Recursive atrous self-attention (RASA) of LVT, arXiv 2112.10809, 3.2."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..layers.dilated import dilated_depthwise, trains_dilated
from ..layers.fused import conv_act, layer_act
from .linear import PointwiseConv
from .utils import is_traced, widen

_SILU = nn.SiLU()


class RecursiveAtrousSelfAttention(nn.Module):
    r"""Recursive atrous self-attention, Eq. 5 to 8 of the paper.

    One pass, atrous self-attention (ASA), sees several scales in its queries:
    a linear layer (Eq. 6), then one depthwise 3x3 kernel at the dilations
    r = 1, 3, 5 (Eq. 5)::

        q = sum_r SiLU(conv_r(x W_q))
        A(x) = softmax(q k^T head_dims^-0.5) v W_o + b_o

    Keys and values come from x, or from x reduced by a convolution of stride
    ``reduction`` and a LayerNorm. All passes share the weights; each sees the
    sum of what the pass before gave and saw (Eq. 8)::

        x_0 = x,   x_t = SiLU(A(x_{t-1})) + x_{t-1},   out = SiLU(A(x_last))

    Eq. 8 takes ASA itself for the activation. The SiLU that closes every
    pass, unless there is but one, is that of the authors' network.

    Args:
        embed_dims: Channels d of the map.
        num_heads: Heads.
        reduction: Stride of the convolution in front of keys and values; 1
            for none. What is left of the map beyond a multiple of it gives
            no keys.
        recursions: Passes.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``, or
            ``recursions`` is not positive.
    """

    dilations = (1, 3, 5)

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 reduction: int = 1,
                 recursions: int = 2) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} must be a multiple of '
                             f'num_heads={num_heads}')
        if recursions < 1:
            raise ValueError(f'recursions={recursions} must be at least 1')
        self.num_heads = num_heads
        self.reduction = reduction
        self.recursions = recursions
        self.q = PointwiseConv(embed_dims, embed_dims, bias=False)
        # runs once for each dilation
        self.q_conv = nn.Conv2d(
            embed_dims, embed_dims, 3, groups=embed_dims, bias=False)
        if reduction > 1:
            self.reduce = nn.Conv2d(
                embed_dims, embed_dims, reduction, stride=reduction)
            self.norm = nn.LayerNorm(embed_dims)
        self.kv = PointwiseConv(embed_dims, 2 * embed_dims, bias=False)
        self.proj = PointwiseConv(embed_dims, embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for conv in (self.q, self.kv, self.proj):
            nn.init.trunc_normal_(conv.weight, std=0.02)
        convs = [self.q_conv]
        if self.reduction > 1:
            convs.append(self.reduce)
            nn.init.zeros_(self.reduce.bias)
        for conv in convs:
            nn.init.kaiming_normal_(
                conv.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.proj.bias)

    def convolve(self, q: Tensor, dilation: int) -> Tensor:
        """SiLU of the kernel of all dilations: (B, d, H, W) -> the same."""
        weight = self.q_conv.weight
        if dilation > 1 and trains_dilated(q, weight):
            return F.silu(dilated_depthwise(q, weight, dilation))
        padding = dilation
        if q.is_cpu and not is_traced() and min(q.shape[2:]) < 2 * dilation:
            # with zeros of its own it takes three times as long here
            q, padding = F.pad(q, (dilation, ) * 4), 0
        return conv_act(self.q_conv, _SILU, q, weight, None,
                        (padding, padding), (dilation, dilation))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, d, H, W) -> (B, heads, H W, d / heads) and twice the same of
        the reduced map.
        """
        q = self.q(x)
        one, three, five = [
            self.convolve(q, dilation) for dilation in self.dilations]
        if self.reduction > 1:
            x = self.norm(self.reduce(x).permute(0, 2, 3, 1))
            x = x.permute(0, 3, 1, 2)
        k, v = self.kv(x).chunk(2, 1)
        return tuple(
            t.permute(0, 2, 3, 1).flatten(1, 2).unflatten(
                2, (self.num_heads, -1)).transpose(1, 2)
            for t in (one + three + five, k, v))

    def attend(self, x: Tensor) -> Tensor:
        """softmax(q k^T head_dims^-0.5) v: (B, d, H, W) -> (B, d, H, W)"""
        q, k, v = self.queries_keys_values(x)
        if x.is_cpu:  # its kernel reads them once for each block of queries
            k, v = k.contiguous(), v.contiguous()
        with torch.autocast(x.device.type, enabled=False):
            out = F.scaled_dot_product_attention(widen(q), widen(k), widen(v))
        out = out.transpose(1, 2).flatten(2).unflatten(1, x.shape[2:])
        return out.permute(0, 3, 1, 2).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, H, W) -> (B, d, H, W), H and W at least ``reduction``."""
        if self.recursions == 1:
            return self.proj(self.attend(x))
        for _ in range(self.recursions - 1):
            x = layer_act(self.proj, _SILU, self.attend(x)) + x
        return layer_act(self.proj, _SILU, self.attend(x))

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """All passes; attention: q k^T and its product with v."""
        batch, dims, height, width = inputs[0].shape
        queries = batch * height * width
        keys = (height // self.reduction) * (width // self.reduction)
        reduced = batch * keys * (self.reduction > 1)
        linear = queries * dims * (2 * dims + 9 * len(self.dilations))
        linear += batch * keys * 2 * dims**2
        linear += reduced * dims**2 * self.reduction**2
        return dict(
            linear=self.recursions * linear,
            attention=self.recursions * 2 * queries * keys * dims,
            norm=self.recursions * 2 * reduced * dims,
            elementwise=self.recursions * (reduced + queries) * dims)
