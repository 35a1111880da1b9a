# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect

import pytest
import torch
import torch.nn.functional as F

from mmxvit.models.attentions import (
    ConvolutionalSelfAttention,
    convolutional_self,
)

from .reference import convolutional_self_attention


def make_attention(num_heads=2):
    attn = ConvolutionalSelfAttention(6, num_heads).double()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter)
    return attn


def reference(attn, x):
    heads = attn.num_heads
    # channels of `weights` are in the order (j, head, i)
    a = attn.weights.weight.view(9, heads, 9, -1).permute(1, 2, 0, 3)
    a_bias = attn.weights.bias.view(9, heads, 9).permute(1, 2, 0)
    return torch.stack([
        convolutional_self_attention(
            image.permute(1, 2, 0), a, a_bias,
            attn.values.weight.view(9, 6, 6), attn.proj.weight[..., 0, 0],
            attn.proj.bias).permute(2, 0, 1) for image in x
    ])


def close(actual, expected, tolerance=1e-12):
    scale = expected.abs().max()
    return (actual - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize('heads, size', [(2, (4, 6)), (3, (5, 4)),
                                         (1, (3, 7)), (2, (1, 2))])
def test_equals_the_equations(heads, size):
    attn = make_attention(heads)
    x = torch.randn(2, 6, *size, dtype=torch.double, requires_grad=True)
    out, expected = attn(x), reference(attn, x)
    assert close(out, expected)
    with torch.no_grad():  # places are gathered otherwise
        assert close(attn(x), expected)
    weights = torch.randn_like(out)
    inputs = [x, *attn.parameters()]
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert close(grad, expected_grad)


# What might be written by mistake in place of a step.
MISTAKES = [
    ('.softmax(3)', '.softmax(5)'),  # over i
    ('permute(0, 1, 2, 4, 5, 3)', 'permute(0, 1, 2, 4, 3, 5)'),  # i for j
    ('self.head_dims**-0.5', 'self.head_dims**0.5'),
    ('F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)',
     'x[..., ::2, ::2]'),  # one place for the mean of four
    ('F.pad(x, (1, 1, 1, 1))', "F.pad(x, (1, 1, 1, 1), 'replicate')"),
    ('for i in range(3) for j in range(3)',
     'for j in range(3) for i in range(3)'),  # W_j of another place
    ('[1, -1]', '[0, 0]'),  # the two odd lines of another window
    ('return before, centre, after', 'return after, centre, before'),
    ('x.shape[1]).transpose(1, 2)', 'x.shape[1])'),
    ('self.num_heads, self.head_dims)\n        values',
     'self.head_dims, self.num_heads).mT\n        values'),
    ('values.permute(1, 2, 3, 4, 0, 5)',
     'values.flip(0).permute(1, 2, 3, 4, 0, 5)'),
    ('_overlap_add(_overlap_add(out, 1, height), 2, width)',
     '_overlap_add(_overlap_add(out.transpose(4, 5), 1, height), 2, width)'),
    ('after + following', 'after'),
    ('after + following', '(after + following) / 2'),  # mean for sum
    ('(centre, after + following)', '(after + following, centre)'),
    ('[-1, 1]', '[0, 0]'),  # of the same window, not the next
    ('return self.proj(out', 'return (out'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = inspect.getsource(convolutional_self)
    assert source.count(right) == 1
    namespace = dict(
        __name__=convolutional_self.__name__,
        __package__=convolutional_self.__package__)
    exec(source.replace(right, wrong), namespace)
    attn = make_attention()
    mistaken = namespace['ConvolutionalSelfAttention'](6, 2).double()
    mistaken.load_state_dict(attn.state_dict())
    x = torch.randn(2, 6, 5, 4, dtype=torch.double)
    expected = reference(attn, x)
    with torch.no_grad():
        without_grad = mistaken(x)
    assert not (close(mistaken(x), expected, 1e-6)
                and close(without_grad, expected, 1e-6))


def test_equal_weights_give_the_convolution():
    """Section 3.1: with equal alpha the centre is a convolution's output."""
    attn = make_attention()
    torch.nn.init.zeros_(attn.weights.weight)
    torch.nn.init.zeros_(attn.weights.bias)
    seen = []
    attn.proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 6, 6, 8, dtype=torch.double)
    attn(x)
    kernel = attn.values.weight.view(3, 3, 6, 6).permute(2, 3, 0, 1)
    expected = F.conv2d(x, kernel, stride=2, padding=1) / 9
    assert close(seen[0][..., ::2, ::2], expected)


@pytest.mark.parametrize('size', [(6, 8), (5, 7)])
def test_attention_weights(size):
    attn = make_attention()
    alpha = attn.attention_weights(torch.randn(2, 6, *size).double())
    assert alpha.shape == (2, 3, 4, 2, 9, 9)
    torch.testing.assert_close(alpha.sum(-1), torch.ones_like(alpha[..., 0]))


def test_half_operands_are_widened_and_double_is_kept():
    attn = ConvolutionalSelfAttention(16, 2)
    x = torch.randn(2, 16, 8, 8)
    expected = attn(x)
    with torch.autocast('cpu', torch.bfloat16):
        out = attn(x)
        assert attn.attention_weights(x).dtype == torch.float
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)
    half = attn.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.02)
    assert attn.double().attention_weights(x.double()).dtype == torch.double


def test_large_logits_stay_finite():
    attn = ConvolutionalSelfAttention(16, 2)
    x = 1e6 * torch.randn(1, 16, 6, 6)
    x.requires_grad_()
    attn(x).sum().backward()
    assert x.grad.isfinite().all()


def test_nominal_count_is_the_structure_of_the_paper():
    attn = ConvolutionalSelfAttention(64, 2)
    x = torch.randn(2, 64, 7, 8)
    counts = attn.nominal_macs((x, ), attn(x))
    windows = 2 * 4 * 4
    assert counts['linear'] == windows * (64 * 162 + 9 * 64 * 64) + (
        2 * 7 * 8 * 64 * 64)
    assert counts['attention'] == windows * 2 * 81 * 32


def test_bad_arguments():
    with pytest.raises(ValueError, match='multiple of num_heads=3'):
        ConvolutionalSelfAttention(16, 3)
