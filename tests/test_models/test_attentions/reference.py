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


def forward_cross_attention(x, cross, alpha, norm, w_q, w_k, w_v, b_q, b_k,
                            b_v, position_bias, depth_bias, size, w_p, b_p,
                            heads, num_class=0, scale_first=True):
    """FcaFormer, Eq. 1-4, one group of tokens.

    Args:
        x: (c + n, d), c class tokens before the n of the grid. cross: (m, d).
        alpha: (m, ). norm: LayerNorm of the cross tokens as (weight, bias).
        w_*: (d, d), b_*: (d, ). position_bias: (heads, n) by (|dy|, |dx|).
        depth_bias: (heads, m). scale_first: alpha before or after the norm.
    """
    total, dims = x.shape
    rows, cols = size
    head_dims = dims // heads
    sources = list(x)
    for j in range(len(cross)):
        token = alpha[j] * cross[j] if scale_first else cross[j]
        mean = sum(token) / dims
        variance = sum((token - mean)**2) / dims
        token = (token - mean) / torch.sqrt(variance + 1e-5)
        token = token * norm[0] + norm[1]
        sources.append(token if scale_first else alpha[j] * token)
    keys = [w_k @ t + b_k for t in sources]
    values = [w_v @ t + b_v for t in sources]
    out = []
    for i in range(total):
        query = w_q @ x[i] + b_q
        mixed = []
        for h in range(heads):
            part = slice(h * head_dims, (h + 1) * head_dims)
            logits = []
            for j in range(len(sources)):
                logit = torch.dot(query[part],
                                  keys[j][part]) / math.sqrt(head_dims)
                if j >= total:
                    logit = logit + depth_bias[h, j - total]
                elif i >= num_class and j >= num_class:
                    y1, x1 = divmod(i - num_class, cols)
                    y2, x2 = divmod(j - num_class, cols)
                    logit = logit + position_bias[
                        h, abs(y1 - y2) * cols + abs(x1 - x2)]
                logits.append(logit)
            weights = [torch.exp(a) for a in logits]
            norm_sum = sum(weights)
            mixed.append(
                sum(w / norm_sum * v[part]
                    for w, v in zip(weights, values, strict=True)))
        out.append(w_p @ torch.cat(mixed) + b_p)
    return torch.stack(out)


def token_merge(x, weight):
    """FcaFormer, Fig. 2, merge branch: depthwise 7x7, stride 4.

    Args:
        x: (d, H, W). weight: (d, 7, 7).

    Returns:
        (m, d), row-major.
    """
    dims, height, width = x.shape
    tokens = []
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            token = []
            for c in range(dims):
                total = 0
                for dy in range(-3, 4):
                    for dx in range(-3, 4):
                        row, col = top + dy, left + dx
                        if 0 <= row < height and 0 <= col < width:
                            total = total + weight[c, dy + 3,
                                                   dx + 3] * x[c, row, col]
                token.append(total)
            tokens.append(torch.stack(token))
    return torch.stack(tokens)


def fast_window_attention(x, query_token, norm, key_value, dp, heads, patch,
                          fold, projection, eps, cache=None):
    """LOLViT, Eq. 2-5, one image.

    Args:
        x: (H, W, d) tokens on their grid. query_token, key_value: weight
            (2w, w) and bias (2w, ) of 1x1 convolutions over w = heads or d
            channels. norm: gain and offset. dp: DP of Eq. 3. cache: (n, d),
            or None for FAWA(Token).

    Returns:
        (H, W, d) and the merged tokens (n, d).
    """
    height, width, embed_dims = x.shape
    dims = embed_dims // heads
    tokens = x.reshape(-1, embed_dims)
    pairs = [split_conv(t, *query_token, heads, projection) for t in tokens]
    if cache is None:
        token = [pair[1] for pair in pairs]
        merged = full_scene_window_aggregation(token, height, width, patch,
                                               fold)
    else:
        merged = cache
    n = len(merged)
    keys, values = [], []
    for w in merged:
        mean = sum(w) / embed_dims
        variance = sum((w - mean)**2) / embed_dims
        w = (w - mean) / torch.sqrt(variance + 1e-5) * norm[0] + norm[1]
        k, v = split_conv(w, *key_value, heads, projection)
        keys.append(k)
        values.append(v)
    out = []
    for query, _ in pairs:
        mixed = []
        for h in range(heads):
            part = slice(h * dims, (h + 1) * dims)
            row = 0
            for k, v in zip(keys, values, strict=True):
                score = torch.dot(query[part], k[part]) / math.sqrt(dims)
                if score > 0:  # Eq. 3, L is the length of the sequence
                    row = row + score / ((dp + eps) * n) * v[part]
            mixed.append(row + torch.zeros_like(query[part]))
        out.append(torch.cat(mixed))
    return torch.stack(out).reshape(x.shape), torch.stack(list(merged))


def split_conv(token, weight, bias, heads, projection):
    """1x1 convolution of one token to twice its width, split in two."""
    if projection == 'channel':
        return (weight @ token + bias).chunk(2)
    parts = token.chunk(heads)
    rows = [
        sum(weight[i, g] * parts[g] for g in range(heads)) + bias[i]
        for i in range(2 * heads)
    ]
    return torch.cat(rows[:heads]), torch.cat(rows[heads:])


def full_scene_window_aggregation(tokens, height, width, patch, fold):
    """FAWA, Eq. 4: sums over strips t and neighbours j; then the mean."""
    stride = math.ceil(width / patch)  # F, patches in a strip
    strips = math.ceil(height / patch)
    patches = [0] * (strips * stride)
    counts = [0] * (strips * stride)
    for index, token in enumerate(tokens):
        row, column = divmod(index, width)
        place = row // patch * stride + column // patch
        patches[place] = patches[place] + token
        counts[place] += 1
    merged = []
    for i in range(math.ceil(stride / fold)):
        total, count = 0, 0
        for j in range(i * fold, min((i + 1) * fold, stride)):
            for t in range(strips):
                total = total + patches[t * stride + j]
                count += counts[t * stride + j]
        merged.append(total / count)
    return merged


def convolutional_self_attention(x, a, a_bias, w, w_o, b_o):
    """LVT, Eq. 3 and 4, window by window, place by place.

    Args:
        x: (H, W, d), one map. a: (heads, 9, 9, d), a_bias: (heads, 9, 9):
        what predicts the weights of Eq. 3, from i to j. w: (9, d, d), W_j of
        Eq. 4. w_o: (d, d). b_o: (d, ).
    """
    height, width, embed_dims = x.shape
    heads = len(a)
    dims = embed_dims // heads
    out = torch.zeros_like(x)
    for row in range(0, height, 2):
        for column in range(0, width, 2):
            stride = [
                x[i, j] for i in (row, row + 1) for j in (column, column + 1)
                if i < height and j < width
            ]
            mean = sum(stride) / len(stride)
            places = [(row + i, column + j) for i in (-1, 0, 1)
                      for j in (-1, 0, 1)]
            inside = [0 <= i < height and 0 <= j < width for i, j in places]
            # W_j x_j; zero outside the map
            values = [
                w[j] @ x[places[j]] if inside[j] else torch.zeros_like(mean)
                for j in range(9)
            ]
            for h in range(heads):
                part = slice(h * dims, (h + 1) * dims)
                for i in range(9):
                    if not inside[i]:
                        continue
                    exp = [
                        torch.exp((torch.dot(a[h, i, j], mean) +
                                   a_bias[h, i, j]) / math.sqrt(dims))
                        for j in range(9)
                    ]
                    total = sum(exp)
                    y_i = sum(
                        exp[j] / total * values[j][part] for j in range(9))
                    where = torch.zeros_like(out)
                    where[places[i]][part] = 1
                    out = out + where * torch.cat([y_i] * heads)
    return out @ w_o.T + b_o


def recursive_atrous_self_attention(x, recursions, **weights):
    """LVT, Eq. 8 with W_F = U_F = 1, and SiLU behind every pass."""
    if recursions == 1:
        return atrous_self_attention(x, **weights)
    state = x  # the hidden state before the first pass is 0
    for step in range(recursions):
        passed = silu(atrous_self_attention(state, **weights))
        if step < recursions - 1:
            state = passed + state
    return passed


def atrous_self_attention(x, w_q, kernel, reduce, norm, w_k, w_v, w_o, b_o,
                          heads):
    """LVT, Eq. 5 and 6, and the attention that takes the queries.

    Args:
        x: (H, W, d). w_q, w_k, w_v, w_o: (d, d). b_o: (d, ).
        kernel: (d, 3, 3), one for all dilations.
        reduce: Weight (d, d, r, r) and bias (d, ) in front of keys and
            values, or None. norm: Weight and bias (d, ) behind it.
    """
    height, width, embed_dims = x.shape
    dims = embed_dims // heads
    q_hat = [[w_q @ x[i, j] for j in range(width)] for i in range(height)]
    queries = []
    for i in range(height):
        for j in range(width):
            query = 0
            for r in (1, 3, 5):
                scale = torch.zeros_like(x[0, 0])
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        y, z = i + r * di, j + r * dj
                        if 0 <= y < height and 0 <= z < width:
                            scale = scale + kernel[:, di + 1, dj +
                                                   1] * q_hat[y][z]
                query = query + silu(scale)
            queries.append(query)
    if reduce is None:
        tokens = [x[i, j] for i in range(height) for j in range(width)]
    else:
        weight, bias = reduce
        r = weight.shape[-1]
        tokens = []
        for i in range(height // r):
            for j in range(width // r):
                token = bias + sum(
                    weight[:, :, di, dj] @ x[i * r + di, j * r + dj]
                    for di in range(r) for dj in range(r))
                mean = sum(token) / embed_dims
                variance = sum((token - mean)**2) / embed_dims
                token = (token - mean) / torch.sqrt(variance + 1e-5)
                tokens.append(token * norm[0] + norm[1])
    keys = [w_k @ token for token in tokens]
    values = [w_v @ token for token in tokens]
    out = []
    for query in queries:
        mixed = []
        for h in range(heads):
            part = slice(h * dims, (h + 1) * dims)
            exp = [
                torch.exp(torch.dot(query[part], k[part]) / math.sqrt(dims))
                for k in keys
            ]
            total = sum(exp)
            mixed.append(
                sum(e / total * v[part]
                    for e, v in zip(exp, values, strict=True)))
        out.append(w_o @ torch.cat(mixed) + b_o)
    return torch.stack(out).reshape(x.shape)


def silu(x):
    """LVT, Eq. 7."""
    return x / (1 + torch.exp(-x))
