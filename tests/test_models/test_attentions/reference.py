# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Slow, literal versions of the papers' attentions: torch and math, loops."""
import math

import torch


def cross_feature_attention(x, w_q, w_k, w_v, w_c, w_f, temperature, w_o, b_o,
                            heads, norm_dim):
    """XFormer, Eq. 2-5, one group of tokens.

    Builds q, k, v, the (D, D) map and everything between, token by token.

    Args:
        x: (N, d) tokens. w_q, w_k, w_v: (heads * D, d). w_c: (N, ).
        w_f: (heads, D). temperature: lambda. w_o: (d, heads * D). b_o: (d, ).
    """
    n, _ = x.shape
    dims = w_q.shape[0] // heads
    out = []
    for h in range(heads):
        rows = slice(h * dims, (h + 1) * dims)
        q = [[torch.dot(w, x[t]) for w in w_q[rows]] for t in range(n)]
        k = [[torch.dot(w, x[t]) for w in w_k[rows]] for t in range(n)]
        v = [[torch.dot(w, x[t]) for w in w_v[rows]] for t in range(n)]
        q, k = normalise(q, norm_dim), normalise(k, norm_dim)
        # Eq. 3: k_c = W_c k^, along the tokens
        k_c = [sum(w_c[t] * k[t][j] for t in range(n)) for j in range(dims)]
        # Eq. 4: k_f = (W_f k^^T)^T, along the features
        k_f = [
            sum(w_f[h, j] * k[t][j] for j in range(dims)) for t in range(n)
        ]
        # Eq. 5: V lambda q^^T k_f k_c, with the mean over tokens
        feature_map = [[
            sum(q[t][i] * k_f[t] for t in range(n)) / n * k_c[j]
            for j in range(dims)
        ] for i in range(dims)]
        out.append(
            torch.stack([
                torch.stack([
                    temperature * sum(v[t][i] * feature_map[i][j]
                                      for i in range(dims))
                    for j in range(dims)
                ]) for t in range(n)
            ]))
    return torch.cat(out, 1) @ w_o.T + b_o


def normalise(rows, norm_dim):
    """Eq. 2. 'token' divides by the root mean square over the tokens."""
    n, dims = len(rows), len(rows[0])
    if norm_dim == 'feature':
        norms = [[torch.sqrt(sum(a * a for a in row))] * dims for row in rows]
    else:
        columns = [
            torch.sqrt(sum(rows[t][j]**2 for t in range(n))) / math.sqrt(n)
            for j in range(dims)
        ]
        norms = [columns] * n
    return [[rows[t][j] / norms[t][j] for j in range(dims)]
            for t in range(n)]
