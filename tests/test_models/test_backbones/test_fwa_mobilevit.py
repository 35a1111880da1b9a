# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS

from mmxvit.analysis.complexity import complexity
from mmxvit.engine.checks import check_channels
from mmxvit.models.attentions import FastWindowAttention
from tests.test_models.test_attentions.reference import fast_window_attention

pytest.importorskip('mmpretrain')


def build(arch='xx_small', fast=True, **kwargs):
    kind = 'mmxvit.FWAMobileViT' if fast else 'mmpretrain.MobileViT'
    kwargs.setdefault('out_indices', (1, 2, 3, 4))
    return MODELS.build(dict(type=kind, arch=arch, **kwargs))


def randomise(model):
    """No parameter at a value that hides it."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, FastWindowAttention):
            torch.nn.init.constant_(module.length_scale, 0.7)
    return model


def blocks_of(model):
    return [layer[-1] for layer in model.layers[2:]]


def attentions(model):
    return [m for m in model.modules() if isinstance(m, FastWindowAttention)]


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def attend(attn, x, fold, cache):
    def conv(module):
        return module.weight.flatten(1), module.bias

    return fast_window_attention(
        x, conv(attn.query_token), (attn.norm.weight, attn.norm.bias),
        conv(attn.key_value), attn.length_scale[0], attn.num_heads, 1, fold,
        attn.projection, attn.eps, cache)


def literal(block, x, fold, cache):
    """A MobileViT block, patch place by patch place."""
    y = block.local_rep(x)
    size = y.shape[2:]
    even = [s + s % 2 for s in size]
    if even != list(size):
        y = F.interpolate(y, even, mode='bilinear', align_corners=False)
    out = torch.zeros_like(y)
    *layers, norm = block.global_rep
    for image in range(len(y)):
        for row in range(2):
            for column in range(2):
                tokens = y[image, :, row::2, column::2].permute(1, 2, 0)
                merged = None
                for layer in layers:
                    attended, merged = attend(layer.attn, layer.ln1(tokens),
                                              fold,
                                              merged if cache else None)
                    tokens = tokens + attended
                    tokens = tokens + layer.ffn.layers(layer.ln2(tokens))
                out[image, :, row::2, column::2] = norm(tokens).permute(
                    2, 0, 1)
    if even != list(size):
        out = F.interpolate(out, size, mode='bilinear', align_corners=False)
    return block.conv_fusion(torch.cat((x, block.conv_proj(out)), 1))


@pytest.mark.parametrize('size', [(4, 6), (6, 4), (5, 6), (3, 9), (1, 1)])
@pytest.mark.parametrize('kwargs', [
    dict(),
    dict(cache=False),
    dict(projection='head'),
    dict(fold=(3, 1, 1)),
])
def test_block_equals_loops(size, kwargs):
    model = randomise(build(**kwargs)).double().eval()
    block = blocks_of(model)[0]
    x = torch.randn(2, 48, *size, dtype=torch.double)
    with torch.no_grad():
        expected = literal(block, x, kwargs.get('fold', (1, ))[0],
                           kwargs.get('cache', True))
        torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('arch, total, layers', [('small', 4_937_632, 9),
                                                 ('x_small', 1_932_848, 9)])
def test_three_parameters_more_in_each_layer(arch, total, layers):
    plain, model = build(arch, fast=False), build(arch)
    assert num_parameters(plain) == total
    assert len(attentions(model)) == layers
    assert num_parameters(model) == total + 3 * layers
    for attn in attentions(model):
        assert attn.num_heads == 4 and attn.projection == 'channel'


def test_projection_over_heads():
    model = build(projection='head')
    assert {num_parameters(a) for a in attentions(model)} == {83}


def test_fold_of_each_block():
    model = build(fold=(2, 3, 5))
    windows = [[layer.attn.window for layer in block.global_rep[:-1]]
               for block in blocks_of(model)]
    assert windows == [[2] * 2, [3] * 4, [5] * 3]
    assert [a.window for a in attentions(build())] == [1] * 2 + [2] * 4 + (
        [4] * 3)


def test_weights_of_mobilevit_fit_but_for_the_attention():
    plain, model = build(fast=False), build()
    missing, unexpected = model.load_state_dict(
        plain.state_dict(), strict=False)
    assert missing and unexpected
    assert all('.attn.' in key for key in [*missing, *unexpected])


def test_only_the_attention_differs_from_mobilevit():
    """Equal where attentions add nothing; so the rest is in place."""
    plain, model = build(fast=False), build().eval()
    plain.eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 72, 90)
    with torch.no_grad():
        assert any((a - b).norm() > 1e-3 * b.norm()
                   for a, b in zip(model(x), plain(x), strict=True))
        for attn in attentions(model):
            torch.nn.init.zeros_(attn.key_value.weight)
            torch.nn.init.zeros_(attn.key_value.bias)
        for block in blocks_of(plain):
            for layer in block.global_rep[:-1]:
                torch.nn.init.zeros_(layer.attn.proj.weight)
                torch.nn.init.zeros_(layer.attn.proj.bias)
        for a, b in zip(model(x), plain(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(32, 32), (97, 66), (64, 160)])
def test_any_size_and_images_are_independent(size):
    model = build().eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        outs = model(x)
        alone = model(x[1:])
    for out, one, stride in zip(outs, alone, (4, 8, 16, 32), strict=True):
        assert out.shape[2:] == tuple(-(-s // stride) for s in size)
        assert out.isfinite().all()
        torch.testing.assert_close(out[1:], one, rtol=1e-4, atol=1e-5)


def test_no_state_is_left_by_a_call():
    model = build().eval()
    first, other = torch.randn(1, 3, 64, 96), torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        before = model(first)
        model(other)
        after = model(first)
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize('cache', [True, False])
def test_every_parameter_gets_a_gradient(cache):
    model = randomise(build(cache=cache)).train()
    sum(out.square().sum() for out in model(torch.randn(2, 3, 64, 96))
        ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_train_and_eval_return_the_model():
    model = build(frozen_stages=3)
    assert model.train() is model and model.eval() is model
    model.train()
    assert not any(p.requires_grad for p in model.layers[2].parameters())
    assert all(p.requires_grad for p in model.layers[3].parameters())


def test_init_weights_leaves_the_length_scale():
    model = build()
    model.init_weights()
    assert all(attn.length_scale.item() == 0.5 for attn in attentions(model))
    assert all(p.isfinite().all() for p in model.parameters())


def test_work_is_counted():
    """Tokens by keys of width d, twice, in each layer; four groups."""
    counted = complexity(build('x_small', out_indices=(4, )), (3, 256, 256))
    expected = 0
    for stride, dims, layers, fold in ((8, 96, 2, 1), (16, 120, 4, 2),
                                       (32, 144, 3, 4)):
        side = 256 // stride
        keys = -(-side // 2 // fold)
        expected += 2 * side**2 * keys * dims * layers
    assert counted.nominal['attention'] == expected
    assert counted.executed <= counted.full


@pytest.mark.parametrize('kwargs, message', [
    (dict(fold=(1, 2)), 'fold'),
    (dict(fold=(1, 0, 1)), 'fold'),
    (dict(projection='token'), "'head' or 'channel'"),
])
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_channels_of_a_neck_are_left_to_the_user():
    """As with all backbones that are not of this package's base class."""
    check_channels(
        Config(
            dict(
                default_scope='mmdet',
                model=dict(
                    backbone=dict(type='mmxvit.FWAMobileViT', arch='x_small'),
                    neck=dict(type='FPN', in_channels=[1, 2])))))
