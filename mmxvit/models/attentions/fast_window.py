# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Fast window attention (FWA) of LOLViT, section 4."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .utils import HALF, widen


class ScalarLayerNorm(nn.LayerNorm):
    """LayerNorm over the features of a token, with one gain and one offset.

    Args:
        embed_dims: Features d of a token.
        eps: Added to the variance.
    """

    def __init__(self, embed_dims: int, eps: float = 1e-5) -> None:
        super().__init__(embed_dims, eps)
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        # never narrower than x, which a caller may have widened
        dtype = self.weight.dtype if x.dtype in HALF else x.dtype
        weight, bias = [p.to(dtype).expand(self.normalized_shape)
                        for p in (self.weight, self.bias)]
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class FastWindowAttention(nn.Module):
    r"""Fast window attention, Eq. 2-5 of the paper.

    Each of the N = HW tokens attends to n keys, n about W. A key stands for a
    window of ``patch * fold`` columns over the whole height (FAWA, Eq. 4:
    strips of ``patch`` rows are stacked and summed, then ``fold`` neighbours
    are merged)::

        Query, Token = split(conv(x))
        merged = FAWA(Token)                           (n, d)
        K, V = split(conv(norm(merged)))               Eq. 5
        A = ReLU(Q K^T / sqrt(D)) / ((DP + eps) n)     Eq. 2 and 3, DReLU
        out = A V

    for each head of width D, with DP a learned scalar. A row of A need not
    sum to 1 and may be all zero; the token then gets zeros.

    Token is a linear map of x, so it is applied to the n merged tokens and
    not to all N; the divisor of Eq. 3 is applied to V, and no product with
    the (N, n) map is left.

    Read into the paper, which leaves these open: the mean over the tokens of
    a window in place of the sum of Eq. 4, which grows with the height ("is
    normalised before use"), and a LayerNorm after it; the last window where
    W is no multiple of ``patch * fold``: zeros are padded and the mean is
    over the true number; ``projection``.

    Args:
        embed_dims: Features d of a token.
        num_heads: Heads.
        patch: Columns (and rows) of a patch.
        fold: Neighbouring patches merged into one key.
        projection: ``'head'``: the 1x1 convolutions mix the heads and leave
            the features of a head alone; this gives the parameters printed in
            Tables 16 and 17. ``'channel'``: they mix all d features, as the
            paper's text reads. Inferred.
        eps: Epsilon of Eq. 3.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``,
            ``patch`` or ``fold`` is below 1, or ``projection`` has another
            value.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int = 4,
                 patch: int = 1,
                 fold: int = 1,
                 projection: str = 'head',
                 eps: float = 1e-6) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} must be a multiple of '
                             f'num_heads={num_heads}')
        if patch < 1 or fold < 1:
            raise ValueError(f'patch={patch} and fold={fold} must be at '
                             'least 1')
        if projection not in ('head', 'channel'):
            raise ValueError("projection must be 'head' or 'channel', got "
                             f'{projection!r}')
        self.num_heads = num_heads
        self.head_dims = embed_dims // num_heads
        self.window = patch * fold
        self.projection = projection
        self.eps = eps
        width = num_heads if projection == 'head' else embed_dims
        self.query_token = nn.Conv2d(width, 2 * width, 1)
        self.norm = ScalarLayerNorm(embed_dims)
        self.key_value = nn.Conv2d(width, 2 * width, 1)
        self.length_scale = nn.Parameter(torch.empty(1))  # DP
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for conv in (self.query_token, self.key_value):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.length_scale, 0.5)

    def project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Rows of a 1x1 convolution: (B, N, d) -> (heads, B, N, D).

        There are as many heads as the rows give.
        """
        batch, num_tokens, _ = x.shape
        heads, dims = self.num_heads, self.head_dims
        weight = weight.flatten(1)
        if self.projection == 'channel':
            out = F.linear(x, weight, bias)
            return out.view(batch, num_tokens, len(weight) // dims,
                            dims).permute(2, 0, 1, 3)
        x = x.reshape(batch, num_tokens, heads, dims).permute(2, 0, 1, 3)
        out = torch.addmm(bias.unsqueeze(1), weight, x.reshape(heads, -1))
        return out.view(len(weight), batch, num_tokens, dims)

    def merge(self, x: Tensor) -> Tensor:
        """FAWA, Eq. 4, as a mean: (B, H, W, d) -> (B, n, d).

        In float32 or wider.
        """
        dtype = torch.float32 if x.dtype in HALF else x.dtype
        columns = x.sum(1, dtype=dtype) / x.shape[1]
        if self.window == 1:
            return columns
        # avg_pool1d would do, but OpenVINO has none wider than the map; a
        # padding of fixed width keeps one compiled graph for all remainders
        width = columns.shape[1]
        num_keys = (width + self.window - 1) // self.window
        padded = F.pad(columns, (0, 0, 0, self.window - 1))
        sums = padded[:, :num_keys * self.window].unflatten(
            1, (num_keys, self.window)).sum(2)
        counts = torch.arange(width, 0, -self.window, device=x.device)
        return sums / counts.clamp(max=self.window).unsqueeze(1)

    def forward(self,
                x: Tensor,
                merged: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from all tokens to the merged ones.

        Args:
            x: (B, H, W, d), the tokens on their grid.
            merged: (B, n, d), what the first layer of the block returned, to
                be used in place of this layer's FAWA(Token) (Eq. 5, L >= 2).

        Returns:
            (B, H, W, d), and the merged tokens that were used, (B, n, d) in
            float32 or wider.
        """
        batch, height, width, dims = x.shape
        w_q, w_t = self.query_token.weight.chunk(2)
        b_q, b_t = self.query_token.bias.chunk(2)
        q = self.project(x.reshape(batch, height * width, dims), w_q, b_q)

        with torch.autocast(x.device.type, enabled=False):
            if merged is None:
                token = self.project(
                    self.merge(x), widen(w_t), widen(b_t))
                merged = token.permute(1, 2, 0, 3).flatten(2)
            kv = self.project(
                self.norm(merged), widen(self.key_value.weight),
                widen(self.key_value.bias))
            k, v = kv.chunk(2)
            k = k * self.head_dims**-0.5
            v = v / ((widen(self.length_scale) + self.eps) * v.shape[2])
            attn = torch.matmul(widen(q), k.transpose(2, 3)).relu()
            out = torch.matmul(attn, v).permute(1, 2, 0, 3).reshape(x.shape)
        return out.to(x.dtype), merged

    def nominal_macs(self, inputs: tuple, output: tuple) -> dict[str, int]:
        """MACs of the structure in the paper, whatever :meth:`forward` runs.

        The convolutions over all N tokens (Query alone where merged tokens
        are given) and over the n keys, q k^T and a v; the norm of the keys.
        """
        batch, num_keys, dims = output[1].shape
        num_tokens = output[0].numel() // (batch * dims)
        cached = len(inputs) > 1 and inputs[1] is not None
        # 2 x width rows of length `width` at (d / width) places of a token
        conv = 2 * dims * self.query_token.in_channels
        return dict(
            linear=batch * conv *
            ((num_tokens // 2 if cached else num_tokens) + num_keys),
            attention=2 * batch * num_tokens * num_keys * dims,
            norm=2 * batch * num_keys * dims)
