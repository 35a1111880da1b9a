# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect
import textwrap

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmxvit.models.attentions import CrossFeatureAttention, cross_feature

from .reference import cross_feature_attention


def make_attention(norm_dim='feature', **kwargs):
    attn = CrossFeatureAttention(
        10, qkv_dims=12, num_heads=3, base_size=(3, 2), norm_dim=norm_dim,
        **kwargs).double()
    for parameter in attn.parameters():  # none at a value that hides it
        torch.nn.init.normal_(parameter)
    return attn


def reference(attn, x):
    w_q, w_k, w_v = attn.qkv.weight.chunk(3)
    return torch.stack([
        cross_feature_attention(group, w_q, w_k, w_v, attn.w_c.flatten(),
                                attn.w_f, attn.temperature[0],
                                attn.proj.weight, attn.proj.bias,
                                attn.num_heads, attn.norm_dim) for group in x
    ])


def close(actual, expected, tolerance=1e-12):
    scale = expected.abs().max()
    return (actual - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize('norm_dim', ['feature', 'token'])
def test_equals_the_equations(norm_dim):
    attn = make_attention(norm_dim)
    x = torch.randn(2, 6, 10, dtype=torch.double, requires_grad=True)
    out, expected = attn(x, (3, 2)), reference(attn, x)
    assert close(out, expected)
    weights = torch.randn_like(out)
    inputs = [x, *attn.parameters()]
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert close(grad, expected_grad)


# What might be written by mistake in place of a step of forward().
MISTAKES = [
    ('inv_q / num_tokens', 'inv_q'),  # sum for mean
    ('k_f * inv_q /', 'k_f /'),  # q not normalised
    ('inv_k * w_c', 'w_c'),  # k not normalised in Eq. 3
    ('qk[:, 2 * width:] * inv_k', 'qk[:, 2 * width:]'),  # ... in Eq. 4
    ('inv_k * w_c', 'inv_k * w_c.flip(0)'),  # tokens in another order
    ('* w_k).view', '* w_q).view'),  # scores of q
    ('ghi,chi->ghc', 'ghi,chi->gic'),  # heads mixed up
    ('temperature * ', ''),
    (' + bias', ''),
    ('w_q, w_k, w_v = self', 'w_k, w_q, w_v = self'),
    ('w_q, w_k, w_v = self', 'w_q, w_v, w_k = self'),
    ('(w_q, w_k, w_kf)', '(w_k, w_q, w_kf)'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = textwrap.dedent(inspect.getsource(CrossFeatureAttention.forward))
    assert source.count(right) == 1
    namespace = vars(cross_feature).copy()
    exec(source.replace(right, wrong), namespace)
    attn = make_attention()
    x = torch.randn(2, 6, 10, dtype=torch.double)
    try:
        out = namespace['forward'](attn, x, (3, 2))
    except RuntimeError:  # shapes do not even fit
        return
    assert not close(out, reference(attn, x), 1e-6)


class Shapes(TorchDispatchMode):
    """Collects the shapes of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out, ):
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tuple(tensor.shape))
        return out


def test_builds_neither_values_nor_maps():
    attn = CrossFeatureAttention(40, 24, 2, base_size=(5, 7))
    with Shapes() as shapes, torch.no_grad():
        attn(torch.randn(3, 35, 40), (5, 7))
    n, width, dims = 35, 24, 12
    for shape in shapes.seen:
        assert shape[-2:] != (n, n)
        assert shape[-2:] != (dims, dims)
        # values would be (G, N, width) or its transpose, alone
        assert shape[-2:] not in ((n, width), (width, n)), shape
        assert shape[-2:] != (n, dims), shape


@pytest.mark.parametrize('size', [(16, 16), (8, 8), (40, 40), (13, 29),
                                  (1, 1), (50, 3)])
def test_context_weights_keep_their_sum(size):
    attn = CrossFeatureAttention(16, 8, 2, base_size=(16, 16)).double()
    torch.nn.init.normal_(attn.w_c)
    weights = attn.context_weights(size)
    assert weights.shape == (size[0] * size[1], )
    torch.testing.assert_close(weights.sum(), attn.w_c.sum())


def test_context_weights_stay_uniform_and_exact_at_base_size():
    attn = CrossFeatureAttention(16, 8, 2, base_size=(4, 6))
    uniform = attn.context_weights((7, 5))
    torch.testing.assert_close(uniform, torch.full((35, ), 1 / 35))
    torch.nn.init.normal_(attn.w_c)
    assert torch.equal(attn.context_weights((4, 6)), attn.w_c.flatten())


def test_context_weights_follow_the_parameter():
    """Nothing resized is cached across a change of weights."""
    attn = CrossFeatureAttention(16, 8, 2, base_size=(4, 4)).eval()
    x = torch.randn(1, 36, 16)
    before = attn(x, (6, 6))
    with torch.no_grad():
        attn.w_c.mul_(2)
    after = attn(x, (6, 6)) - attn.proj.bias
    torch.testing.assert_close(after, 2 * (before - attn.proj.bias))


def test_scale_does_not_depend_on_the_number_of_tokens():
    """A lambda learned at 256 pixels serves at 1280: the mean over tokens."""
    attn = CrossFeatureAttention(24, 24, 2, base_size=(8, 8)).double()
    small = torch.randn(1, 24, 8, 8, dtype=torch.double)
    large = torch.nn.functional.interpolate(
        small, scale_factor=5, mode='bilinear')
    out = [
        attn(x.flatten(2).mT, x.shape[2:]).std().item()
        for x in (small, large)
    ]
    assert 0.5 < out[1] / out[0] < 2  # a plain sum gives about 25


@pytest.mark.usefixtures('half_on_cpu')
def test_half_operands_are_widened_and_double_is_kept():
    attn = CrossFeatureAttention(16, 16, 2, base_size=(4, 4))
    x = torch.randn(2, 16, 16)
    expected = attn(x, (4, 4))
    with torch.autocast('cpu', torch.bfloat16):
        out = attn(x, (4, 4))
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)
    half = attn.half()(x.half(), (4, 4))
    assert half.dtype == torch.half
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=5e-3)
    assert attn.double()(x.double(), (4, 4)).dtype == torch.double


def test_zero_tokens_give_the_bias_and_finite_gradients():
    attn = CrossFeatureAttention(16, 16, 2, base_size=(4, 4))
    torch.nn.init.normal_(attn.proj.bias)
    x = torch.zeros(1, 16, 16, requires_grad=True)
    out = attn(x, (4, 4))
    torch.testing.assert_close(out, attn.proj.bias.expand_as(out))
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attn.parameters())


def test_nominal_count_is_the_structure_of_the_paper():
    attn = CrossFeatureAttention(144, 96, 8, base_size=(16, 16))
    x = torch.randn(4, 256, 144)
    counts = attn.nominal_macs((x, (16, 16)), attn(x, (16, 16)))
    assert counts['linear'] == 4 * 256 * 4 * 96 * 144
    # Eq. 3 and 4 and q^^T k_f: N D each; k_f k_c: D D; v times it: N D D
    assert counts['attention'] == 4 * 8 * (3 * 256 * 12 + 144 + 256 * 144)


@pytest.mark.parametrize('kwargs, message', [
    (dict(qkv_dims=97), 'multiple of'),
    (dict(norm_dim='channel'), "'feature' or 'token'"),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrossFeatureAttention(16, **kwargs)
