# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.figure import Figure

from mmxvit.analysis import attention_maps
from mmxvit.analysis.attention_maps import (
    AttentionRecord,
    Panel,
    attention_panels,
    convolutional_self_weights,
    cross_feature_weights,
    draw_attention,
    fast_window_weights,
    forward_cross_weights,
    record_attentions,
    recursive_atrous_weights,
)
from mmxvit.engine.command import UserError
from mmxvit.models.attentions import (
    ConvolutionalSelfAttention,
    CrossFeatureAttention,
    FastWindowAttention,
    ForwardCrossAttention,
    RecursiveAtrousSelfAttention,
)
from mmxvit.models.backbones import LVT, CabViT, FcaFormer, LOLViT, XFormer
from mmxvit.models.backbones.fcaformer import WindowFcaBlock
from mmxvit.models.backbones.xformer import XFormerBlock

PLAIN = dict(
    embed_dims=(16, ), depths=(3, ), num_heads=(2, ), windows=(3, ),
    out_dims=None)
HYBRID = dict(
    embed_dims=(8, 8, 16, 16),
    depths=(1, 1, 3, 2),
    num_heads=(None, None, 2, 2),
    windows=(None, None, 6, 3),
    out_dims=None)
SMALL_LVT = dict(
    embed_dims=(16, 16, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(2, 2, 2, 2),
    mlp_ratios=(1, 1, 1, 1),
    sr_ratios=(None, 4, 2, 1))
BACKBONES = {
    'XFormer': lambda: XFormer(),
    'XFormer-token': lambda: XFormer(norm_dim='token', out_indices=(1, )),
    'LVT': lambda: LVT(SMALL_LVT),
    'LVT-3': lambda: LVT(SMALL_LVT, recursions=3, out_indices=(2, )),
    'FcaFormer': lambda: FcaFormer(HYBRID),
    'FcaFormer-after': lambda: FcaFormer(HYBRID, cross_scale='after_norm'),
    'CabViT': lambda: CabViT(PLAIN),
    'LOLViT': lambda: LOLViT('s', num_layers=(2, 1, 1), patch=(1, 2, 1)),
    'LOLViT-channel': lambda: LOLViT('s', projection='channel'),
}


def randomise(module):
    """No parameter of an attention at a value that hides it."""
    for child in module.modules():
        if isinstance(child, tuple(attention_maps._PANELS)):
            for parameter in child.parameters():
                nn.init.normal_(parameter, std=0.3)
            if isinstance(child, FastWindowAttention):
                nn.init.constant_(child.length_scale, 0.7)
    return module


def apply_weights(functions, attn, inputs):
    """Output of an attention from its weights and values."""
    if isinstance(attn, CrossFeatureAttention):
        _, factors, k_c = functions['cross_feature_weights'](attn, **inputs)
        out = torch.einsum('ghn,ghd->gnhd', factors, k_c).flatten(2)
        return attn.proj(out)
    x = inputs['x']
    if isinstance(attn, ConvolutionalSelfAttention):
        alpha, values = functions['convolutional_self_weights'](attn, x)
        places = (alpha @ values).permute(0, 3, 5, 4, 1, 2)
        out = F.fold(
            places.flatten(4).flatten(1, 3), x.shape[2:], 3, padding=1,
            stride=2)
        return attn.proj(out)
    if isinstance(attn, RecursiveAtrousSelfAttention):
        passes = functions['recursive_atrous_weights'](attn, x)
        assert len(passes) == attn.recursions
        weights, values = passes[-1]
        out = attn.proj((weights @ values).transpose(2, 3).reshape(x.shape))
        return F.silu(out)
    if isinstance(attn, ForwardCrossAttention):
        weights, values = functions['forward_cross_weights'](attn, **inputs)
        return attn.proj((weights @ values).transpose(1, 2).flatten(2))
    weights, values = functions['fast_window_weights'](attn, **inputs)
    return (weights @ values).transpose(1, 2).reshape(x.shape)


def outputs(backbone, images):
    """Records and what their modules returned."""
    outs = []
    handles = [
        module.register_forward_hook(
            lambda module, args, out: outs.append(
                out[0] if isinstance(out, tuple) else out))
        for module in backbone.modules()
        if isinstance(module, tuple(attention_maps._PANELS))
    ]
    records = record_attentions(backbone, images)
    for handle in handles:
        handle.remove()
    return list(zip(records, outs, strict=True))


def differ(actual, expected):
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_weights_give_the_output(name, dtype):
    backbone = randomise(BACKBONES[name]()).to(dtype)
    images = torch.randn(1, 3, 100, 140, dtype=dtype)
    for record, out in outputs(backbone, images):
        with torch.no_grad():
            found = apply_weights(vars(attention_maps), record.attn,
                                  record.inputs)
        assert found.dtype == dtype
        assert differ(found, out) < {4: 1e-5, 8: 1e-9}[dtype.itemsize]


# What might be written by mistake in the slow path.
MISTAKES = [
    ('XFormer', cross_feature_weights, 'q, k, v = attn', 'k, q, v = attn'),
    ('XFormer', cross_feature_weights, 'dim=3', 'dim=2'),
    ('XFormer-token', cross_feature_weights, 'root * F', 'F'),
    ('XFormer', cross_feature_weights, ' / num_tokens', ''),
    ('XFormer', cross_feature_weights, 'attn.temperature * ', ''),
    ('LVT', convolutional_self_weights, 'softmax(1)', 'softmax(3)'),
    ('LVT', convolutional_self_weights, '5, 2, 3, 1)', '5, 2, 1, 3)'),
    ('LVT', convolutional_self_weights, '* dims**-0.5', '* dims'),
    ('LVT', convolutional_self_weights, 'view(9, heads, dims, -1)',
     'view(9, dims, heads, -1).transpose(1, 2)'),
    ('LVT', recursive_atrous_weights, 'F.silu(out) + x', 'F.silu(out)'),
    ('LVT', recursive_atrous_weights, 'k, v = map', 'v, k = map'),
    ('LVT', recursive_atrous_weights, 'dilation=dilation,', ''),
    ('LVT', recursive_atrous_weights, ' * k.shape[3]**-0.5', ''),
    ('FcaFormer', forward_cross_weights, 'scale * cross', 'cross + scale'),
    ('FcaFormer-after', forward_cross_weights, 'scale * attn', 'attn'),
    ('FcaFormer', forward_cross_weights, '(logits + bias)', 'logits'),
    ('FcaFormer', forward_cross_weights, '(bias, depth_bias',
     '(bias, 0 * depth_bias'),
    ('CabViT', forward_cross_weights, '(num_class, 0, num_class, 0)',
     '(0, num_class, 0, num_class)'),
    ('LOLViT', fast_window_weights, 'if merged is None', 'if True'),
    ('LOLViT', fast_window_weights, 'attn.window', '1'),
    ('LOLViT', fast_window_weights, 'attn.norm(merged)', 'merged'),
    ('LOLViT', fast_window_weights, ' + attn.eps', ' + 1e-2'),
    ('LOLViT-channel', fast_window_weights, '+ conv.bias.unsqueeze(1)', ''),
    ('LOLViT', fast_window_weights, '+ conv.bias.unsqueeze(1)', ''),
]


@pytest.mark.parametrize('name, function, right, wrong', MISTAKES)
def test_mistakes_are_noticed(name, function, right, wrong):
    source = inspect.getsource(function)
    assert source.count(right) == 1
    namespace = vars(attention_maps).copy()
    exec(source.replace(right, wrong), namespace)
    backbone = randomise(BACKBONES[name]())
    found = 0
    for record, out in outputs(backbone, torch.randn(1, 3, 100, 140)):
        try:
            with torch.no_grad():
                found = max(found, differ(
                    apply_weights(namespace, record.attn, record.inputs),
                    out))
        except (RuntimeError, AssertionError):  # shapes do not even fit
            return
    # a mistake in the other branch must change nothing
    other = name == 'LOLViT-channel' and 'unsqueeze' in right
    assert found < 1e-5 if other else found > 1e-4


@pytest.mark.parametrize('name', ['LVT', 'FcaFormer', 'CabViT'])
def test_softmax_rows_sum_to_one(name):
    backbone = randomise(BACKBONES[name]())
    for record, _ in outputs(backbone, torch.randn(1, 3, 90, 70)):
        attn, inputs = record.attn, record.inputs
        if isinstance(attn, ConvolutionalSelfAttention):
            maps = [convolutional_self_weights(attn, **inputs)[0]]
        elif isinstance(attn, RecursiveAtrousSelfAttention):
            maps = [w for w, _ in recursive_atrous_weights(attn, **inputs)]
        else:
            maps = [forward_cross_weights(attn, **inputs)[0]]
        for weights in maps:
            assert weights.min() >= 0
            assert weights.std() > 0.001
            torch.testing.assert_close(
                weights.sum(-1), torch.ones(weights.shape[:-1]))


def attention_inputs(attn, run):
    """Arguments of ``attn`` when ``run()`` calls it first, by name."""
    seen = []
    handle = attn.register_forward_pre_hook(
        lambda module, args: seen.append(
            inspect.signature(module.forward).bind(*args).arguments))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


def changed_cell(before, after):
    """The one cell whose weight has changed relative to all others."""
    ratio = (after / before).double()
    away = (ratio / ratio.median() - 1).abs() > 1e-6
    return away.nonzero().tolist()


def window_stage():
    """Three blocks of one head with windows of 8 rows and 6 columns."""
    return [
        randomise(
            WindowFcaBlock(
                8, 1, (8, 6), index=index, is_last=False, mlp_ratio=1,
                drop_path=0., layer_scale=1., cross_scale='before_norm',
                norm_cfg=dict(type='BN'),
                act_cfg=dict(type='GELU'))).double().eval()
        for index in range(3)
    ]


def window_record(blocks, index, x, cross):
    block = blocks[index]
    inputs = attention_inputs(block.attn, lambda: block(x, cross))
    stage = {f'stages.2.{i}': b for i, b in enumerate(blocks)}
    return AttentionRecord('stages.2.1', block.attn, inputs, 1,
                           tuple(x.shape[2:]), stage)


SIZE = (13, 16)  # 2 x 3 windows, 3 rows and 2 columns of padding


@pytest.mark.parametrize('index', [0, 1, 2])
@pytest.mark.parametrize('query', [(0, 0), (4, 3), (5, 4), (7, 5), (8, 6),
                                   (12, 15), (2, 8)])
def test_regular_tokens_lie_where_the_map_says(index, query):
    """One token of the map changes: one cell of the picture does."""
    blocks = window_stage()
    x = torch.randn(1, 8, *SIZE, dtype=torch.double)
    cross = torch.randn(
        6, 4 * index, 8, dtype=torch.double) if index else None

    def panel(x):
        record = window_record(blocks, index, x, cross)
        return attention_panels(record, (query[1] + .5, query[0] + .5))[0][0]

    before = panel(x)
    left, right, bottom, top = before.extent
    assert (right - left, bottom - top) == (6, 8)
    assert top <= query[0] < bottom and left <= query[1] < right
    for place in range(index, SIZE[0] * SIZE[1], 3):
        row, col = divmod(place, SIZE[1])
        if (row, col) == query:
            continue
        other = x.clone()
        other[0, :, row, col] = torch.randn(8)
        after = panel(other)
        if top <= row < bottom and left <= col < right:
            assert changed_cell(before.values, after.values) == [
                [row - top, col - left]]
        else:
            assert torch.equal(before.values, after.values)


def test_cross_tokens_lie_in_the_window_they_come_from():
    """Windows of the same index, padded on the other side."""
    blocks = window_stage()
    x = torch.randn(1, 8, *SIZE, dtype=torch.double)
    cross = torch.randn(6, 8, 8, dtype=torch.double)
    places = {}  # extent of each window of the blocks 0 and 1
    for index in (0, 1):
        for window in range(6):
            row, col = (0, 12)[window // 3], (0, 8, 15)[window % 3]
            record = window_record(blocks, index, x, cross[:, :4]
                                   if index else None)
            panels, = attention_panels(record, (col + .5, row + .5))
            places[index, window] = panels[0].extent
    assert places[0, 0] == (-2, 4, 5, -3) and places[1, 0] == (0, 6, 8, 0)
    assert places[0, 5] == (10, 16, 13, 5)
    assert places[1, 5] == (12, 18, 16, 8)

    def panels(cross, query):
        record = window_record(blocks, 2, x, cross)
        found, = attention_panels(record, (query[1] + .5, query[0] + .5))
        return found

    for window, query in enumerate([(4, 3), (4, 4), (4, 10), (5, 3), (12, 9),
                                    (6, 15)]):
        before = panels(cross, query)
        regular, first, second, scores = before
        assert [p.extent for p in (regular, first, second)] == [
            places[0, window], places[0, window], places[1, window]]
        assert 'stages.2.0' in first.title and 'stages.2.1' in second.title
        # rows of the matrix: 48 queries; columns: 48 keys, 2 x (2 x 2)
        assert scores.values.shape == (48, 56)
        assert scores.box == (48, 0, 8, 48)
        shares = [float(re.search(r'([\d.]+)%', p.title)[1])
                  for p in (regular, first, second)]
        assert abs(sum(shares) - 100) < 0.2
        assert abs(shares[0] - 100 * regular.values.sum()) < 0.06
        for token in range(8):
            other = cross.clone()
            other[window, token] = torch.randn(8)
            other[window - 1] = torch.randn(8, 8)  # of another window
            after = panels(other, query)
            ratio = [a.values / b.values
                     for a, b in zip(after[:3], before[:3], strict=True)]
            assert ratio[0].max() - ratio[0].min() < 1e-9
            group = ratio[1 + token // 4]
            assert ratio[2 - token // 4].max() == pytest.approx(
                ratio[0].max().item())
            away = (group / ratio[0].max() - 1).abs() > 1e-6
            expected = torch.zeros(8, 6, dtype=torch.bool)
            y, x_ = token % 4 // 2 * 4, token % 2 * 4
            expected[y:y + 4, x_:x_ + 4] = True
            assert torch.equal(away, expected)


@pytest.mark.parametrize('pixel', [None, (70., 40.)])
def test_plain_model_shows_the_whole_map(pixel):
    backbone = randomise(CabViT(dict(PLAIN, num_heads=(1, )))).double()
    images = torch.randn(1, 3, 90, 140, dtype=torch.double)
    record = record_attentions(backbone, images)[2]
    before, first, second, scores = attention_panels(record, pixel)[0]
    assert before.extent == (0, 144, 96, 0)
    assert before.values.shape == (6, 9)
    assert first.values.shape == second.values.shape == (6, 9)
    assert scores.values.shape == (55, 55 + 2 * 2 * 3)
    assert scores.box == (55, 0, 12, 55)
    shares = [float(s) for p in (before, first, second)
              for s in re.findall(r'([\d.]+)%', p.title)]
    assert len(shares) == 4 and abs(sum(shares) - 100) < 0.25
    for token in (0, 20, 53):
        other = record.inputs['x'].clone()
        other[0, 1 + token] = torch.randn(16)
        record.inputs['x'], kept = other, record.inputs['x']
        after = attention_panels(record, pixel)[0][0]
        record.inputs['x'] = kept
        assert changed_cell(before.values, after.values) == [
            list(divmod(token, 9))]
    # the row of the query itself is another one for every query
    assert not torch.equal(
        before.values, attention_panels(record, (5., 5.))[0][0].values)


def test_heads_are_averaged():
    backbone = randomise(BACKBONES['CabViT']())
    record = record_attentions(backbone, torch.randn(1, 3, 48, 64))[0]
    scores = attention_panels(record, None)[0][-1].values
    weights, _ = forward_cross_weights(record.attn, **record.inputs)
    assert weights.shape == (1, 2, 13, 13)
    torch.testing.assert_close(scores, weights[0].sum(0) / 2)


def test_class_token_is_refused_where_there_is_none():
    for name in ('XFormer', 'LVT', 'FcaFormer', 'LOLViT'):
        records = record_attentions(BACKBONES[name](),
                                    torch.randn(1, 3, 64, 96))
        for record in records:
            with pytest.raises(UserError, match='needs a class token'):
                attention_panels(record, None)


@pytest.mark.parametrize('cell', [(0, 0), (3, 4), (5, 1), (2, 9)])
def test_xformer_factors_lie_where_their_tokens_do(cell):
    """Zeros but for one place: v is zero at all others."""
    block = XFormerBlock(
        8, 8, 1, 1, [0.], 'tokens', dict(type='BN'), dict(type='SiLU'),
        dict(qkv_dims=4, num_heads=2, base_size=(3, 5)))
    block.local = block.embed = nn.Identity()
    attn = block.layers[0].attn
    nn.init.normal_(attn.w_c)
    x = torch.zeros(1, 8, 6, 10)
    x[0, :, cell[0], cell[1]] = torch.randn(8)
    inputs = attention_inputs(attn, lambda: block(x))
    record = AttentionRecord('stages.1.1.layers.0.attn', attn, inputs, 8,
                             (6, 10), {})
    w_c, factors = attention_panels(record, (0., 0.))[0]
    assert factors.values.nonzero().tolist() == [list(cell)]
    assert factors.extent == w_c.extent == (0, 80, 48, 0)
    assert torch.equal(w_c.values, attn.w_c[0, 0])


def test_csa_window_is_the_nearest():
    attn = randomise(ConvolutionalSelfAttention(8, 2))
    x = torch.randn(1, 8, 5, 8)
    record = AttentionRecord('stages.0.0.attn', attn, dict(x=x), 4, (5, 8),
                             {})
    with torch.no_grad():
        alpha = attn.attention_weights(x)[0]  # 3 x 4 windows
    centres = torch.tensor([[(8 * r + 2, 8 * c + 2) for c in range(4)]
                            for r in range(3)])
    for y in np.arange(0.25, 20, 1.5):
        for x in np.arange(0.25, 32, 1.5):
            shown, *heads = attention_panels(record, (x, y))[0]
            distance = (centres - torch.tensor([y, x])).square().sum(2)
            row, col = divmod(int(distance.argmin()), 4)
            torch.testing.assert_close(
                torch.stack([p.values for p in heads]), alpha[row, col])
            torch.testing.assert_close(
                shown.values.flatten(), alpha[row, col].mean((0, 1)))
            left, right, bottom, top = shown.extent
            assert ((top + bottom) / 2, (left + right) / 2) == tuple(
                centres[row, col].tolist())
            assert right - left == bottom - top == 12


def test_rasa_keys_lie_where_they_are_reduced_from():
    attn = randomise(
        RecursiveAtrousSelfAttention(8, 2, reduction=2)).double()
    x = torch.randn(1, 8, 7, 31, dtype=torch.double)
    query = (20., 12.)  # place (3, 5)

    def rows(x):
        record = AttentionRecord('stages.1.0.attn', attn, dict(x=x), 4,
                                 (7, 31), {})
        return attention_panels(record, query)

    before = rows(x)
    assert [len(row) for row in before] == [3, 3]  # passes; mean, heads
    for row in before:
        for panel in row:
            assert panel.extent == (0, 120, 24, 0)
            assert panel.values.shape == (3, 15)
            assert abs(panel.values.sum() - 1) < 1e-12
        torch.testing.assert_close(
            row[0].values, (row[1].values + row[2].values) / 2)
    assert not torch.equal(before[0][1].values, before[1][1].values)
    for place in ((0, 12), (5, 20), (3, 29)):  # beyond q's dilated kernels
        other = x.clone()
        other[0, :, place[0], place[1]] = torch.randn(8)
        for old, new in zip(before[0][1:], rows(other)[0][1:], strict=True):
            assert changed_cell(old.values, new.values) == [
                [place[0] // 2, place[1] // 2]]
    # the query's own row: near places change it by way of q
    other = x.clone()
    other[0, :, 3, 5] = torch.randn(8)
    old, new = before[0][1].values, rows(other)[0][1].values
    assert len(changed_cell(old, new)) > 30


@pytest.mark.parametrize('patch, fold', [(1, 3), (2, 2), (1, 1)])
def test_lolvit_keys_are_columns(patch, fold):
    attn = randomise(
        FastWindowAttention(12, 3, patch=patch, fold=fold)).double()
    x = torch.randn(1, 5, 10, 12, dtype=torch.double)
    query, window = (2, 4), patch * fold

    def panels(x):
        record = AttentionRecord('stages.1.1.layers.0.attn', attn, dict(x=x),
                                 8, (5, 10), {})
        return attention_panels(record, (8 * 4 + 1, 8 * 2 + 7))[0]

    before = panels(x)
    keys = -(-10 // window)
    for panel in before:
        assert panel.extent == (0, 80, 40, 0)
        assert panel.values.shape == (1, 10)
        assert panel.values.min() >= 0
        total = float(re.search(r'sum ([\d.]+)', panel.title)[1])
        assert total == pytest.approx(
            panel.values[0, ::window].sum().item(), abs=6e-4)
        assert len(panel.values.unique()) <= keys
    assert max(len(p.values.unique()) for p in before) > 1
    changed = False
    for row, col in ((0, 0), (2, 5), (4, 9), (3, 7), (1, 8)):
        assert (row, col) != query
        other = x.clone()
        other[0, row, col] = 30 * torch.randn(12)
        columns = range(col // window * window,
                        min(col // window * window + window, 10))
        for old, new in zip(before, panels(other), strict=True):
            rest = [c for c in range(10) if c not in columns]
            torch.testing.assert_close(
                old.values[:, rest], new.values[:, rest])
            changed |= not torch.allclose(old.values, new.values)
    assert changed


def test_layers_are_chosen_by_name():
    backbone, images = BACKBONES['LVT'](), torch.randn(1, 3, 64, 64)
    names = [r.name for r in record_attentions(backbone, images)]
    assert names == ['stages.0.0.attn', 'stages.1.1.attn', 'stages.2.1.attn',
                     'stages.3.1.attn']
    found = record_attentions(backbone, images, ['stages.3', '0.0'])
    assert [r.name for r in found] == [names[0], names[3]]
    assert [(r.stride, r.map_size) for r in found] == [(4, (16, 16)),
                                                       (32, (2, 2))]
    with pytest.raises(UserError, match='no layer has stages.9 or nine .*'
                       'choose from stages.0.0.attn, stages.1.1.attn'):
        record_attentions(backbone, images, ['stages.9', 'nine'])


@pytest.mark.parametrize('backbone', [
    nn.Conv2d(3, 3, 1), XFormer(out_indices=(0, ))])
def test_backbone_without_attention(backbone):
    with pytest.raises(UserError, match='no attention that can be drawn.*'
                       'XFormer, LVT, FcaFormer, CabViT, LOLViT'):
        record_attentions(backbone, torch.randn(1, 3, 64, 64))


def test_recording_leaves_the_backbone_as_it_was():
    backbone = FcaFormer(HYBRID, drop_path_rate=0.5, frozen_stages=1)
    modes = [m.training for m in backbone.modules()]
    statistics = [b.clone() for b in backbone.buffers()]
    images = torch.randn(1, 3, 64, 64)
    first, second = (record_attentions(backbone, images) for _ in range(2))
    for one, other in zip(first, second, strict=True):  # no drop path
        assert torch.equal(one.inputs['x'], other.inputs['x'])
    assert [m.training for m in backbone.modules()] == modes
    for old, new in zip(statistics, backbone.buffers(), strict=True):
        assert torch.equal(old, new)
    assert not any(m._forward_pre_hooks for m in backbone.modules())


@pytest.mark.parametrize('name', ['XFormer', 'LVT', 'FcaFormer', 'LOLViT'])
def test_picture(name):
    backbone = randomise(BACKBONES[name]())
    height, width = 64, 100
    image = np.random.RandomState(0).randint(
        0, 256, (height, width, 3), np.uint8)
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    record = record_attentions(backbone, images)[-1]
    query = (0.25, 0.5)
    figure = draw_attention(record, image, query)
    panels = sum(
        attention_panels(record, (query[0] * width, query[1] * height)), [])
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == len(panels)
    assert record.name in figure.get_suptitle()
    for axes, panel in zip(drawn, panels, strict=True):
        assert axes.get_title().startswith(panel.title)
        heat = axes.images[-1]
        np.testing.assert_allclose(heat.get_array(), panel.values.detach())
        assert heat.get_interpolation() == 'nearest'
        assert heat.norm.vmin == panel.values.min().item()
        low, high = axes.get_title().splitlines()[-1].split(' to ')
        assert float(low) == pytest.approx(
            panel.values.min().item(), rel=0.01)
        assert float(high) == pytest.approx(
            panel.values.max().item(), rel=0.01)
        marks = [tuple(np.ravel(line.get_data())) for line in axes.lines]
        if panel.extent is None or name == 'XFormer':
            assert not marks
        else:
            assert marks == [(25, 32)]
            assert tuple(heat.get_extent()) == panel.extent
        boxes = [p.get_bbox().bounds for p in axes.patches]
        if panel.box:
            assert boxes == [(panel.box[0] - 0.5, -0.5, *panel.box[2:])]
    figure.savefig('a.png')


def test_rounding_errors_are_no_pattern():
    values = torch.full((2, 2), 0.1)
    values[0, 1] += 1e-8
    axes = Figure().subplots()
    attention_maps._draw_panel(axes, Panel('', values), np.zeros((4, 4)))
    colours = axes.images[0].to_rgba(values.numpy())
    assert np.abs(colours - colours[0, 0]).max() < 0.02
