# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect

import pytest
import torch

from mmxvit.models.attentions import FastWindowAttention, fast_window

from .reference import fast_window_attention

PROJECTIONS = ('head', 'channel')


def make_attention(projection='head', patch=1, fold=2,
                   kind=FastWindowAttention):
    attn = kind(
        12, num_heads=3, patch=patch, fold=fold, projection=projection,
        eps=0.1).double()
    for parameter in attn.parameters():  # none at a value that hides it
        torch.nn.init.normal_(parameter)
    torch.nn.init.constant_(attn.length_scale, 0.7)
    return attn


def reference(attn, x, patch=1, fold=2, cache=None):
    def conv(module):
        return module.weight.flatten(1), module.bias

    results = [
        fast_window_attention(
            image, conv(attn.query_token), (attn.norm.weight, attn.norm.bias),
            conv(attn.key_value), attn.length_scale[0], attn.num_heads, patch,
            fold, attn.projection, attn.eps,
            None if cache is None else cache[i]) for i, image in enumerate(x)
    ]
    return tuple(torch.stack(part) for part in zip(*results, strict=True))


def close(actual, expected, tolerance=1e-12):
    if actual.shape != expected.shape:
        return False
    return (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize('projection', PROJECTIONS)
@pytest.mark.parametrize('patch, fold, size', [
    (1, 1, (4, 6)),
    (1, 2, (3, 6)),
    (1, 2, (4, 5)),  # a remainder of one column
    (1, 4, (5, 3)),  # narrower than a window
    (2, 1, (5, 6)),
    (2, 2, (3, 7)),
    (3, 1, (1, 1)),
])
def test_equals_the_equations(projection, patch, fold, size):
    attn = make_attention(projection, patch, fold)
    x = torch.randn(2, *size, 12, dtype=torch.double, requires_grad=True)
    out, merged = attn(x)
    expected, expected_merged = reference(attn, x, patch, fold)
    assert close(merged, expected_merged)
    assert close(out, expected)
    weights = torch.randn_like(out)
    inputs = [x, *attn.parameters()]
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert close(grad, expected_grad, 1e-10)


@pytest.mark.parametrize('projection', PROJECTIONS)
def test_merged_tokens_of_another_layer_are_used(projection):
    first, second = make_attention(projection), make_attention(projection)
    x = torch.randn(2, 3, 5, 12, dtype=torch.double)
    _, cache = first(x)
    out, merged = second(2 * x, cache)
    assert merged is cache
    assert close(out, reference(second, 2 * x, cache=cache)[0])
    assert not close(out, second(2 * x)[0], 1e-3)


# What might be written by mistake in place of a step of the class.
MISTAKES = [
    ('x.sum(1, dtype=dtype) / x.shape[1]',
     'x.sum(2, dtype=dtype) / x.shape[2]'),  # rows for columns
    ('x.sum(1, dtype=dtype) / x.shape[1]', 'x.sum(1, dtype=dtype)'),
    # the last window's padding counted
    ('counts.clamp(max=self.window).unsqueeze(1)', 'self.window'),
    ('self.window = patch * fold', 'self.window = fold'),
    ('self.window = patch * fold', 'self.window = patch + fold'),
    ('w_q, w_t = self', 'w_t, w_q = self'),
    ('b_q, b_t = self', 'b_t, b_q = self'),
    ('self.norm(merged)', 'merged'),
    ('k, v = kv', 'v, k = kv'),
    ('k = k * self.head_dims**-0.5', 'k = k * self.head_dims**-1'),
    (' + self.eps) *', ') *'),
    ('self.eps) * v.shape[2])', 'self.eps))'),
    ('self.eps) * v.shape[2])', 'self.eps) * width)'),  # W for n
    ('.relu()', '.softmax(-1)'),
    ('.relu()', ''),
    # heads of other features
    ('heads, dims).permute(2, 0, 1, 3)', 'dims, heads).permute(3, 0, 1, 2)'),
    ('token.permute(1, 2, 0, 3)', 'token.permute(1, 2, 3, 0)'),
    ('v).permute(1, 2, 0, 3)', 'v).permute(1, 2, 3, 0)'),
    ('if merged is None', 'if True'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = inspect.getsource(FastWindowAttention)
    assert source.count(right) == 1
    namespace = vars(fast_window).copy()
    exec(source.replace(right, wrong).replace('super()', 'super(cls, self)'),
         namespace)
    namespace['cls'] = namespace['FastWindowAttention']
    attn = make_attention(patch=2, fold=3, kind=namespace['cls'])
    x = torch.randn(2, 3, 7, 12, dtype=torch.double)
    cache = torch.randn(2, 2, 12, dtype=torch.double)
    assert not all(
        close(attn(x, c)[0], reference(attn, x, 2, 3, c)[0], 1e-6)
        for c in (None, cache))


def test_mean_over_the_true_number_of_merged_tokens():
    """Padded zeros would show in the last window of a constant map."""
    attn = make_attention(patch=2, fold=2)
    x = torch.randn(1, 1, 1, 12, dtype=torch.double).expand(1, 5, 9, 12)
    _, merged = attn(x)
    assert merged.shape == (1, 3, 12)
    assert close(merged, merged[:, :1].expand(1, 3, 12))


@pytest.mark.parametrize('size, numbers', [(224, (28, 7, 2)),
                                           (384, (48, 12, 3))])
def test_number_of_keys(size, numbers):
    for stride, fold, number in zip((8, 16, 32), (1, 2, 4), numbers,
                                    strict=True):
        attn = FastWindowAttention(8, fold=fold)
        x = torch.randn(1, 3, size // stride, 8)
        assert attn(x)[1].shape[1] == number


def test_scale_does_not_depend_on_the_height():
    attn = make_attention()
    x = torch.randn(1, 4, 6, 12, dtype=torch.double)
    out, merged = attn(x)
    tall, tall_merged = attn(x.repeat(1, 10, 1, 1))
    assert close(tall_merged, merged)
    assert close(tall, out.repeat(1, 10, 1, 1))


@pytest.mark.parametrize('projection', PROJECTIONS)
def test_nothing_is_kept_between_calls(projection):
    attn = make_attention(projection)
    before = {k: v.clone() for k, v in attn.state_dict().items()}
    names = set(vars(attn))
    a, b = (torch.randn(2, 3, 7, 12, dtype=torch.double) for _ in range(2))
    out = attn(a)[0]
    attn(b)
    attn(b[:1, :, :5])
    assert torch.equal(attn(a)[0], out)
    assert set(vars(attn)) == names
    assert all(torch.equal(v, before[k])
               for k, v in attn.state_dict().items())


def test_all_zero_rows_give_zeros():
    attn = make_attention()
    with torch.no_grad():
        attn.query_token.weight[:3, :, 0, 0] = torch.eye(3)
        attn.query_token.bias[:3] = 0
        attn.key_value.weight[:3] = 0
        attn.key_value.bias[:3] = 1  # every key positive
    x = torch.rand(1, 3, 5, 12, dtype=torch.double)
    x[0, 1, 2] = -1
    x.requires_grad_()
    out, _ = attn(x)
    zero = (out == 0).all(-1)
    assert zero[0, 1, 2] and zero.sum() == 1
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attn.parameters())


@pytest.mark.parametrize('projection', PROJECTIONS)
@pytest.mark.parametrize('scale', [0, 1, 1000])
@pytest.mark.parametrize('dtype', [torch.float, torch.bfloat16])
def test_finite_at_any_scale(projection, scale, dtype):
    attn = FastWindowAttention(16, fold=2, projection=projection)
    x = (scale * torch.randn(2, 5, 7, 16)).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype != torch.float):
        out, merged = attn(x.to(dtype))
    assert out.dtype == dtype and out.isfinite().all()
    assert merged.dtype == torch.float
    out.float().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attn.parameters())


@pytest.mark.usefixtures('half_on_cpu')
@pytest.mark.parametrize('projection', PROJECTIONS)
def test_half_operands_are_widened_and_double_is_kept(projection):
    attn = FastWindowAttention(16, fold=2, projection=projection)
    x = torch.randn(2, 5, 7, 16)
    expected = attn(x)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = attn(x)[0]
    assert (out - expected).norm() < 0.02 * expected.norm()
    half = attn.half()(x.half())[0]
    assert half.dtype == torch.half
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=5e-3)
    out, merged = attn.double()(x.double())
    assert out.dtype == merged.dtype == torch.double


def test_sums_of_half_maps_do_not_overflow():
    """1000 x 100 rows is above the largest float16, 65504."""
    attn = FastWindowAttention(16)
    x = torch.full((1, 100, 2, 16), 1000., dtype=torch.half)
    merged = attn.merge(x)
    torch.testing.assert_close(merged, torch.full((1, 2, 16), 1000.))


@pytest.mark.parametrize('projection, width', [('head', 4), ('channel', 48)])
def test_counts(projection, width):
    attn = FastWindowAttention(48, fold=2, projection=projection)
    parameters = sum(p.numel() for p in attn.parameters())
    assert parameters == 2 * (2 * width * width + 2 * width) + 2 + 1
    x = torch.randn(2, 6, 9, 48)
    out, merged = attn(x)
    tokens, keys = 6 * 9, 5
    conv = 2 * width * width * (48 // width)  # for one token
    counts = attn.nominal_macs((x, None), (out, merged))
    assert counts['linear'] == 2 * (tokens + keys) * conv
    assert counts['attention'] == 2 * 2 * tokens * keys * 48
    cached = attn.nominal_macs((x, merged), attn(x, merged))
    assert cached['linear'] == 2 * (tokens * conv // 2 + keys * conv)


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_heads=5), 'multiple of'),
    (dict(patch=0), 'patch=0'),
    (dict(fold=0), 'fold=0'),
    (dict(projection='token'), "'head' or 'channel'"),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FastWindowAttention(16, **kwargs)
