# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from collections import namedtuple
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn import functional as F

from mmxvit.engine import CPUAmpOptimWrapper

ROOT = Path(__file__).parents[2]


def wrapper(model, **more):
    return OPTIM_WRAPPERS.build(
        dict(
            type='mmxvit.CPUAmpOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
            **more))


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8 * 36, 4))


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 8, 8)


def test_bfloat16_inside_float32_outside(model, inputs):
    optim = wrapper(model)
    assert isinstance(optim, CPUAmpOptimWrapper)
    with optim.optim_context(model):
        assert model(inputs).dtype == torch.bfloat16
        with torch.no_grad():
            assert model(inputs).dtype == torch.bfloat16
    assert model(inputs).dtype == torch.float32


def test_a_step_is_nearly_that_of_float32(model, inputs):
    """Gradients are those of the loss itself, and float32."""
    optim = wrapper(model)
    model(inputs).square().mean().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    optim.zero_grad()
    with optim.optim_context(model):
        loss = model(inputs).float().square().mean()
    optim.update_params(loss)
    for old, new, grad in zip(before, model.parameters(), wanted,
                              strict=True):
        assert new.dtype == torch.float32
        moved = (old - new.detach()) / 0.5
        if grad.abs().max() > 1e-6:  # a bias before BatchNorm has none
            error = (moved - grad).norm() / grad.norm()
            assert 1e-4 < error < 0.03


def test_batches_are_accumulated(model, inputs):
    optim = wrapper(model, accumulative_counts=2)
    before = model[0].weight.detach().clone()
    for moves in (False, True):
        with optim.optim_context(model):
            loss = model(inputs).float().square().mean()
        optim.update_params(loss)
        assert torch.equal(model[0].weight, before) != moves


Found = namedtuple('Found', 'maps nothing others')


class BoxHead(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 5, 1)
        self.seen = None

    def forward(self, maps):
        outs = [self.conv(m) for m in maps]
        self.seen = outs[0].dtype
        return Found(outs, None, dict(index=outs[0].argmax(1), raw=outs[0]))


def test_heads_put_out_float32():
    """Losses and mmcv's NMS, which has no bfloat16 on CPUs, come behind."""
    model = nn.ModuleDict(dict(conv=nn.Conv2d(3, 8, 1), head=BoxHead()))
    optim = wrapper(model)
    for _ in range(2):
        with optim.optim_context(model):
            maps = model.conv(torch.rand(1, 3, 4, 4))
            found = model.head([maps])
        (out, ), nothing, others = found
        assert isinstance(found, Found) and nothing is None
        assert maps.dtype == model.head.seen == torch.bfloat16
        assert out.dtype == others['raw'].dtype == torch.float32
        assert others['index'].dtype == torch.int64
        out.sum().backward()
        # as in two models that take turns, or a head that was replaced
        with optim.optim_context(nn.Identity()):
            pass
    assert len(model.head._forward_hooks) == 1


def test_deformable_convolutions_get_float32():
    ops = pytest.importorskip('mmcv.ops')
    for kind in (ops.ModulatedDeformConv2dPack, ops.DeformConv2dPack):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1), kind(8, 4, kernel_size=3, padding=1))
        image = torch.rand(1, 3, 16, 16)
        with wrapper(model).optim_context(model):
            maps = model[0](image)
            out = model[1](maps)
        assert maps.dtype == torch.bfloat16
        torch.testing.assert_close(out, model[1](maps.float()))
        out.sum().backward()
        assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('copied', [False, True])
@pytest.mark.parametrize('kernel, dilation, exact', [
    (3, 2, True), (3, 5, True), (5, 1, True), (7, 1, True), (3, 1, False)])
def test_depthwise_convolutions_run_in_float32_where_that_is_faster(
        kernel, dilation, exact, copied):
    """Their gradients as well: oneDNN's in bfloat16 are wrong with dilation.
    The maps between layers stay bfloat16, those of EMA are copied."""
    conv = nn.Conv2d(
        8, 8, kernel, padding=dilation * (kernel // 2), dilation=dilation,
        groups=8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), conv)
    image = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    maps = torch.rand(2, 8, 32, 32).bfloat16()
    maps = maps.to(memory_format=torch.channels_last)
    for _ in range(2):
        with wrapper(model).optim_context(model):
            assert model(image).dtype == torch.bfloat16
            if copied:
                conv = deepcopy(conv)
                nn.init.normal_(conv.weight)
            out = conv(maps)
            grad, = torch.autograd.grad(
                out.float().square().sum(), conv.weight)
    weight = conv.weight.detach().requires_grad_()
    wanted = F.conv2d(
        maps.float(), weight, conv.bias, 1, conv.padding, dilation, 8)
    assert torch.equal(out, wanted.bfloat16()) == exact
    assert conv(maps.float()).dtype == torch.float32
    wanted.backward(2 * out.float())
    close = torch.isclose(
        grad, weight.grad, rtol=1e-4, atol=1e-4 * grad.abs().max().item())
    assert close.all() == exact


ON_SMALL_MAPS = '''
import sys
import torch
from torch import nn
from tests.test_engine.test_cpu_amp import wrapper

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(16, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 2, 1),
    nn.Conv2d(32, 256, 3, 2, 1), nn.Conv2d(256, 256, 5, 1, 2),
    nn.Conv2d(256, 8, 3, 1, 6, dilation=6))
image = torch.rand(2, 16, 2, 2)
outs = [model(image)]
with wrapper(model).optim_context(model):
    outs.append(model(image))
grads = [torch.autograd.grad(out.float().square().sum(), model.parameters())
         for out in outs]
torch.save(grads, sys.argv[1])
'''


@pytest.mark.parametrize('fill', ['1', '255'])
def test_weights_that_see_only_padding_get_no_gradient(fill):
    """oneDNN leaves it unwritten; glibc fills new memory with a value."""
    subprocess.run(
        [sys.executable, '-c', ON_SMALL_MAPS, 'grads'], check=True,
        env={**os.environ, 'MALLOC_PERTURB_': fill, 'OMP_NUM_THREADS': '1',
             'PYTHONPATH': str(ROOT)})
    exact, found = torch.load('grads', weights_only=True)
    for a, b in zip(exact, found, strict=True):
        torch.testing.assert_close(
            b, a, rtol=0.1, atol=0.03 * a.abs().max().item())
    # of the convolution with stride 2 that is given one pixel
    assert (found[4][:, :, 0] == 0).all() and found[4][:, :, 1, 1].any()


def test_padding_goes_back_into_convolutions_of_larger_maps():
    model = nn.Conv2d(3, 4, 5, padding=2)
    for size, mode in ((3, 'zeros'), (2, 'constant'), (3, 'zeros')):
        image = torch.rand(1, 3, size, size)
        with wrapper(model).optim_context(model):
            out = model(image)
        assert model.padding_mode == mode and len(
            model._forward_pre_hooks) == 1
        torch.testing.assert_close(
            out.float(), model(image), rtol=0.05, atol=0.02)


class SeenLoss(nn.Module):
    loss_name = 'loss_seen'

    def forward(self, logits, *args, **kwargs):
        self.seen = logits.dtype
        return logits.sum()


def test_losses_of_segmentors_get_float32():
    """mmseg calls forward() of its heads, past all hooks."""
    pytest.importorskip('mmseg.models')
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(type='mmxvit.LOLViT', arch='s'),
                decode_head=dict(
                    type='FCNHead', in_channels=128, in_index=3, channels=8,
                    num_classes=3, norm_cfg=dict(type='BN')),
                train_cfg=dict(), test_cfg=dict(mode='whole')))
    loss = model.decode_head.loss_decode = SeenLoss()
    sample = SegDataSample(gt_sem_seg=PixelData(
        data=torch.zeros(1, 64, 64, dtype=torch.long)))
    optim = wrapper(model)
    with optim.optim_context(model):
        model(torch.rand(2, 3, 64, 64), [sample] * 2, mode='loss')
        assert model.decode_head.conv_seg(
            torch.rand(1, 8, 4, 4)).dtype == torch.bfloat16
    assert loss.seen == torch.float32


def test_regions_are_cut_out_in_float32():
    """mmcv's RoIAlign has no bfloat16, and boxes would be rounded to it."""
    extractors = pytest.importorskip('mmdet.models.roi_heads.roi_extractors')
    extractor = extractors.SingleRoIExtractor(
        dict(type='RoIAlign', output_size=2), out_channels=8,
        featmap_strides=[4])
    model = nn.ModuleDict(
        dict(conv=nn.Conv2d(3, 8, 1), roi_extractor=extractor))
    image = torch.rand(1, 3, 64, 64)
    rois = torch.tensor([[0, 100.3, 30.7, 150.6, 90.2]])
    optim = wrapper(model)
    for _ in range(2):  # the same in every step
        with optim.optim_context(model):
            maps = model.conv(image)
            assert maps.dtype == torch.bfloat16
            out = model.roi_extractor((maps, ), rois)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, extractor((maps.float(), ), rois))
    hooks = extractor._forward_pre_hooks
    assert len(hooks) == 1
