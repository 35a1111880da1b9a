# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect
import textwrap

import pytest
import torch
import torch.nn as nn

from mmxvit.models.attentions import (
    ForwardCrossAttention,
    TokenMergeEnhance,
    forward_cross,
)

from .reference import forward_cross_attention, token_merge

SIZE = (2, 3)


def make_attention(num_groups=2, **kwargs):
    attn = ForwardCrossAttention(
        8, 2, SIZE, cross_size=(1, 2), num_groups=num_groups,
        **kwargs).double()
    for parameter in attn.parameters():  # none at a value that hides it
        nn.init.normal_(parameter)
    return attn


def make_tokens(num_class=0, num_cross=4):
    x = torch.randn(2, num_class + 6, 8, dtype=torch.double,
                    requires_grad=True)
    cross = torch.randn(2, num_cross, 8, dtype=torch.double,
                        requires_grad=True)
    return x, cross


def reference(attn, x, cross, num_class=0):
    w_q, w_k, w_v = attn.qkv.weight.chunk(3)
    b_q, b_k, b_v = attn.qkv.bias.chunk(3)
    return torch.stack([
        forward_cross_attention(
            a, b, attn.scale, (attn.cross_norm.weight, attn.cross_norm.bias),
            w_q, w_k, w_v, b_q, b_k, b_v, attn.position_bias,
            attn.depth_bias, SIZE, attn.proj.weight, attn.proj.bias,
            attn.num_heads, num_class, attn.cross_scale == 'before_norm')
        for a, b in zip(x, cross, strict=True)
    ])


def close(actual, expected, tolerance=1e-12):
    scale = expected.abs().max()
    return (actual - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize('num_class', [0, 1])
@pytest.mark.parametrize('cross_scale', ['before_norm', 'after_norm'])
def test_equals_the_equations(cross_scale, num_class):
    attn = make_attention(cross_scale=cross_scale)
    x, cross = make_tokens(num_class)
    out = attn(x, SIZE, cross)
    expected = reference(attn, x, cross, num_class)
    assert close(out, expected)
    weights = torch.randn_like(out)
    inputs = [x, cross, *attn.parameters()]
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert close(grad, expected_grad, 1e-9)  # the factors' is ~1e-5


def test_the_first_block_has_no_cross_tokens():
    attn = make_attention(num_groups=0)
    assert not {'scale', 'depth_bias'} & dict(attn.named_parameters()).keys()
    x, _ = make_tokens()
    expected = torch.stack([
        forward_cross_attention(
            a, [], [], None, *attn.qkv.weight.chunk(3),
            *attn.qkv.bias.chunk(3), attn.position_bias, None, SIZE,
            attn.proj.weight, attn.proj.bias, 2) for a in x
    ])
    assert close(attn(x, SIZE), expected)


# What might be written by mistake in place of a step of forward().
MISTAKES = [
    ('q, keys_values = self.qkv(x).split((dims, 2 * dims), 2)',
     'keys_values, q = self.qkv(x).split((2 * dims, dims), 2)'),
    ('chunk(2, 2)', 'chunk(2, 2)[::-1]'),  # keys for values
    ('t.unflatten(2, (self.num_heads, -1))',
     't.unflatten(2, (-1, self.num_heads)).mT'),
    ('(num_class, 0, num_class, 0)', '(0, num_class, 0, num_class)'),
    ("== 'before_norm'", "!= 'before_norm'"),
    ('self.cross_norm(cross * scale)', 'cross * scale'),
    ('self.qkv.weight[dims:]', 'self.qkv.weight[:-dims]'),
    ('self.qkv.bias[dims:]', 'self.qkv.bias[:-dims]'),
    ('(keys_values, of_cross)', '(of_cross, keys_values)'),
    ('(bias, depth_bias.expand(-1, num_tokens, -1))',
     '(depth_bias.expand(-1, num_tokens, -1), bias)'),
    ('return self.proj(out)', 'return out'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = textwrap.dedent(inspect.getsource(ForwardCrossAttention.forward))
    assert source.count(right) == 1
    namespace = vars(forward_cross).copy()
    exec(source.replace(right, wrong), namespace)
    attn = make_attention()
    x, cross = make_tokens(num_class=1)
    try:
        out = namespace['forward'](attn, x, SIZE, cross)
    except RuntimeError:  # shapes do not even fit
        return
    assert not close(out, reference(attn, x, cross, 1), 1e-6)


TABLE_MISTAKES = [
    ('dy[:, None, :, None]', 'dy.flip(0)[:, None, :, None]'),
    (' + dx[:, None]', ' + dx.flip(0)[:, None]'),
    ('.abs()', '.clamp_min(0)'),
]


@pytest.mark.parametrize('right, wrong', TABLE_MISTAKES)
def test_reference_notices_mistakes_of_the_table(right, wrong, monkeypatch):
    source = textwrap.dedent(
        inspect.getsource(ForwardCrossAttention.position_table))
    assert source.count(right) == 1
    namespace = vars(forward_cross).copy()
    exec(source.replace(right, wrong), namespace)
    monkeypatch.setattr(ForwardCrossAttention, 'position_table',
                        namespace['position_table'])
    attn = make_attention()
    x, cross = make_tokens()
    assert not close(attn(x, SIZE, cross), reference(attn, x, cross), 1e-6)


def test_tables_at_another_grid_keep_constants():
    attn = make_attention()
    nn.init.constant_(attn.position_bias, 2.)
    torch.testing.assert_close(
        attn.position_table((5, 4)), torch.full((2, 20, 20), 2.).double())
    with torch.no_grad():
        attn.scale[:2], attn.scale[2:] = 3., 5.  # by group
    values = attn.per_cross_token(attn.scale.unsqueeze(0), (2, 2))
    assert values.tolist() == [[3.] * 4 + [5.] * 4]
    x = torch.randn(1, 20, 8, dtype=torch.double)
    cross = torch.randn(1, 8, 8, dtype=torch.double)
    assert attn(x, (5, 4), cross, (2, 2)).shape == (1, 20, 8)


def test_a_factor_before_the_norm_is_nearly_without_effect():
    """Why ``cross_scale='after_norm'`` exists."""
    x, cross = make_tokens()
    change = {}
    for where in ('before_norm', 'after_norm'):
        torch.manual_seed(1)
        attn = make_attention(cross_scale=where)
        nn.init.ones_(attn.scale)
        before = attn(x, SIZE, cross)
        nn.init.constant_(attn.scale, 3.)
        change[where] = (attn(x, SIZE, cross) - before).abs().max()
    assert change['before_norm'] < 1e-3 < 0.1 < change['after_norm']


@pytest.mark.usefixtures('half_on_cpu')
def test_half_operands_are_widened_and_double_is_kept():
    attn = make_attention().float()
    x, cross = (t.detach().float() for t in make_tokens())
    expected = attn(x, SIZE, cross)
    with torch.autocast('cpu', torch.bfloat16):
        out = attn(x, SIZE, cross)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.3)
    half = attn.half()(x.half(), SIZE, cross.half())
    assert half.dtype == torch.half
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.05)


@pytest.mark.usefixtures('half_on_cpu')
def test_softmax_survives_half_precision():
    """Logits of 1e5 would be infinite in float16."""
    attn = make_attention().half()
    with torch.no_grad():
        attn.qkv.weight.mul_(60)
    x, cross = (t.detach().half() for t in make_tokens())
    assert attn(x, SIZE, cross).isfinite().all()


def test_nominal_count():
    attn = make_attention().float()
    x, cross = torch.randn(3, 6, 8), torch.randn(3, 4, 8)
    counts = attn.nominal_macs((x, SIZE, cross), attn(x, SIZE, cross))
    # q, k, v, projection of 6 tokens; k, v of 4
    assert counts['linear'] == 3 * (6 * 4 + 4 * 2) * 64
    assert counts['attention'] == 3 * 2 * 6 * 10 * 8


@pytest.mark.parametrize('size', [(14, 14), (7, 7), (5, 9), (1, 1)])
def test_merge_equals_the_loops(size):
    enhance = nn.Conv2d(3, 3, 3, padding=1, groups=3)
    tme = TokenMergeEnhance(3, enhance, merge=True).double()
    x = torch.randn(2, 3, *size, dtype=torch.double)
    enhanced, cross = tme(x)
    expected = torch.stack([token_merge(m, tme.merge.weight[:, 0])
                            for m in x])
    assert close(cross, expected)
    # of the map as it came, not of the enhanced one, which replaces it
    assert torch.equal(enhanced, enhance(x))


def test_the_last_block_merges_nothing():
    tme = TokenMergeEnhance(3, nn.Identity(), merge=False)
    assert not list(tme.parameters())
    assert tme(torch.randn(1, 3, 7, 7))[1] is None


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_heads=3), 'multiple of'),
    (dict(num_heads=2, cross_scale='x'), "'before_norm' or 'after_norm'"),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ForwardCrossAttention(8, **kwargs)
