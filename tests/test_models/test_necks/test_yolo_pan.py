# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS

from mmxvit.models.necks.yolo_pan import C2f


def build(in_channels=(4, 6, 8), out_channels=(8, 10, 12), **kwargs):
    return MODELS.build(
        dict(
            type='mmxvit.YOLOPAN',
            in_channels=in_channels,
            out_channels=out_channels,
            **kwargs))


def maps(channels, height, width, batch=2, dtype=torch.float):
    """Each half as large as the one before, rounded up."""
    out = []
    for c in channels:
        out.append(torch.randn(batch, c, height, width, dtype=dtype))
        height, width = (height + 1) // 2, (width + 1) // 2
    return tuple(out)


@pytest.mark.parametrize('size', [(16, 24), (13, 9), (5, 5), (1, 1), (2, 7)])
@pytest.mark.parametrize('levels', [2, 3, 4])
def test_any_size_and_number_of_maps(size, levels):
    inputs = maps((4, 6, 8, 10)[:levels], *size)
    outs = (8, 10, 12, 14)[:levels]
    neck = build([x.shape[1] for x in inputs], outs)
    neck.train()
    results = neck(inputs)
    assert isinstance(results, tuple)
    for x, out, channels in zip(inputs, results, outs, strict=True):
        assert out.shape == (2, channels, *x.shape[2:])
    sum(out.square().sum() for out in results).backward()
    assert all(p.grad is not None for p in neck.parameters())


def conv(channels_in, channels_out, kernel=1):
    """Weights and both parameters of the norm."""
    return channels_in * channels_out * kernel**2 + 2 * channels_out


def c2f(channels_in, channels_out, blocks):
    half = channels_out // 2
    return (conv(channels_in, channels_out) +
            2 * blocks * conv(half, half, 3) +
            conv((2 + blocks) * half, channels_out))


@pytest.mark.parametrize('blocks', [0, 1, 3])
def test_parameters(blocks):
    neck = build(num_blocks=blocks)
    expected = (
        c2f(8 + 6, 10, blocks) + c2f(10 + 4, 8, blocks)  # top-down
        + conv(8, 8, 3) + c2f(8 + 10, 10, blocks)
        + conv(10, 10, 3) + c2f(10 + 8, 12, blocks))
    assert sum(p.numel() for p in neck.parameters()) == expected


def test_c2f_equals_its_description():
    block = C2f(6, 8, 2, dict(type='BN'), dict(type='SiLU'))
    block.eval()
    x = torch.randn(2, 6, 5, 7)
    kept, y = block.split(x)[:, :4], block.split(x)[:, 4:]
    first = block.blocks[0](y)
    second = block.blocks[1](first)
    torch.testing.assert_close(
        block(x), block.join(torch.cat((kept, y, first, second), 1)))


def test_paths_equal_their_description():
    neck = build().double()
    neck.eval()
    fine, middle, coarse = inputs = maps((4, 6, 8), 4, 8, dtype=torch.double)

    def enlarge(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    inner = neck.top_down[1](torch.cat((enlarge(coarse), middle), 1))
    out0 = neck.top_down[0](torch.cat((enlarge(inner), fine), 1))
    out1 = neck.bottom_up[0](torch.cat((neck.downsample[0](out0), inner), 1))
    out2 = neck.bottom_up[1](torch.cat((neck.downsample[1](out1), coarse), 1))
    for out, expected in zip(neck(inputs), (out0, out1, out2), strict=True):
        torch.testing.assert_close(out, expected)


def test_inputs_stay_as_they_are():
    neck = build()
    inputs = list(maps((4, 6, 8), 8, 8))
    before = [x.clone() for x in inputs]
    neck(inputs)
    for x, old in zip(inputs, before, strict=True):
        assert torch.equal(x, old)


def test_traced_at_another_size():
    neck = build()
    neck.eval()
    traced = torch.jit.trace(neck, (maps((4, 6, 8), 16, 16), ))
    inputs = maps((4, 6, 8), 13, 21, batch=1)
    for out, expected in zip(traced(inputs), neck(inputs), strict=True):
        torch.testing.assert_close(out, expected)


def test_norm_and_activation():
    neck = build(
        norm_cfg=dict(type='GN', num_groups=1), act_cfg=dict(type='ReLU'))
    kinds = {type(m) for m in neck.modules()}
    assert {nn.GroupNorm, nn.ReLU} <= kinds
    assert not {nn.BatchNorm2d, nn.SiLU} & kinds


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_channels=(8, 10)), 'same length'),
    (dict(in_channels=(8, ), out_channels=(8, )), 'two or more'),
    (dict(out_channels=(8, 11, 12)), 'out_channels=11 must be even'),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)
