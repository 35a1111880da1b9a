# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Cross feature attention (XFA) of XFormer, arXiv 2207.07268, section 3.1."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .utils import is_traced, widen


class CrossFeatureAttention(nn.Module):
    r"""Cross feature attention, Eq. 2-5 of the paper.

    For each head of width D, with q, k, v = X W of shape (N, D) and
    :math:`\hat q, \hat k` their L2-normalised rows (Eq. 2)::

        k_c = w_c k^          (1, D)   context score, Eq. 3
        k_f = k^ w_f^T        (N, 1)   feature score, Eq. 4
        out = lambda * v (q^^T k_f / N) k_c    (N, D)   Eq. 5

    The (D, D) map of Eq. 5 is an outer product of the vectors
    ``u = q^^T k_f / N`` and ``k_c``, so it is never built.  Nor is v: with
    :math:`v u = X (W_v u)` and the output projection moved onto ``k_c``, each
    token costs two products of length d per head after its q and k.

    Read into the paper, which leaves these open: the heads and that they
    share ``w_c``; the mean over tokens in u in place of a sum (a constant that
    lambda absorbs at one size; it keeps a lambda learned at one size right at
    another); ``w_c``, printed as 1 x N, kept on a token grid and resized to
    the current one; ``norm_dim``.

    Args:
        embed_dims: Width d of the tokens.
        qkv_dims: Width of q, k and v over all heads.
        num_heads: Heads. Inferred from the memory column of Table 2.
        base_size: Token grid (rows, columns) on which ``w_c`` is kept.
        norm_dim: What Eq. 2 normalises. ``'feature'``: each token's vector of
            length D. ``'token'``: each channel over the N tokens, as XCiT
            does (to a root mean square of 1, so that N cancels). Inferred.
        eps: Smallest norm that is divided by.

    Raises:
        ValueError: ``qkv_dims`` is not a multiple of ``num_heads``, or
            ``norm_dim`` has another value.
    """

    def __init__(self,
                 embed_dims: int,
                 qkv_dims: int = 96,
                 num_heads: int = 8,
                 base_size: tuple[int, int] = (16, 16),
                 norm_dim: str = 'feature',
                 eps: float = 1e-12) -> None:
        super().__init__()
        if qkv_dims % num_heads:
            raise ValueError(f'qkv_dims={qkv_dims} must be a multiple of '
                             f'num_heads={num_heads}')
        if norm_dim not in ('feature', 'token'):
            raise ValueError("norm_dim must be 'feature' or 'token', got "
                             f'{norm_dim!r}')
        self.num_heads = num_heads
        self.head_dims = qkv_dims // num_heads
        self.norm_dim = norm_dim
        self.eps = eps
        self.qkv = nn.Linear(embed_dims, 3 * qkv_dims, bias=False)
        self.w_c = nn.Parameter(torch.empty(1, 1, *base_size))
        self.w_f = nn.Parameter(torch.empty(num_heads, self.head_dims))
        self.temperature = nn.Parameter(torch.ones(1))  # lambda
        self.proj = nn.Linear(qkv_dims, embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        nn.init.constant_(self.w_c, 1 / self.w_c.numel())
        nn.init.normal_(self.w_f, std=self.head_dims**-0.5)
        nn.init.ones_(self.temperature)

    def context_weights(self, size: tuple[int, int]) -> Tensor:
        """``w_c`` on a token grid of another size, its sum kept.

        Bilinear resize, scaled by the ratio of cell areas; what is then
        missing of the sum is spread evenly (dividing by the resized sum would
        be undefined for weights that sum to zero).

        Args:
            size: Token grid (rows, columns).

        Returns:
            (rows * columns, ) in float32 or wider.
        """
        base = widen(self.w_c)
        if not is_traced() and tuple(size) == base.shape[2:]:
            return base.flatten()
        area = (base.shape[2] * base.shape[3]) / (size[0] * size[1])
        resized = area * F.interpolate(
            base, size=tuple(size), mode='bilinear', align_corners=False)
        resized = resized.flatten()
        return resized + (base.sum() - resized.sum()) / (size[0] * size[1])

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend within each group of tokens.

        Args:
            x: (G, N, d), tokens in row-major order of their grid.
            size: The grid (rows, columns); rows * columns = N.

        Returns:
            (G, N, d)
        """
        groups, num_tokens, embed_dims = x.shape
        heads, dims = self.num_heads, self.head_dims
        w_q, w_k, w_v = self.qkv.weight.view(3, heads * dims, embed_dims)

        # Tokens innermost: all that follows then runs over long rows.
        folded = self.norm_dim == 'feature'
        if folded:
            # w_f . k for all tokens as `heads` more rows of the projection
            w_kf = (self.w_f.view(-1, 1) * w_k).view(heads, dims, -1).sum(1)
            qk = torch.matmul(torch.cat((w_q, w_k, w_kf)), x.transpose(1, 2))
        else:
            qk = torch.matmul(torch.cat((w_q, w_k)), x.transpose(1, 2))

        with torch.autocast(x.device.type, enabled=False):
            qk = widen(qk)
            w_v, w_o, bias, temperature = map(
                widen,
                (w_v, self.proj.weight, self.proj.bias, self.temperature))
            w_c = self.context_weights(size)
            width = heads * dims
            vectors = qk[:, :2 * width].view(groups, 2, heads, dims,
                                             num_tokens)
            if folded:
                inv = vectors.square().sum(3).clamp_min(
                    self.eps**2).rsqrt()  # 1 / |q|, 1 / |k|
                inv_q, inv_k = inv.unbind(1)  # (G, heads, N)
                k_f = qk[:, 2 * width:] * inv_k
                scales = torch.stack((k_f * inv_q / num_tokens, inv_k * w_c),
                                     1)
            else:
                vectors = vectors * vectors.square().mean(
                    -1, keepdim=True).clamp_min(self.eps**2).rsqrt()
                k_f = (vectors[:, 1] * widen(self.w_f).unsqueeze(-1)).sum(2)
                scales = torch.stack((k_f / num_tokens, w_c.expand_as(k_f)),
                                     1)
            u, k_c = torch.matmul(vectors,
                                  scales.unsqueeze(-1)).squeeze(-1).unbind(1)
            # v u = X (W_v u);  k_c W_o = one row of length d for each head
            w_vu = torch.einsum('ghi,hic->ghc', u,
                                w_v.view(heads, dims, embed_dims))
            k_co = temperature * torch.einsum(
                'ghi,chi->ghc', k_c, w_o.view(embed_dims, heads, dims))
            v_u = torch.matmul(widen(x), w_vu.transpose(1, 2))  # (G, N, heads)
            out = torch.matmul(v_u, k_co) + bias
        return out.to(x.dtype)

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """MACs of the structure in the paper, whatever :meth:`forward` runs.

        q, k, v and output projections, and Eq. 3-5 as they stand: the two
        scores, the (D, D) map from rank-one factors, and its product with v.
        """
        groups, num_tokens, embed_dims = inputs[0].shape
        width, dims = self.num_heads * self.head_dims, self.head_dims
        tokens = groups * num_tokens
        return dict(
            linear=tokens * 4 * width * embed_dims,
            attention=tokens * width * (3 + dims) + groups * width * dims)
