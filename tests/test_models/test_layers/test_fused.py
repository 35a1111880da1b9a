# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

from mmxvit.models.attentions.linear import Linear
from mmxvit.models.layers import (
    FFN,
    ConvNormAct,
    GhostBlock,
    InvertedResidual,
    build_act,
    layer_act,
)

FUSED = 'mkldnn::_convolution_pointwise'


def operators(function):
    """Result of a function and the operators that ran."""
    with torch.profiler.profile() as profile:
        out = function()
    return out, {event.name for event in profile.events()}


@pytest.mark.parametrize('act', [
    nn.Identity(),
    build_act(dict(type='ReLU', inplace=True)),
    build_act(dict(type='SiLU')),
    build_act(dict(type='GELU')),
])
@pytest.mark.parametrize('layer, shape', [
    (nn.Conv2d(6, 8, 3, 2, 1), (2, 6, 9, 7)),
    (nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8, bias=False),
     (1, 8, 11, 12)),
    (Linear(256, 512), (2, 32, 17, 256)),
])
def test_layer_and_activation(layer, shape, act):
    x = torch.randn(shape)
    expected = act(layer(x))
    with torch.no_grad():
        out, names = operators(lambda: layer_act(layer, act, x))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert FUSED in names


def test_where_it_cannot_run():
    """With autograd, hooks, other types and other activations."""
    x = torch.randn(1, 4, 6, 6)
    relu, conv = nn.ReLU(), nn.Conv2d(4, 4, 3)

    def runs(act=relu, conv=conv, x=x):
        out, names = operators(lambda: layer_act(conv, act, x))
        torch.testing.assert_close(out, act(conv(x)))
        return FUSED in names

    assert not runs()
    with torch.no_grad():
        assert runs()
        assert not runs(nn.GELU(approximate='tanh'))
        assert not runs(nn.Tanh())
        assert not runs(conv=nn.Conv2d(4, 4, 3).double(), x=x.double())
        with torch.autocast('cpu', torch.bfloat16):
            assert not runs()
        with torch.backends.mkldnn.flags(enabled=False):
            assert not runs()
        for module in (conv, relu):
            seen = []
            handle = module.register_forward_hook(
                lambda *args, seen=seen: seen.append(args[2]))
            layer_act(conv, relu, x)
            assert len(seen) == 1
            handle.remove()


def test_ffn_is_its_layers():
    layers = [nn.LayerNorm(6), Linear(6, 12), nn.GELU(), Linear(12, 6)]
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(FFN(*layers)(x), nn.Sequential(*layers)(x))


def test_folded_block_without_autograd():
    layer = ConvNormAct(4, 8, 3, act_cfg=dict(type='SiLU')).eval()
    nn.init.normal_(layer.norm.running_mean)
    nn.init.uniform_(layer.norm.running_var, .5, 2)
    x = torch.randn(2, 4, 9, 7)
    expected = layer(x)
    with torch.no_grad():
        out, names = operators(lambda: layer(x))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert FUSED in names


@pytest.mark.parametrize('block', [
    InvertedResidual(4, 4, 1, 2, 2, dict(type='BN'), dict(type='SiLU')),
    GhostBlock(4, 6, 2, True, dict(type='BN'), dict(type='ReLU')),
])
def test_gate_of_one_image_goes_into_weights(block):
    block.eval()
    x = torch.randn(2, 4, 8, 9)
    gates = []
    block.se.expand.register_forward_hook(
        lambda module, args, out: gates.append(out))
    with torch.no_grad():
        both = block(x)
        for i in range(2):
            torch.testing.assert_close(
                block(x[i:i + 1]), both[i:i + 1], rtol=1e-5, atol=1e-5)
    assert (gates[1] - gates[2]).abs().max() > 0
    # a hook sees the map behind the gate
    seen = []
    block.se.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        block(x[:1])
    assert len(seen) == 1


def test_flops_are_counted_without_autograd():
    layer = ConvNormAct(4, 8, 3, act_cfg=dict(type='SiLU')).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 4, 9, 7))
    assert counter.get_total_flops() == 2 * 8 * 4 * 9 * 63
