# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn

from mmxvit.models.layers import (
    ConvNormAct,
    DropPath,
    InvertedResidual,
    SqueezeExcite,
    build_act,
    build_norm,
)

SILU = dict(type='SiLU')
BN = dict(type='BN')


def with_statistics(layer):
    """Float64, with running statistics of their own in each BatchNorm."""
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return layer.double()


@pytest.mark.parametrize('kwargs', [
    dict(kernel_size=1),
    dict(kernel_size=3, stride=2, groups=4),
    dict(kernel_size=3, norm_cfg=dict(type='BN', affine=False)),
    dict(kernel_size=5, norm_cfg=dict(type='SyncBN', eps=1e-3)),
])
def test_folding_equals_convolution_then_norm(kwargs):
    layer = with_statistics(ConvNormAct(4, 8, act_cfg=SILU, **kwargs)).eval()
    x = torch.randn(2, 4, 9, 7, dtype=torch.double, requires_grad=True)
    folded = layer(x)
    # a hook on either step makes both of them run
    seen = []
    layer.norm.register_forward_hook(lambda *args: seen.append(args[2]))
    steps = layer(x)
    assert len(seen) == 1
    torch.testing.assert_close(folded, steps, rtol=1e-10, atol=1e-12)
    inputs = [x, *layer.parameters()]
    for a, b in zip(
            torch.autograd.grad(folded.sum(), inputs),
            torch.autograd.grad(steps.sum(), inputs),
            strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_folding_follows_the_weights():
    layer = with_statistics(ConvNormAct(3, 4)).eval()
    x = torch.randn(1, 3, 5, 5, dtype=torch.double)
    before = layer(x)
    with torch.no_grad():
        layer.norm.weight.mul_(2)
        layer.norm.bias.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)


def test_statistics_of_the_batch_are_used_in_training():
    layer = ConvNormAct(3, 4).double()
    out = layer(torch.randn(4, 3, 8, 8, dtype=torch.double) * 5 + 3)
    torch.testing.assert_close(
        out.mean((0, 2, 3)), torch.zeros(4, dtype=torch.double))
    assert layer.norm.num_batches_tracked == 1


def test_squeeze_excite_is_a_gate_from_the_mean():
    layer = SqueezeExcite(6, 2, SILU).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.double)
    gates = []
    for sample in x:
        mean = [sum(channel.flatten()) / 15 for channel in sample]
        hidden = layer.reduce.weight[:, :, 0, 0] @ torch.stack(mean)
        hidden = hidden + layer.reduce.bias
        hidden = hidden * torch.sigmoid(hidden)
        gate = layer.expand.weight[:, :, 0, 0] @ hidden + layer.expand.bias
        gates.append(torch.sigmoid(gate)[:, None, None])
    torch.testing.assert_close(layer(x), x * torch.stack(gates))


@pytest.mark.parametrize('stride, out_channels, adds', [(1, 8, True),
                                                        (2, 8, False),
                                                        (1, 12, False)])
def test_inverted_residual(stride, out_channels, adds):
    block = InvertedResidual(8, out_channels, stride, 4, 2, BN, SILU)
    block.eval()
    x = torch.randn(1, 8, 7, 6)
    nn.init.zeros_(block.project.conv.weight)  # leaves the identity, if any
    expected = x if adds else torch.zeros(1, out_channels, -(-7 // stride),
                                          -(-6 // stride))
    torch.testing.assert_close(block(x), expected)


def test_drop_path_keeps_the_mean():
    drop = DropPath(0.25)
    x = torch.ones(20000, 1, 2)
    out = drop(x)
    kept = out[:, 0, 0] != 0
    assert 0.73 < kept.float().mean() < 0.77
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 4 / 3))
    assert (out[~kept] == 0).all()
    assert drop.eval()(x) is x


@pytest.mark.parametrize('cfg, kind', [
    (dict(type='BN'), nn.BatchNorm2d),
    (dict(type='SyncBN'), nn.SyncBatchNorm),
    (dict(type='GN', num_groups=2), nn.GroupNorm),
    (dict(type='IN'), nn.InstanceNorm2d),
])
def test_build_norm(cfg, kind):
    norm = build_norm(dict(cfg, eps=0.25), 8)
    assert type(norm) is kind and norm.eps == 0.25
    frozen = build_norm(dict(cfg, requires_grad=False), 8)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match="norm_cfg.*'Nope'.*BN, BN2d"):
        build_norm(dict(type='Nope'), 4)
    with pytest.raises(ValueError, match="act_cfg.*'Nope'"):
        build_act(dict(type='Nope'))
    assert build_act(dict(type='LeakyReLU', negative_slope=.3)
                     ).negative_slope == .3


@pytest.mark.parametrize('name', ['GELU', 'SiLU'])
def test_activations_write_over_their_input_without_autograd_only(name):
    act, plain = build_act(dict(type=name)), getattr(torch.nn, name)()
    assert isinstance(act, type(plain))
    x = torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    expected = plain(x)
    before = x.clone().requires_grad_()
    assert torch.equal(act(before), expected) and torch.equal(before, x)
    with torch.inference_mode():
        same = x.clone()
        assert torch.equal(act(same), expected) and torch.equal(same, expected)
    with torch.no_grad():
        traced = torch.jit.trace(act, x.clone())
        assert torch.equal(traced(x), expected) and not torch.equal(
            x, expected)


def test_tanh_gelu_stays_tanh():
    act = build_act(dict(type='GELU', approximate='tanh'))
    x = torch.randn(100)
    expected = torch.nn.functional.gelu(x, approximate='tanh')
    with torch.no_grad():
        assert torch.equal(act(x.clone()), expected)
