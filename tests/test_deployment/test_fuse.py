# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import copy
import subprocess
import sys
from collections import Counter

import pytest
import torch
import torch.nn as nn
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch.nn.utils import parametrize

import mmxvit
from mmxvit.analysis.models import build_model, model_of_config, run_model
from mmxvit.engine.command import load_config
from mmxvit.models.layers import ConvNormAct
from mmxvit.utils.compat import conv_pointwise

from ..shipped import ROOT
from .trained import as_if_trained, norms


def tensors(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [t for o in outputs for t in tensors(o)]


@torch.no_grad()
def check(model, left=0, size=(97, 130), tolerance=1e-5):
    """Fuse a model; outputs equal, the model untouched, ``left`` norms."""
    state = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, *size)
    before = tensors(run_model(model, images))
    fused = mmxvit.fuse(model)
    after = tensors(run_model(fused, images))
    assert len(norms(fused)) == left
    for a, b in zip(after, before, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    for a, b in zip(tensors(run_model(model, images)), before, strict=True):
        assert torch.equal(a, b)
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in fused.parameters()}
    return fused


@pytest.mark.parametrize('norm_cfg', [
    dict(type='BN'), dict(type='SyncBN'), dict(type='BN', eps=1e-3),
    dict(type='BN', affine=False)
], ids=['BN', 'SyncBN', 'eps', 'plain'])
@pytest.mark.parametrize('family, count', [
    ('XFormer', 31), ('FcaFormer', 19), ('CabViT', 19), ('LOLViT', 70),
    ('LVT', 0)
])
def test_every_family(family, count, norm_cfg):
    model = as_if_trained(MODELS.build(
        dict(type=f'mmxvit.{family}', norm_cfg=norm_cfg)))
    assert len(norms(model)) == count
    check(model)


@pytest.mark.parametrize('size', [224, 384])
def test_runs_as_before_without_the_folding(size):
    """Parts, gates and matrix products stay what they were."""

    @torch.inference_mode()
    def calls(model, images):
        with torch.profiler.profile() as profile:
            outputs = model(images)
        return outputs, Counter(e.name for e in profile.events())

    model = as_if_trained(MODELS.build(dict(type='mmxvit.LOLViT')))
    images = torch.randn(1, 3, size, size)
    before, plain = calls(model, images)
    after, fused = calls(mmxvit.fuse(model), images)
    for a, b in zip(after, before, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert plain['aten::linear'] > 10  # 6 without products of small maps
    if conv_pointwise is not None:
        assert plain['mkldnn::_convolution_pointwise_'] > 0
    for name in ('aten::cat', 'aten::linear', 'mkldnn::_convolution_pointwise',
                 'mkldnn::_convolution_pointwise_'):
        assert fused[name] == plain[name], name
    assert fused['aten::rsqrt'] == 0 < plain['aten::rsqrt']
    assert fused['aten::mul'] < plain['aten::mul']


def test_group_norms_stay():
    model = MODELS.build(dict(
        type='mmxvit.LOLViT', norm_cfg=dict(type='GN', num_groups=1))).eval()
    fused = check(model)
    groups = [sum(isinstance(m, nn.GroupNorm) for m in x.modules())
              for x in (model, fused)]
    assert groups[0] == groups[1] > 0


def test_reverted_sync_batch_norm():
    model = MODELS.build(dict(
        type='mmxvit.XFormer', norm_cfg=dict(type='SyncBN')))
    check(as_if_trained(revert_sync_batchnorm(model)))


def test_training_mode_is_refused():
    model = MODELS.build(dict(type='mmxvit.XFormer', out_indices=(0, )))
    with pytest.raises(ValueError, match=r'model\.eval\(\)'):
        mmxvit.fuse(model.train())
    model.eval()
    model.stem.norm.train()
    with pytest.raises(ValueError, match='stem.norm is in training mode'):
        mmxvit.fuse(model)


def test_frozen_and_shared_weights():
    model = as_if_trained(MODELS.build(
        dict(type='mmxvit.XFormer', out_indices=(0, ), frozen_stages=0)))
    fused = check(model)
    assert not fused.stem.conv.weight.requires_grad
    assert fused.stages[0][0].expand.conv.weight.requires_grad


def test_one_convolution_with_several_norms():
    """As in heads that share convolutions among levels."""

    class Head(nn.Module):

        def __init__(self):
            super().__init__()
            self.levels = nn.ModuleList(ConvNormAct(3, 4) for _ in range(3))
            for level in self.levels[1:]:
                level.conv = self.levels[0].conv

        def forward(self, x):
            return [level(x) for level in self.levels]

    check(as_if_trained(Head()))


class Padded(nn.Conv2d):
    """Does something else than its parent."""

    def forward(self, x):
        return super().forward(x) + x.mean()


@pytest.mark.parametrize('layers, left', [
    ([nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.BatchNorm2d(6)], 0),
    ([nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6)], 0),
    ([nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)], 1),
    # a norm before: exact unless zeros are padded
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3)], 0),
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)], 0),
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding='valid')], 0),
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding='same')], 1),
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)], 1),
    ([nn.BatchNorm2d(3),
      nn.Conv2d(3, 6, 3, padding=1, padding_mode='reflect')], 0),
    ([nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 6, 3)], 1),
    ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)], 0),
    ([nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1),
      nn.BatchNorm2d(6), nn.BatchNorm2d(6)], 1),
    # not beside each other, or not a known layer
    ([nn.Conv2d(3, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)], 1),
    ([Padded(3, 6, 1), nn.BatchNorm2d(6)], 1),
    ([nn.Conv2d(3, 6, 1),
      nn.BatchNorm2d(6, track_running_stats=False)], 1),
], ids=range(15))
def test_neighbours_in_a_sequential(layers, left):
    model = nn.Sequential(*layers).eval()
    for norm in norms(model):
        if norm.running_mean is not None:
            as_if_trained(norm)
    check(model, left, size=(9, 12))


def test_linear_layers():
    model = as_if_trained(nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(),
        nn.Linear(7, 7, bias=False), nn.BatchNorm1d(7)))
    fused = mmxvit.fuse(model)
    assert not norms(fused)
    x = torch.randn(4, 5)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)
    # where the norm's channels would be another axis than the linear layer's
    with pytest.raises(ValueError, match=r'\(4, 7, 7\)'):
        fused[4:](torch.randn(4, 7, 7))


def replace_forward(module):
    """As tools do that wrap single layers."""
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize('change', [
    lambda m: m.conv.register_forward_hook(lambda *args: None),
    lambda m: m.norm.register_forward_pre_hook(lambda *args: None),
    lambda m: nn.utils.spectral_norm(m.conv),
    lambda m: parametrize.register_parametrization(
        m.conv, 'weight', nn.Tanh()),
    lambda m: replace_forward(m.conv),
    lambda m: replace_forward(m.norm),
    lambda m: replace_forward(m),
], ids=['hook', 'pre-hook', 'spectral norm', 'parametrization', 'conv.forward',
        'norm.forward', 'forward'])
def test_what_is_observed_stays(change):
    model = as_if_trained(ConvNormAct(3, 4))
    change(model)
    check(model.eval(), left=1)


def test_a_forward_of_its_own_is_not_trusted():
    class NormFirst(ConvNormAct):

        def forward(self, x):
            return self.conv(self.norm(x))

    check(as_if_trained(NormFirst(3, 3, 3)), left=1)

    class Twice(nn.Sequential):

        def forward(self, x):
            return self[1](self[0](x)) + self[0](x)

    check(as_if_trained(Twice(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))), left=1)


@pytest.mark.parametrize('options, left', [
    (dict(), 0),
    (dict(bias=True, groups=3), 0),
    (dict(order=('act', 'conv', 'norm')), 0),
    (dict(order=('conv', 'act', 'norm')), 1),
    (dict(order=('norm', 'conv', 'act'), padding=0), 0),
    (dict(order=('norm', 'conv', 'act')), 1),
    (dict(order=('norm', 'conv', 'act'), padding_mode='reflect'), 1),
    (dict(padding_mode='reflect'), 0),
    (dict(with_spectral_norm=True), 1),
    (dict(efficient_conv_bn_eval=True), 1),
    (dict(conv_cfg=dict(type='ConvWS')), 1),
    (dict(conv_cfg=dict(type='Conv2dAdaptivePadding')), 0),
    (dict(conv_cfg=dict(type='deconv')), 0),
], ids=str)
def test_conv_module(options, left):
    cnn = pytest.importorskip('mmcv.cnn')
    model = cnn.ConvModule(3, 3, 3, norm_cfg=dict(type='BN'),
                           **{'padding': 1, **options})
    check(as_if_trained(model), left)


@pytest.mark.parametrize('cfg', [
    dict(type='mmpretrain.MobileViT', arch='xx_small'),
    dict(type='mmpretrain.ResNet', depth=18),
    dict(type='mmpretrain.HRNet', arch='w18'),
    dict(type='mmseg.ResNetV1c', depth=18),
    dict(type='mmdet.ResNet', depth=50, norm_eval=False),
    dict(type='mmdet.ResNet', depth=18, style='caffe'),
    dict(type='mmdet.ResNeXt', depth=50, groups=32, base_width=4),
    dict(type='mmdet.CSPDarknet'),
], ids=lambda cfg: cfg['type'])
def test_peers(cfg):
    pytest.importorskip(cfg['type'].partition('.')[0])
    check(as_if_trained(build_model(cfg)), size=(64, 96))


@pytest.mark.parametrize('config', [
    'xformer/yolov3_xformer_1xb4-256-16e_shapes.py',
    'lolvit/ssdlite_lolvit-x_8xb32-320-300e_coco.py',
    'lolvit/yolo_lolvit-s_8xb32-640-500e_voc0712.py',
    'lvt/segformer_lvt_8xb2-160k_ade20k-512x512.py',
    'fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512.py',
    'lolvit/two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k.py',
    'xformer/xformer_8xb128_in1k.py',
    'cabvit/cabvit-h-l1_8xb128_in1k.py',
])
def test_whole_models(config):
    cfg = load_config(str(ROOT / config))
    pytest.importorskip(cfg.default_scope)
    model = as_if_trained(build_model(model_of_config(cfg)))
    assert norms(model)
    check(model, size=(64, 96))


def test_takes_no_task_package_along():
    code = ('import sys, torch, mmxvit\n'
            'mmxvit.fuse(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1),'
            ' torch.nn.BatchNorm2d(3)).eval())\n'
            'print([m for m in ("mmcv", "mmdet", "mmseg", "mmpretrain")'
            ' if m in sys.modules])')
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr
    assert 'fuse' in mmxvit.__all__
    with pytest.raises(AttributeError, match='no attribute'):
        mmxvit.no_such_name  # noqa: B018
