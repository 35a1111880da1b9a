# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Attention weights of the backbones, and pictures of them.

The backbones never build most of their weights. Here they are computed from
the parameters of a module and the inputs that it had, as the equations stand
in the papers: slow, and apart from the code that runs.
"""
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mmxvit.engine.command import UserError
from mmxvit.models.attentions import (
    ConvolutionalSelfAttention,
    CrossFeatureAttention,
    FastWindowAttention,
    ForwardCrossAttention,
    RecursiveAtrousSelfAttention,
)
from mmxvit.models.backbones.fcaformer import FcaBlock, WindowFcaBlock

from .complexity import _eval_mode

FAMILIES = ('XFormer', 'LVT', 'FcaFormer', 'CabViT', 'LOLViT')
CLASS_TOKEN = 'cls'
_COLUMNS = 6  # panels side by side


def cross_feature_weights(
        attn: CrossFeatureAttention, x: Tensor,
        size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    r"""XFormer, Eq. 2-5: ``out = (factors * k_c) W_o + b_o`` for each token.

    Args:
        attn: The module.
        x: (G, N, d), its input.
        size: Token grid (rows, columns).

    Returns:
        ``w_c`` (N, ) on that grid; the factors :math:`\lambda\, v \cdot u`
        (G, heads, N); ``k_c`` (G, heads, D).
    """
    groups, num_tokens, _ = x.shape
    q, k, v = attn.qkv(x).view(groups, num_tokens, 3, attn.num_heads,
                               attn.head_dims).permute(2, 0, 3, 1, 4)
    if attn.norm_dim == 'feature':
        q, k = (F.normalize(t, dim=3, eps=attn.eps) for t in (q, k))
    else:  # to a root mean square of 1
        root = num_tokens**0.5
        q, k = (
            root * F.normalize(t, dim=2, eps=attn.eps * root) for t in (q, k))
    w_c = attn.context_weights(size)
    k_c = torch.einsum('n,ghnd->ghd', w_c, k)
    k_f = torch.einsum('ghnd,hd->ghn', k, attn.w_f)
    u = torch.einsum('ghnd,ghn->ghd', q, k_f) / num_tokens
    factors = attn.temperature * torch.einsum('ghnd,ghd->ghn', v, u)
    return w_c, factors, k_c


def convolutional_self_weights(attn: ConvolutionalSelfAttention,
                               x: Tensor) -> tuple[Tensor, Tensor]:
    """LVT's CSA, Eq. 3 and 4; windows of 3x3 at stride 2, padding 1.

    Args:
        attn: The module.
        x: (B, d, H, W), its input.

    Returns:
        alpha (B, rows, columns, heads, 9, 9) of the windows, the last two i
        and j; the values ``W_j x_j`` (B, rows, columns, heads, 9, D).
    """
    heads, dims = attn.num_heads, attn.head_dims
    p = F.avg_pool2d(x, 2, ceil_mode=True)
    logits = attn.weights(p).unflatten(1, (9, heads, 9)) * dims**-0.5
    alpha = logits.softmax(1).permute(0, 4, 5, 2, 3, 1)
    rows, cols = p.shape[2:]
    places = F.unfold(x, 3, stride=2, padding=1).unflatten(1, (-1, 9))
    matrices = attn.values.weight.view(9, heads, dims, -1)  # W_j
    values = torch.einsum('jhdc,bcjn->bnhjd', matrices, places)
    return alpha, values.unflatten(1, (rows, cols))


def recursive_atrous_weights(attn: RecursiveAtrousSelfAttention,
                             x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """LVT's RASA, Eq. 5-8.

    Args:
        attn: The module.
        x: (B, d, H, W), its input.

    Returns:
        For each pass softmax(q k^T) (B, heads, H W, n), n the places of the
        reduced map, and v (B, heads, n, D).
    """
    def tokens(t: Tensor) -> Tensor:
        """(B, d, H, W) -> (B, heads, H W, D)"""
        return t.flatten(2).unflatten(1,
                                      (attn.num_heads, -1)).transpose(2, 3)

    passes = []
    for _ in range(attn.recursions):
        q = sum(
            F.silu(
                F.conv2d(
                    attn.q(x),
                    attn.q_conv.weight,
                    padding=dilation,
                    dilation=dilation,
                    groups=x.shape[1])) for dilation in attn.dilations)
        reduced = x
        if attn.reduction > 1:
            reduced = attn.norm(attn.reduce(x).permute(0, 2, 3, 1))
            reduced = reduced.permute(0, 3, 1, 2)
        k, v = map(tokens, attn.kv(reduced).chunk(2, 1))
        logits = tokens(q) @ k.transpose(2, 3) * k.shape[3]**-0.5
        weights = logits.softmax(3)
        out = attn.proj((weights @ v).transpose(2, 3).reshape(x.shape))
        x = F.silu(out) + x  # what the next pass sees
        passes.append((weights, v))
    return passes


def forward_cross_weights(
        attn: ForwardCrossAttention,
        x: Tensor,
        size: tuple[int, int],
        cross: Tensor | None = None,
        cross_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """FcaFormer and CabViT, Eq. 1-4.

    Args:
        attn: The module.
        x: (G, n, d), its input; class tokens may stand before the grid.
        size: Grid (rows, columns) of the regular tokens.
        cross: (G, m, d) or None.
        cross_size: Grid of one group of them; None: that of the constructor.

    Returns:
        softmax(Q K^T + B) (G, heads, n, n + m), cross tokens last; V
        (G, heads, n + m, D).
    """
    num_tokens = x.shape[1]
    num_class = num_tokens - size[0] * size[1]
    bias = F.pad(attn.position_table(size), (num_class, 0, num_class, 0))
    sources = x
    if cross is not None:
        cross_size = cross_size or attn.cross_size
        scale = attn.per_cross_token(attn.scale.unsqueeze(0),
                                     cross_size).view(-1, 1)
        if attn.cross_scale == 'before_norm':
            cross = attn.cross_norm(scale * cross)
        else:
            cross = scale * attn.cross_norm(cross)
        sources = torch.cat((x, cross), 1)
        depth_bias = attn.per_cross_token(attn.depth_bias, cross_size)
        bias = torch.cat(
            (bias, depth_bias.unsqueeze(1).expand(-1, num_tokens, -1)), 2)
    q, k, v = attn.qkv(sources).unflatten(
        2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = q[:, :, :num_tokens] @ k.transpose(2, 3) * q.shape[3]**-0.5
    return (logits + bias).softmax(3), v


def fast_window_weights(
        attn: FastWindowAttention,
        x: Tensor,
        merged: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """LOLViT, Eq. 2-5.

    Args:
        attn: The module.
        x: (B, H, W, d), its input.
        merged: (B, n, d) of an earlier layer, or None.

    Returns:
        DReLU(Q K^T) (B, heads, H W, n), whose rows need not sum to 1; V
        (B, heads, n, D).
    """
    heads, dims = attn.num_heads, attn.head_dims

    def split_conv(conv: nn.Conv2d, t: Tensor) -> tuple[Tensor, Tensor]:
        """1x1 convolution (..., d) -> (..., 2 d), split in two."""
        weight = conv.weight.flatten(1)
        if attn.projection == 'head':
            t = torch.einsum('oh,...hd->...od', weight,
                             t.unflatten(-1, (heads, dims)))
            t = (t + conv.bias.unsqueeze(1)).flatten(-2)
        else:
            t = F.linear(t, weight, conv.bias)
        return t.chunk(2, -1)

    def per_head(t: Tensor) -> Tensor:
        """(B, n, d) -> (B, heads, n, D)"""
        return t.unflatten(2, (heads, dims)).transpose(1, 2)

    query, token = split_conv(attn.query_token, x)
    if merged is None:
        merged = torch.stack([
            columns.mean((1, 2)) for columns in token.split(attn.window, 2)
        ], 1)
    q = per_head(query.flatten(1, 2))
    k, v = map(per_head, split_conv(attn.key_value, attn.norm(merged)))
    logits = q @ k.transpose(2, 3) * dims**-0.5
    return logits.relu() / ((attn.length_scale + attn.eps) * k.shape[2]), v


@dataclass
class AttentionRecord:
    """An attention of a backbone and what it was given for one image.

    Attributes:
        name: Of the module, in the backbone.
        attn: The module.
        inputs: Arguments of its forward by name.
        stride: Pixels of the image for one place of its map.
        map_size: The map (rows, columns).
        stage: The blocks of its stage, by their names in the backbone.
    """
    name: str
    attn: nn.Module
    inputs: dict[str, Any]
    stride: int
    map_size: tuple[int, int]
    stage: dict[str, nn.Module]

    def place(self, pixel: tuple[float, float]) -> tuple[int, int]:
        """(row, column) in the map of a pixel (x, y)."""
        return tuple(
            min(int(p // self.stride), n - 1)
            for p, n in zip(pixel[::-1], self.map_size, strict=True))


@dataclass
class Panel:
    """A map of weights.

    Attributes:
        title: What it is.
        values: (rows, columns), drawn as equal cells.
        extent: (left, right, bottom, top) in pixels of the image that it is
            laid over; None: a matrix, drawn without the image.
        view: What is shown of the image, like ``extent``; None: all of it,
            and ``extent``.
        axes: Of a matrix: what its columns and its rows are.
        box: (left, top, width, height) in cells of the matrix, marked red.
    """
    title: str
    values: Tensor
    extent: tuple[float, float, float, float] | None = None
    view: tuple[float, float, float, float] | None = None
    axes: tuple[str, str] = ('', '')
    box: tuple[int, int, int, int] | None = None


def record_attentions(backbone: nn.Module,
                      images: Tensor,
                      layers: Sequence[str] = ()) -> list[AttentionRecord]:
    """Run a backbone once, in eval mode, and keep what its attentions get.

    Args:
        backbone: One of the package.
        images: (1, C, H, W), preprocessed.
        layers: Only attentions whose names have one of these in them.

    Returns:
        In the order of the network.

    Raises:
        UserError: The backbone has no such attention, or none of that name.
    """
    attentions = {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, tuple(_PANELS))
    }
    if not attentions:
        raise UserError(
            f'{type(backbone).__name__} has no attention that can be drawn; '
            f'expected a backbone of mmxvit ({", ".join(FAMILIES)}) with '
            'out_indices that reach its attention stages')
    chosen = {
        name: module
        for name, module in attentions.items()
        if not layers or any(part in name for part in layers)
    }
    if not chosen:
        raise UserError(f'no layer has {" or ".join(layers)} in its name; '
                        f'choose from {", ".join(attentions)}')
    inputs = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: inputs.update({
                name: inspect.signature(module.forward).bind(
                    *args, **kwargs).arguments
            }),
            with_kwargs=True) for name, module in chosen.items()
    ]
    try:
        with torch.no_grad(), _eval_mode(backbone):
            backbone(images)
    finally:
        for handle in handles:
            handle.remove()

    records = []
    for name, module in chosen.items():
        stage = int(name.split('.')[1])  # stages.1.2. ...
        stride = backbone.strides[stage]
        records.append(
            AttentionRecord(
                name, module, inputs[name], stride,
                tuple(-(-n // stride) for n in images.shape[2:]), {
                    f'stages.{stage}.{key}': block
                    for key, block in backbone.stages[stage].named_children()
                }))
    return records


def attention_panels(
        record: AttentionRecord,
        pixel: tuple[float, float] | None) -> list[list[Panel]]:
    """What is to be drawn of an attention, in rows.

    Args:
        record: From :func:`record_attentions`.
        pixel: Place (x, y) whose row of weights is wanted, in pixels of the
            image; None: the class token's.

    Raises:
        UserError: There is no class token.
    """
    panels = next(panels for kind, panels in _PANELS.items()
                  if isinstance(record.attn, kind))
    rows, cols = record.inputs.get('size', record.map_size)
    if pixel is None and record.inputs['x'].shape[1] != 1 + rows * cols:
        raise UserError(
            f"the query '{CLASS_TOKEN}' needs a class token, which only the "
            'plain models FcaFormer l0 and CabViT p-l0 have; give a place')
    with torch.no_grad():
        return panels(record, pixel)


def _cross_feature_panels(record: AttentionRecord,
                          pixel: tuple[float, float]) -> list[list[Panel]]:
    """Neither depends on a query."""
    rows, cols = record.inputs['size']
    w_c, factors, _ = cross_feature_weights(record.attn, **record.inputs)
    # (place in the 2x2 patch, N) -> the grid that XFormerBlock unfolded
    factors = factors.square().mean(1).sqrt().view(
        2, 2, rows, cols).permute(2, 0, 3, 1).reshape(2 * rows, 2 * cols)
    extent = _extent(record)
    return [[
        Panel('$w_c$', w_c.view(rows, cols), extent),
        Panel(r'$|\lambda\, v \cdot u|$, rms of heads', factors, extent)
    ]]


def _convolutional_self_panels(
        record: AttentionRecord,
        pixel: tuple[float, float]) -> list[list[Panel]]:
    """The window whose centre, at even places, is nearest."""
    alpha, _ = convolutional_self_weights(record.attn, **record.inputs)
    row, col = (
        min(int(p / (2 * record.stride) + 0.25), n - 1)
        for p, n in zip(pixel[::-1], alpha.shape[1:3], strict=True))
    alpha = alpha[0, row, col]
    window = Panel(
        'place j, mean over heads and i',
        alpha.mean((0, 1)).view(3, 3),
        _extent(record, (2 * row - 1, 2 * col - 1), (3, 3)),
        _extent(record, (2 * row - 7, 2 * col - 7), (15, 15)))
    return [[
        window, *(Panel(
            f'head {head + 1}', weights, axes=('from place j', 'place i'))
                  for head, weights in enumerate(alpha))
    ]]


def _recursive_atrous_panels(
        record: AttentionRecord,
        pixel: tuple[float, float]) -> list[list[Panel]]:
    (row, col), (height, width) = record.place(pixel), record.map_size
    reduction = record.attn.reduction
    rows, cols = height // reduction, width // reduction
    extent = _extent(record, size=(rows * reduction, cols * reduction))
    return [
        _per_head(f'pass {number + 1}',
                  weights[0, :, row * width + col].unflatten(1, (rows, cols)),
                  extent) for number, (weights, _) in enumerate(
                      recursive_atrous_weights(record.attn, **record.inputs))
    ]


def _forward_cross_panels(
        record: AttentionRecord,
        pixel: tuple[float, float] | None) -> list[list[Panel]]:
    """Regular and cross tokens apart; the scores as in the paper's Fig. 5."""
    attn, inputs = record.attn, dict(record.inputs)
    rows, cols = inputs['size']
    height, width = record.map_size
    num_tokens = inputs['x'].shape[1]
    num_class = num_tokens - rows * cols
    blocks = {
        name: block
        for name, block in record.stage.items() if isinstance(block, FcaBlock)
    }
    earlier = list(blocks)[:attn.num_groups]
    own = list(blocks.values())[attn.num_groups]

    def padding(block: FcaBlock) -> tuple[int, int]:
        """Rows above and columns to the left of the map in its windows."""
        if not isinstance(block, WindowFcaBlock):
            return 0, 0
        return block.padding(height, rows)[0], block.padding(width, cols)[0]

    if pixel is None:
        window, token = (0, 0), 0
    else:
        (row, col), (top, left) = record.place(pixel), padding(own)
        window = (row + top) // rows, (col + left) // cols
        token = num_class + (row + top) % rows * cols + (col + left) % cols
    index = window[0] * -(-width // cols) + window[1]
    for key in ('x', 'cross'):
        if inputs.get(key) is not None:
            inputs[key] = inputs[key][index:index + 1]
    weights, _ = forward_cross_weights(attn, **inputs)
    matrix = weights[0].mean(0)

    def extent(block: FcaBlock) -> tuple[float, float, float, float]:
        """Of its window; that of an earlier block may lie elsewhere."""
        top, left = padding(block)
        return _extent(record,
                       (window[0] * rows - top, window[1] * cols - left),
                       (rows, cols))

    query = matrix[token]
    regular = query[num_class:num_tokens]
    title = f'regular tokens: {regular.sum():.1%}'
    if num_class:
        title += f'\nclass token: {query[:num_class].sum():.1%}'
    num_cross = matrix.shape[1] - num_tokens
    maps = [Panel(title, regular.view(rows, cols), extent(own))]
    for name, group in zip(
            earlier, query[num_tokens:].chunk(len(earlier) or 1),
            strict=False):
        # merged at stride 4; the last cells may be cut off
        grid = group.view(inputs['cross_size']).repeat_interleave(
            4, 0).repeat_interleave(4, 1)[:rows, :cols]
        maps.append(
            Panel(f'cross tokens of\n{name}: {group.sum():.1%}', grid,
                  extent(blocks[name])))
    scores = Panel(
        'scores, cross tokens in red' if num_cross else 'scores',
        matrix,
        axes=('keys', 'queries'),
        box=(num_tokens, 0, num_cross, num_tokens) if num_cross else None)
    return [[*maps, scores]]


def _fast_window_panels(record: AttentionRecord,
                        pixel: tuple[float, float]) -> list[list[Panel]]:
    """Each key stands for some columns over the whole height."""
    (row, col), (_, width) = record.place(pixel), record.map_size
    weights, _ = fast_window_weights(record.attn, **record.inputs)
    columns = weights[0, :, row * width + col].repeat_interleave(
        record.attn.window, 1)[:, :width]
    sums = weights[0, :, row * width + col].sum(1)
    panels = _per_head('DReLU', columns.unsqueeze(1), _extent(record))
    for panel, total in zip(panels, (sums.mean(), *sums), strict=True):
        panel.title += f'\nsum {total:.3f}'
    return [panels]


_PANELS = {
    CrossFeatureAttention: _cross_feature_panels,
    ConvolutionalSelfAttention: _convolutional_self_panels,
    RecursiveAtrousSelfAttention: _recursive_atrous_panels,
    ForwardCrossAttention: _forward_cross_panels,
    FastWindowAttention: _fast_window_panels,
}


def _extent(
    record: AttentionRecord,
    first: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None
) -> tuple[float, float, float, float]:
    """Pixels of a part of the map, by default all of it.

    Args:
        first: Its first place (row, column).
        size: Its rows and columns.
    """
    (top, left), (rows, cols) = first, size or record.map_size
    edges = (left, left + cols, top + rows, top)
    return tuple(record.stride * edge for edge in edges)


def _per_head(title: str, values: Tensor,
              extent: tuple[float, float, float, float]) -> list[Panel]:
    """(heads, rows, columns): the mean over heads, then each of them."""
    return [
        Panel(f'{title}, mean', values.mean(0), extent),
        *(Panel(f'{title}, head {head + 1}', grid, extent)
          for head, grid in enumerate(values))
    ]


def draw_attention(record: AttentionRecord, image: np.ndarray,
                   query: tuple[float, float] | str) -> Figure:
    """Picture of an attention.

    Args:
        record: From :func:`record_attentions`.
        image: (H, W, 3), uint8, RGB: what it was recorded for, before
            normalisation.
        query: Place (x, y) in [0, 1], or ``'cls'`` for the class token.

    Raises:
        UserError: ``query`` is ``'cls'`` and there is no class token.
    """
    pixel = None
    if query != CLASS_TOKEN:
        height, width = image.shape[:2]
        pixel = query[0] * width, query[1] * height
    rows = [
        row[i:i + _COLUMNS] for row in attention_panels(record, pixel)
        for i in range(0, len(row), _COLUMNS)
    ]
    columns = max(map(len, rows))
    aspect = min(max(image.shape[0] / image.shape[1], 0.5), 2)
    figure = Figure(
        figsize=(2.1 * columns, (2 * aspect + 0.6) * len(rows) + 0.3),
        layout='constrained')
    figure.suptitle(f'{record.name} ({type(record.attn).__name__})',
                    fontsize=9)
    grey = image @ np.array([0.299, 0.587, 0.114])
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes, panel in zip(line, row, strict=False):
            _draw_panel(axes, panel, grey)
            if (pixel and panel.extent and not isinstance(
                    record.attn, CrossFeatureAttention)):
                axes.plot(*pixel, '+', color='red', markersize=9)
        for axes in line[len(row):]:
            axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, panel: Panel, grey: np.ndarray) -> None:
    values = panel.values.detach().float().cpu().numpy()
    low, high = values.min(), values.max()
    colours = dict(
        interpolation='nearest',
        vmin=low,
        # rounding errors are not to look like a pattern
        vmax=max(high, low + 1e-3 * abs(low)))
    if panel.extent is None:
        axes.imshow(values, **colours)
        axes.set_xlabel(panel.axes[0], fontsize=7)
        axes.set_ylabel(panel.axes[1], fontsize=7)
    else:
        height, width = grey.shape
        axes.imshow(
            grey, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
        axes.imshow(values, alpha=0.6, extent=panel.extent, **colours)
        left, right, bottom, top = panel.view or (
            min(0, panel.extent[0]), max(width, panel.extent[1]),
            max(height, panel.extent[2]), min(0, panel.extent[3]))
        axes.set(xlim=(left, right), ylim=(bottom, top))
    if panel.box:
        left, top, width, height = panel.box
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), width, height, fill=False,
                      edgecolor='red', clip_on=False))
    axes.set(xticks=[], yticks=[])
    axes.set_title(f'{panel.title}\n{low:.3g} to {high:.3g}', fontsize=7)
