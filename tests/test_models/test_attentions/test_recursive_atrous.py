# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect

import pytest
import torch

from mmxvit.models.attentions import (
    RecursiveAtrousSelfAttention,
    recursive_atrous,
)

from .reference import recursive_atrous_self_attention


def make_attention(reduction=2, recursions=2):
    attn = RecursiveAtrousSelfAttention(6, 2, reduction, recursions).double()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attn


def reference(attn, x):
    def matrix(conv):
        return conv.weight[..., 0, 0]

    w_k, w_v = matrix(attn.kv).chunk(2)
    weights = dict(
        w_q=matrix(attn.q),
        kernel=attn.q_conv.weight[:, 0],
        reduce=None,
        norm=None,
        w_k=w_k,
        w_v=w_v,
        w_o=matrix(attn.proj),
        b_o=attn.proj.bias,
        heads=attn.num_heads)
    if attn.reduction > 1:
        weights['reduce'] = attn.reduce.weight, attn.reduce.bias
        weights['norm'] = attn.norm.weight, attn.norm.bias
    return torch.stack([
        recursive_atrous_self_attention(
            image.permute(1, 2, 0), attn.recursions,
            **weights).permute(2, 0, 1) for image in x
    ])


def close(actual, expected, tolerance=1e-12):
    scale = expected.abs().max()
    return (actual - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize('reduction, recursions', [(1, 1), (1, 2), (2, 1),
                                                   (2, 2), (2, 4), (3, 3)])
def test_equals_the_equations(reduction, recursions):
    attn = make_attention(reduction, recursions)
    x = torch.randn(2, 6, 4, 7, dtype=torch.double, requires_grad=True)
    out, expected = attn(x), reference(attn, x)
    assert close(out, expected)
    weights = torch.randn_like(out)
    inputs = [x, *attn.parameters()]
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert close(grad, expected_grad, 1e-11)


PASS = 'layer_act(self.proj, _SILU, self.attend(x))'
# What might be written by mistake in place of a step.
MISTAKES = [
    ('dilations = (1, 3, 5)', 'dilations = (1, 2, 3)'),
    ('dilations = (1, 3, 5)', 'dilations = (1, 1, 1)'),
    ('(one + three + five, k, v)', '(F.silu(one + three + five), k, v)'),
    ('(one + three + five, k, v)', '((one + three + five) / 3, k, v)'),
    ('(one + three + five, k, v)', '(one + three + five, v, k)'),
    ('_SILU, q', 'nn.Identity(), q'),
    ('self.norm(self.reduce(x)', '(self.reduce(x)'),
    ('F.scaled_dot_product_attention(widen(q)',
     'F.scaled_dot_product_attention(widen(6 * q)'),
    ('range(self.recursions - 1)', 'range(self.recursions)'),
    (f'x = {PASS} + x', 'x = self.proj(self.attend(x)) + x'),
    (f'x = {PASS} + x', 'x = _SILU(self.proj(self.attend(x)) + x)'),
    (f'x = {PASS} + x', f'x = {PASS} + inputs'),
    (f'x = {PASS} + x', f'x = {PASS}'),
    (f'return {PASS}', 'return self.proj(self.attend(x))'),
    (f'return {PASS}', f'return {PASS} + x'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = inspect.getsource(recursive_atrous)
    assert source.count(right) == 1
    if 'inputs' in wrong:  # the first map in place of the last sum
        source = source.replace('        for _ in range(',
                                '        inputs = x\n        for _ in range(')
    namespace = dict(
        __name__=recursive_atrous.__name__,
        __package__=recursive_atrous.__package__)
    exec(source.replace(right, wrong), namespace)
    attn = make_attention(recursions=3)
    mistaken = namespace['RecursiveAtrousSelfAttention'](6, 2, 2, 3).double()
    mistaken.load_state_dict(attn.state_dict())
    x = torch.randn(1, 6, 5, 7, dtype=torch.double)
    assert not close(mistaken(x), reference(attn, x), 1e-6)


def test_passes_share_their_weights():
    sizes = {
        sum(p.numel() for p in make_attention(2, n).parameters())
        for n in (1, 2, 4)
    }
    assert len(sizes) == 1


def test_half_operands_are_widened_and_double_is_kept(monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def record(*args):
        seen.append({a.dtype for a in args})
        return attend(*args)

    monkeypatch.setattr(recursive_atrous.F, 'scaled_dot_product_attention',
                        record)
    attn = RecursiveAtrousSelfAttention(16, 2, 2)
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 16, 8, 8)
    expected = attn(x)
    with torch.autocast('cpu', torch.bfloat16):
        out = attn(x)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    half = attn.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)
    assert seen == [{torch.float}] * 6
    attn.double()(x.double())
    assert seen[-1] == {torch.double}


def test_large_scores_stay_finite():
    attn = RecursiveAtrousSelfAttention(16, 2)
    x = 1e4 * torch.randn(1, 16, 6, 6)
    x.requires_grad_()
    attn(x).sum().backward()
    assert x.grad.isfinite().all()


def test_nominal_count_is_the_structure_of_the_paper():
    attn = RecursiveAtrousSelfAttention(64, 2, 4, 3)
    x = torch.randn(2, 64, 9, 8)
    counts = attn.nominal_macs((x, ), attn(x))
    queries, keys = 9 * 8, 2 * 2
    assert counts['linear'] == 3 * 2 * (
        queries * (2 * 64 * 64 + 3 * 9 * 64) + keys *
        (2 * 64 * 64 + 16 * 64 * 64))
    assert counts['attention'] == 3 * 2 * 2 * queries * keys * 64
    assert counts['norm'] == 3 * 2 * 2 * keys * 64


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_heads=3), 'multiple of num_heads=3'),
    (dict(num_heads=2, recursions=0), 'recursions=0 must be at least 1'),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RecursiveAtrousSelfAttention(16, **kwargs)
