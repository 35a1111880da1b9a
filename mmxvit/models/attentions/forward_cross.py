# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Forward cross attention and token merge of FcaFormer and CabViT.

Zhang et al., arXiv 2211.07198, section 3.1; the CabViT paper prints the same
equations and calls cross tokens digest tokens.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .linear import Linear, linear
from .utils import widen


class ForwardCrossAttention(nn.Module):
    r"""Attention of tokens to themselves and to tokens of earlier blocks.

    Eq. 1-4 of the paper, for regular tokens x (n, d) and cross tokens
    :math:`\bar x` (m, d) with one factor :math:`\alpha_j` each::

        Q = W_Q x,   K = W_K [x, alpha * x_],   V = W_V [x, alpha * x_]
        out = W_P softmax(Q K^T / sqrt(D) + B) V

    B is a table over the absolute offsets (dy, dx) for regular tokens and one
    value per cross token (its depth). Only regular tokens ask, so the cost of
    cross tokens is linear.

    Not in the paper, but in the published models: a LayerNorm on the cross
    tokens. It takes away nearly all of a factor that stands before it.

    Args:
        embed_dims: Width d.
        num_heads: Heads of width D = d / num_heads.
        size: Token grid (rows, columns) of the position table.
        cross_size: Grid of one group of cross tokens.
        num_groups: Groups, one for each earlier block; oldest first.
        cross_scale: ``'before_norm'``: the factors act before that LayerNorm,
            as in the published weights. ``'after_norm'``: behind it, where
            they take effect as in the paper's Eq. 2.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``, or
            ``cross_scale`` has another value.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 size: tuple[int, int] = (14, 14),
                 cross_size: tuple[int, int] = (4, 4),
                 num_groups: int = 0,
                 cross_scale: str = 'before_norm') -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} must be a multiple of '
                             f'num_heads={num_heads}')
        if cross_scale not in ('before_norm', 'after_norm'):
            raise ValueError("cross_scale must be 'before_norm' or "
                             f"'after_norm', got {cross_scale!r}")
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.size = tuple(size)
        self.cross_size = tuple(cross_size)
        self.num_groups = num_groups
        self.cross_scale = cross_scale
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.position_bias = nn.Parameter(
            torch.zeros(num_heads, size[0] * size[1]))
        if num_groups:
            num_cross = num_groups * cross_size[0] * cross_size[1]
            self.scale = nn.Parameter(torch.ones(num_cross))  # alpha
            self.depth_bias = nn.Parameter(torch.zeros(num_heads, num_cross))
            self.cross_norm = nn.LayerNorm(embed_dims)

    def position_table(self, size: tuple[int, int]) -> Tensor:
        """Position bias of every pair of regular tokens.

        Args:
            size: Token grid (rows, columns). Other grids than that of the
                table get a bilinearly resized table (inferred).

        Returns:
            (num_heads, n, n), n = rows * columns, float32 or wider.
        """
        rows, cols = size
        table = widen(self.position_bias).view(1, -1, *self.size)
        if tuple(size) != self.size:
            table = F.interpolate(
                table, size=tuple(size), mode='bilinear', align_corners=False)
        dy, dx = [torch.arange(n, device=table.device) for n in (rows, cols)]
        dy, dx = [(d.unsqueeze(1) - d).abs() for d in (dy, dx)]
        # of all y, x, y', x'
        pairs = (dy[:, None, :, None] * cols + dx[:, None]).flatten()
        return table.flatten(2)[0].index_select(1, pairs).view(
            -1, rows * cols, rows * cols)

    def per_cross_token(self, values: Tensor,
                        cross_size: tuple[int, int]) -> Tensor:
        """(k, groups * rows * columns) of ``self.cross_size`` at another."""
        if tuple(cross_size) == self.cross_size:
            return values
        values = values.view(-1, self.num_groups, *self.cross_size)
        return F.interpolate(
            values, size=tuple(cross_size), mode='bilinear',
            align_corners=False).flatten(1)

    def forward(self,
                x: Tensor,
                size: tuple[int, int],
                cross: Tensor | None = None,
                cross_size: tuple[int, int] | None = None) -> Tensor:
        """Attend within each group of tokens.

        Args:
            x: (G, n, d), normalised. Tokens that stand before the rows *
                columns of the grid (a class token) have no position bias.
            size: Grid (rows, columns) of the regular tokens, row-major.
            cross: (G, m, d), groups of earlier blocks, oldest first. None if
                there are none.
            cross_size: Grid of one group; None: that of the constructor.

        Returns:
            (G, n, d)
        """
        batch, num_tokens, dims = x.shape
        q, keys_values = self.qkv(x).split((dims, 2 * dims), 2)
        bias = self.position_table(size)
        num_class = num_tokens - size[0] * size[1]
        if num_class:
            bias = F.pad(bias, (num_class, 0, num_class, 0))
        if cross is not None:
            cross_size = cross_size or self.cross_size
            scale = self.per_cross_token(
                widen(self.scale).unsqueeze(0), cross_size).view(1, -1, 1)
            scale = scale.to(cross.dtype)
            if self.cross_scale == 'before_norm':
                cross = self.cross_norm(cross * scale)
            else:
                cross = self.cross_norm(cross) * scale
            of_cross = linear(cross, self.qkv.weight[dims:],
                              self.qkv.bias[dims:])
            keys_values = torch.cat((keys_values, of_cross), 1)
            depth_bias = self.per_cross_token(
                widen(self.depth_bias), cross_size).unsqueeze(1)
            bias = torch.cat(
                (bias, depth_bias.expand(-1, num_tokens, -1)), 2)
        # (G, heads, tokens, D) each
        q, k, v = [
            t.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for t in (q, *keys_values.chunk(2, 2))]
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = widen(q), widen(k), widen(v)
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias.to(q.dtype).unsqueeze(0))
        out = out.to(x.dtype).transpose(1, 2).reshape(batch, num_tokens, dims)
        return self.proj(out)

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """Projections (no queries of cross tokens), Q K^T and A V."""
        batch, num_tokens, dims = output.shape
        cross = inputs[2] if len(inputs) > 2 else None
        num_cross = 0 if cross is None else cross.shape[1]
        return dict(
            linear=batch * dims**2 * (4 * num_tokens + 2 * num_cross),
            attention=2 * batch * dims * num_tokens *
            (num_tokens + num_cross))


class TokenMergeEnhance(nn.Module):
    """Token merge and enhancement (TME), Fig. 2 of the paper.

    The merge branch, a depthwise 7x7 convolution of stride 4, makes a few
    cross tokens for later blocks. The enhance branch, a depthwise 3x3
    convolution with BatchNorm, takes the place of the map itself: nothing is
    added and no activation follows.

    Args:
        embed_dims: Channels d.
        enhance: The enhance branch, (B, d, H, W) -> (B, d, H, W).
        merge: Build the merge branch; the last block of a stage has none.
    """

    def __init__(self, embed_dims: int, enhance: nn.Module,
                 merge: bool) -> None:
        super().__init__()
        self.merge = nn.Conv2d(
            embed_dims,
            embed_dims,
            7,
            stride=4,
            padding=3,
            groups=embed_dims,
            bias=False) if merge else None
        self.enhance = enhance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, d, H, W) -> the enhanced map; cross tokens (B, m, d) or None.

        m = ceil(H / 4) * ceil(W / 4), in row-major order.
        """
        cross = None
        if self.merge is not None:
            cross = self.merge(x).flatten(2).transpose(1, 2)
        return self.enhance(x), cross
