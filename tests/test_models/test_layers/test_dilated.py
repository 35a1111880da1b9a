# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Dilated depthwise convolutions against torch's own."""
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mmxvit.models.attentions import (
    RecursiveAtrousSelfAttention,
    recursive_atrous,
)
from mmxvit.models.layers.dilated import dilated_depthwise, trains_dilated

CHANNELS = 4


def inputs(height, width, dtype=torch.double):
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, height, width, dtype=dtype).contiguous(
        memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, 1, 3, 3, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize('dilation', [1, 2, 3, 5])
@pytest.mark.parametrize('size', [(1, 1), (3, 4), (6, 6), (7, 11), (15, 10)])
def test_gradients_are_those_of_torch(size, dilation):
    x, weight = inputs(*size)
    out = dilated_depthwise(x, weight, dilation)
    expected = F.conv2d(x, weight, None, 1, dilation, dilation, CHANNELS)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    for actual, wanted in zip(
            torch.autograd.grad(out, (x, weight), grad),
            torch.autograd.grad(expected, (x, weight), grad), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_gradients_of_gradients():
    x, weight = inputs(4, 5)
    for function in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert function(lambda x, w: dilated_depthwise(x, w, 3), (x, weight))


def test_many_gradients_at_once():
    x, weight = inputs(7, 5)
    out = dilated_depthwise(x, weight, 3)
    grads = torch.randn(4, *out.shape, dtype=out.dtype)
    batched = torch.autograd.grad(
        out, (x, weight), grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        single = torch.autograd.grad(
            out, (x, weight), grad, retain_graph=True)
        for many, one in zip(batched, single, strict=True):
            torch.testing.assert_close(many[i], one)


def test_backward_under_autocast_is_as_exact():
    x, weight = inputs(6, 6, torch.float)
    out = dilated_depthwise(x, weight, 3)
    expected = torch.autograd.grad(
        out.square().sum(), (x, weight), retain_graph=True)
    with torch.autocast('cpu', torch.bfloat16):
        grads = torch.autograd.grad(out.square().sum(), (x, weight))
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted)


# A map for which oneDNN's own gradient, in bfloat16, depends on what is in its
# scratch memory; glibc fills that when it is told to.
IN_BFLOAT16 = '''
import sys
import torch
from mmxvit.models.attentions import RecursiveAtrousSelfAttention

torch.manual_seed(0)
attn = RecursiveAtrousSelfAttention(32, 1, reduction=8)
x = torch.randn(2, 32, 32, 32).contiguous(memory_format=torch.channels_last)
grads = []
for enabled in (False, True, True):
    attn.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
        out = attn(x)
    out.float().square().mean().backward()
    grads.append(attn.q_conv.weight.grad.clone())
torch.save(grads, sys.argv[1])
'''


def test_gradients_in_bfloat16_come_from_the_map():
    for name, fill in (('plain', {}), ('filled', dict(MALLOC_PERTURB_='1'))):
        subprocess.run([sys.executable, '-c', IN_BFLOAT16, name], check=True,
                       env={**os.environ, **fill, 'OMP_NUM_THREADS': '1'})
    exact, *grads = torch.load('plain', weights_only=True)
    for grad in (*grads, *torch.load('filled', weights_only=True)[1:]):
        torch.testing.assert_close(grad, exact, rtol=0.1,
                                   atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize('frozen', [0, 1])
def test_only_what_is_asked_for(frozen):
    pair = inputs(6, 6)
    pair[frozen].requires_grad_(False)
    dilated_depthwise(*pair, 3).sum().backward()
    assert pair[frozen].grad is None
    assert pair[1 - frozen].grad.abs().sum() > 0


def test_when_it_runs():
    x, weight = inputs(6, 6, torch.float)
    assert trains_dilated(x, weight)
    assert trains_dilated(x.detach(), weight)
    assert not trains_dilated(x.detach(), weight.detach())
    assert not trains_dilated(x.double(), weight.double())
    with torch.no_grad():
        assert not trains_dilated(x, weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert trains_dilated(x, weight)
        assert trains_dilated(x.bfloat16(), weight)
    seen = []

    def loss(x):
        seen.append(trains_dilated(x, weight))
        return x.sum()

    torch.func.grad(loss)(x)
    torch.jit.trace(loss, x)
    assert not any(seen) and len(seen) >= 2


@pytest.mark.parametrize('frozen', [False, True])
def test_attention_trains_with_it_as_without(frozen, monkeypatch):
    torch.manual_seed(0)
    attn = RecursiveAtrousSelfAttention(16, 2, 2)
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    attn.q_conv.weight.requires_grad_(not frozen)
    x = torch.randn(2, 16, 9, 12)
    runs = []

    def record(*args):
        runs.append(args[2])
        return dilated_depthwise(*args)

    monkeypatch.setattr(recursive_atrous, 'dilated_depthwise', record)
    wanted = [p for p in attn.parameters() if p.requires_grad]
    grads = torch.autograd.grad(attn(x).square().sum(), wanted)
    assert runs == [3, 5, 3, 5]  # in two passes
    monkeypatch.setattr(recursive_atrous, 'trains_dilated', lambda *_: False)
    expected = torch.autograd.grad(attn(x).square().sum(), wanted)
    assert len(runs) == 4
    for actual, grad in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual, grad, rtol=1e-4, atol=1e-4)
