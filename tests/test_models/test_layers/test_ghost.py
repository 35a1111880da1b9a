# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn

from mmxvit.models.layers import GhostBlock, GhostConv, SqueezeExcite

RELU = dict(type='ReLU')
BN = dict(type='BN')


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_half_is_primary_and_half_cheap():
    layer = GhostConv(6, 8, BN, RELU).double().eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(2, 6, 5, 7, dtype=torch.double)
    out = layer(x)
    assert out.shape == (2, 8, 5, 7)
    weight = layer.primary.conv.weight[:, :, 0, 0]
    primary = layer.primary.norm(torch.einsum('oi,bihw->bohw', weight,
                                              x)).relu()
    torch.testing.assert_close(out[:, :4], primary)
    # one output of the cheap operation by hand: its own channel, 5 x 5
    for channel in range(4):
        kernel = layer.cheap.conv.weight[channel, 0]
        place = torch.zeros(2, 4, 1, 1, dtype=torch.double)
        place[:, channel, 0, 0] = (primary[:, channel, :, 1:6] *
                                   kernel).sum((1, 2))
        expected = layer.cheap.norm(place)[:, channel, 0, 0].relu()
        torch.testing.assert_close(out[:, 4 + channel, 2, 3], expected)


def test_no_activation_without_act_cfg():
    assert (GhostConv(6, 8, BN)(torch.randn(4, 6, 8, 8)) < 0).any()
    assert not (GhostConv(6, 8, BN, RELU)(torch.randn(4, 6, 8, 8)) < 0).any()


@pytest.mark.parametrize('in_channels, out_channels, stride, with_se, count', [
    (16, 32, 1, False, 2_448),  # rows of Table 16
    (32, 48, 2, False, 6_872),
    (48, 48, 1, False, 6_696),
    (48, 64, 2, True, 17_208),
])
def test_count_and_shape(in_channels, out_channels, stride, with_se, count):
    block = GhostBlock(in_channels, out_channels, stride, with_se, BN, RELU)
    assert num_parameters(block) == count
    assert any(isinstance(m, SqueezeExcite)
               for m in block.modules()) is with_se
    out = block(torch.randn(2, in_channels, 9, 6))
    assert out.shape == (2, out_channels, -(-9 // stride), -(-6 // stride))


@pytest.mark.parametrize('out_channels, stride, is_identity', [
    (8, 1, True),
    (8, 2, False),
    (12, 1, False),
])
def test_shortcut(out_channels, stride, is_identity):
    block = GhostBlock(8, out_channels, stride, False, BN, RELU).eval()
    nn.init.zeros_(block.project.primary.conv.weight)  # leaves the shortcut
    x = torch.randn(1, 8, 7, 6)
    if is_identity:
        torch.testing.assert_close(block(x), x)
        return
    depthwise, pointwise = block.shortcut
    expected = pointwise.conv(depthwise.conv(x)) / (1 + 1e-5)
    torch.testing.assert_close(block(x), expected)
    assert depthwise.conv.groups == 8


def test_block_step_by_step():
    block = GhostBlock(8, 12, 2, True, BN, RELU).double().eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    x = torch.randn(1, 8, 7, 6, dtype=torch.double)
    y = block.expand(x)
    assert y.shape[1] == 16 and (y >= 0).all()
    y = block.depthwise.norm(block.depthwise.conv(y))
    gate = block.se.reduce(y.mean((2, 3), keepdim=True)).relu()
    y = y * block.se.expand(gate).sigmoid()
    primary = block.project.primary.norm(block.project.primary.conv(y))
    cheap = block.project.cheap.norm(block.project.cheap.conv(primary))
    expected = torch.cat((primary, cheap), 1) + block.shortcut(x)
    torch.testing.assert_close(block(x), expected)


def test_odd_width():
    with pytest.raises(ValueError, match='out_channels=7 must be even'):
        GhostConv(4, 7)
