# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn.functional as F

from mmxvit.models.attentions import linear as module
from mmxvit.models.attentions.linear import Linear, PointwiseConv


@pytest.fixture(params=['convolution', 'product'])
def kernel(request, monkeypatch):
    """Both kernels, whatever the size."""
    macs = 0 if request.param == 'convolution' else float('inf')
    monkeypatch.setattr(module, 'CONV_MACS', macs)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)


def assert_same(layer, x, expected):
    out = layer(x)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *layer.parameters()]
    weights = torch.randn_like(out)
    for grad, expected_grad in zip(
            torch.autograd.grad((out * weights).sum(), inputs),
            torch.autograd.grad((expected * weights).sum(), inputs),
            strict=True):
        torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(5, 6), (2, 5, 6), (2, 3, 4, 6)])
def test_linear_is_torchs(kernel, shape, bias):
    layer = Linear(6, 4, bias=bias).double()
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    assert_same(layer, x, F.linear(x, layer.weight, layer.bias))
    views = torch.randn(*shape[:-1], 12).double()[..., ::2].requires_grad_()
    assert_same(layer, views, F.linear(views, layer.weight, layer.bias))


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('layout',
                         [torch.contiguous_format, torch.channels_last])
def test_pointwise_is_torchs_convolution(kernel, layout, bias):
    layer = PointwiseConv(6, 4, bias=bias).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.double).contiguous(
        memory_format=layout).requires_grad_()
    assert_same(layer, x, F.conv2d(x, layer.weight, layer.bias))
    last = x.contiguous(memory_format=torch.channels_last)
    assert layer(last).is_contiguous(memory_format=torch.channels_last)


def test_large_products_run_as_convolutions(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    layer = Linear(64, 64)
    few, many = torch.randn(100, 64), torch.randn(1, 256, 128, 64)
    with torch.profiler.profile() as profile:
        layer(few)
    names = [event.name for event in profile.events()]
    assert 'aten::addmm' in names and 'aten::conv2d' not in names
    with torch.profiler.profile() as profile:
        layer(many)
    assert 'aten::conv2d' in [event.name for event in profile.events()]
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    with torch.profiler.profile() as profile:
        layer(many)
    assert 'aten::addmm' in [event.name for event in profile.events()]
