# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config

from mmxvit.analysis.complexity import PARTS, complexity
from mmxvit.analysis.models import (
    build_model,
    config_input_size,
    load_config,
    model_of_config,
)

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/get_flops.py'


def counts(linear=0, attention=0, norm=0, elementwise=0) -> dict[str, int]:
    return dict(zip(PARTS, (linear, attention, norm, elementwise),
                    strict=True))


@pytest.mark.parametrize('layer, shape, expected', [
    # 2 images, 4 x 4 outputs each
    (nn.Conv2d(4, 8, 3, 2, 1, groups=2), (4, 8, 8),
     counts(linear=2 * 16 * 8 * 2 * 9, elementwise=2 * 16 * 8)),
    (nn.Conv2d(4, 8, 3, 2, 1, bias=False), (4, 8, 8),
     counts(linear=2 * 16 * 8 * 4 * 9)),
    (nn.ConvTranspose2d(4, 6, 2, 2, bias=False), (4, 3, 3),
     counts(linear=2 * 9 * 4 * 6 * 4)),
    (nn.Linear(8, 5), (4, 3, 8), counts(linear=2 * 4 * 3 * 8 * 5)),
    (nn.BatchNorm2d(4), (4, 3, 3), counts(norm=2 * 2 * 36)),
    (nn.LayerNorm(3, elementwise_affine=False), (4, 3, 3),
     counts(norm=2 * 36)),
    (nn.GroupNorm(2, 4), (4, 3, 3), counts(norm=2 * 2 * 36)),
    (nn.LeakyReLU(), (4, 3, 3), counts(elementwise=2 * 36)),
    (nn.SiLU(), (4, 3, 3), counts()),
    (nn.AdaptiveAvgPool2d(1), (4, 3, 3), counts(elementwise=2 * 36)),
])
def test_layers_by_type(layer, shape, expected):
    result = complexity(nn.Sequential(layer), shape, batch=2)
    assert result.nominal == expected
    assert result.executed == expected['linear']
    assert result.params == sum(p.numel() for p in layer.parameters())


class TokenNet(nn.Module):
    """Convolution, q-k-v, functional attention, MultiheadAttention."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.patch = nn.Conv2d(3, 8, 2, 2, bias=False)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.mha = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        batch, num, _ = x.shape
        q, k, v = self.qkv(x).view(batch, num, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(batch, num, 8)
        if not self.batch_first:
            x = x.transpose(0, 1)
        # the first half of the tokens as keys
        keys = x[:, :num // 2] if self.batch_first else x[:num // 2]
        return self.mha(x, keys, value=keys)[0], self.mha(x, x, x)[0]


@pytest.mark.parametrize('batch_first', [True, False])
def test_attention(batch_first):
    result = complexity(TokenNet(batch_first), (3, 8, 8), batch=2)
    num = 16
    patch = 2 * num * 12 * 8
    qkv = 2 * num * 8 * 24
    sdpa = 2 * 2 * num * num * 8
    cross = 2 * 8 * (2 * num * 8 + 2 * num // 2 * 8 + 2 * num * num // 2)
    both = 2 * 8 * (4 * num * 8 + 2 * num * num)
    stages = {s.name: s for s in result.stages}
    assert stages['patch'].nominal == counts(linear=patch)
    assert stages['qkv'].nominal == counts(linear=qkv)
    assert stages['mha'].nominal == counts(attention=cross + both)
    assert stages['(rest)'].nominal == counts(attention=sdpa)
    assert {n: s.executed for n, s in stages.items()} == {
        'patch': patch, 'qkv': qkv, 'mha': cross + both, '(rest)': sdpa
    }
    assert result.full == patch + qkv + cross + both + sdpa
    assert result.executed == result.full


@pytest.mark.parametrize('product', [
    lambda q, k: q @ k.transpose(1, 2),
    lambda q, k: q.matmul(k.mT),
    lambda q, k: torch.bmm(q, k.mT),
    lambda q, k: torch.stack([a.mm(b.T) for a, b in zip(q, k, strict=True)]),
    lambda q, k: torch.einsum('bnc,bmc->bnm', q, k),
    lambda q, k: torch.einsum('...nc, ...mc -> ...nm', [q, k]),
])
def test_products_written_as_functions(product):
    class Products(nn.Module):

        def forward(self, x):
            tokens = x.flatten(2).mT
            return product(tokens, tokens[:, :5]).softmax(-1)

    result = complexity(Products(), (3, 4, 6), batch=2)
    assert result.nominal == counts(attention=2 * 24 * 3 * 5)
    assert result.executed == result.full


class Stating(nn.Module):
    """A convolution that states its own work, run as a module or not."""

    def __init__(self, call_inner: bool, macs: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.call_inner = call_inner
        self.macs = macs
        self.seen = None

    def forward(self, x, scale=1.):
        if self.call_inner:
            return self.conv(x)
        return F.conv2d(x, self.conv.weight * scale)

    def nominal_macs(self, inputs, output):
        self.seen = [t.shape for t in inputs], output.shape
        return self.macs


@pytest.mark.parametrize('call_inner', [True, False])
def test_module_that_states_its_work(call_inner):
    stating = Stating(call_inner, dict(linear=7, norm=5))
    result = complexity(
        nn.Sequential(stating, nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False)),
        (4, 2, 3))
    assert result.nominal == counts(linear=7 + 6 * 8, norm=5, elementwise=24)
    assert result.executed == 6 * 16 + 6 * 8
    assert stating.seen == ([(1, 4, 2, 3)], (1, 4, 2, 3))
    assert result.paper == 7 + 6 * 8 + 5 + 24


def test_outermost_statement_wins():

    class Outer(nn.Sequential):

        def nominal_macs(self, inputs, output):
            return dict(attention=11)

    outer = Outer(Stating(False, dict(linear=7)), nn.Linear(3, 3))
    after = Stating(True, dict(linear=2))
    result = complexity(nn.Sequential(outer, after), (4, 2, 3))
    assert result.nominal == counts(linear=2, attention=11)


def test_wrong_statement_names_module_and_leaves_no_hook():
    model = nn.Sequential(nn.Identity(), Stating(True, dict(conv=7)))
    with pytest.raises(ValueError, match=r"'1' \(Stating\).*'conv'"):
        complexity(model, (4, 2, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in model.modules())


def test_model_is_left_as_it_was():

    class NoneFromEval(nn.Sequential):

        def eval(self):
            super().eval()

    model = NoneFromEval(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model.train()
    model[1].training = False
    mean = model[1].running_mean.clone()
    state = torch.get_rng_state()
    complexity(model, (3, 4, 4))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in model.modules())
    assert torch.equal(model[1].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_rows_are_stages_of_the_backbone_and_other_parts():

    class Backbone(nn.Module):

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 4, 1, bias=False), nn.SiLU())
            self.stages = nn.Sequential(
                nn.Conv2d(4, 4, 1, bias=False),
                nn.Sequential(
                    nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.stages(self.stem(x)) * self.scale

    class Model(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.head = nn.Conv2d(4, 4, 1, bias=False)
            self.aux = nn.ModuleList([nn.Conv2d(4, 4, 1, bias=False)])
            # a weight in two layers counts once, its work twice
            self.head.weight = self.backbone.stages[0].weight

        def forward(self, x):
            return self.head(self.backbone(x))

    result = complexity(Model(), (3, 2, 2))
    rows = {
        s.name: (s.params, s.nominal['linear'], s.nominal['norm'], s.executed)
        for s in result.stages
    }
    assert rows == {
        'backbone.stem': (12, 48, 0, 48),
        'backbone.stages.0': (16, 64, 0, 64),
        'backbone.stages.1': (24, 64, 32, 64),
        'head': (0, 64, 0, 64),
        'aux.0': (16, 0, 0, 0),
        '(rest)': (1, 0, 0, 0),
    }
    assert result.params == 69
    assert complexity(Backbone(), (3, 2, 2)).stages[1].name == 'stages.0'


def stock_config(package: str, path: str) -> Config:
    root = Path(pytest.importorskip(package).__file__).parent
    return load_config(str(root / '.mim/configs' / path))


def test_calibration_yolov3_mobilenetv2():
    """3.7 M; 1.7 and 6.8 G at 320 and 640 in XFormer's Table 4."""
    cfg = stock_config('mmdet',
                       'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py')
    assert config_input_size(cfg)[0] == (320, 320)
    model = build_model(model_of_config(cfg))
    small = complexity(model, (3, 320, 320))
    assert small.params == 3_737_693
    assert round(small.paper / 1e9, 3) == 1.691
    assert small.executed == small.full == small.nominal['linear']
    large = complexity(model, (3, 640, 640))
    assert round(large.paper / 1e9, 3) == 6.764
    # no part depends on the size but by its pixels: 17.315 at 1024
    assert round(small.paper * 1024**2 / 320**2 / 1e9, 3) == 17.315


def test_calibration_segformer_b0():
    """25.8 G at 1024x1024, where nn.MultiheadAttention was not seen."""
    cfg = stock_config(
        'mmseg', 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-'
        '1024x1024.py')
    assert config_input_size(cfg)[0] == (1024, 1024)
    result = complexity(build_model(model_of_config(cfg)), (3, 256, 256))
    assert result.params == 3_720_051
    # all that this counting sees grows with the pixels
    assert round(result.paper * 16 / 1e9, 1) == 25.8
    assert result.executed == result.full
    assert 'backbone.layers.0' in [s.name for s in result.stages]


def test_calibration_mobilevit_s():
    """5.6 M and 1.9 G in XFormer's Table 3, at 256x256."""
    cfg = stock_config('mmpretrain',
                       'mobilevit/mobilevit-small_8xb128_in1k.py')
    assert config_input_size(cfg)[0] == (256, 256)
    result = complexity(build_model(model_of_config(cfg)), (3, 256, 256))
    assert result.params == 5_578_632
    assert round(result.paper / 1e9, 2) == 1.85


def test_two_stage_detector_runs_its_roi_heads():
    cfg = stock_config('mmdet', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.merge_from_dict({
        'model.backbone.depth': 18,
        'model.neck.in_channels': [64, 128, 256, 512],
        'model.test_cfg.rpn.max_per_img': 5,
        'model.test_cfg.rcnn.max_per_img': 5
    })
    model = build_model(model_of_config(cfg))
    result = complexity(model, (3, 64, 96))
    roi = next(s for s in result.stages if s.name == 'roi_head')
    assert 0 < roi.executed == roi.nominal['linear']


@pytest.mark.parametrize('model, pipeline, expected', [
    (dict(test_cfg=dict(mode='slide', crop_size=(64, 96))), [], (64, 96)),
    (dict(data_preprocessor=dict(size=(32, 48)), test_cfg=dict(mode='whole')),
     [dict(type='Resize', scale=(9, 9))], (32, 48)),
    (dict(data_preprocessor=dict(pad_size_divisor=32)),
     [dict(type='Resize', scale=(1333, 800))], (800, 1344)),
    (dict(), [dict(type='ResizeEdge', scale=256),
              dict(type='CenterCrop', crop_size=224)], (224, 224)),
    (dict(), [dict(type='LoadImageFromFile')], None),
])
def test_config_input_size(model, pipeline, expected):
    cfg = Config(
        dict(
            model=model,
            test_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset', dataset=dict(pipeline=pipeline)))))
    found = config_input_size(cfg)
    assert found == expected if found is None else found[0] == expected


def run_tool(monkeypatch, *args: str) -> None:
    spec = importlib.util.spec_from_file_location('get_flops', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['get_flops.py', *args])
    module.main()


def test_tool_with_a_backbone(monkeypatch, capsys, tmp_path):
    pytest.importorskip('mmpretrain')
    file = tmp_path / 'counts.json'
    run_tool(monkeypatch, 'mmpretrain.MobileViT', '--arch', 'xx_small',
             '--size', '64', '96', '--cfg-options', 'out_indices=[1,2]',
             '--json', str(file))
    out = capsys.readouterr().out
    data = json.loads(file.read_text())
    assert data['shape'] == [3, 64, 96]
    for key in ('params', 'executed'):
        assert data[key] == sum(s[key] for s in data['stages']) > 0
    assert data['nominal']['linear'] == sum(s['nominal']['linear']
                                            for s in data['stages'])
    assert f'{data["params"]:,}' in out
    assert 'stem' in out and 'norm' in out
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, 'mmpretrain.MobileViT', '--json', str(file))
    assert json.loads(file.read_text()) == data


def test_tool_with_a_size_that_needs_padding(monkeypatch, capsys):
    pytest.importorskip('mmdet')
    config = (TOOL.parents[2] / 'configs/lvt/'
              'panoptic-fpn_lvt_8xb8-ms-3x_coco.py')
    with pytest.raises(SystemExit, match='does not run on images of 64 x 72 '
                       '.*multiples of 32'):
        run_tool(monkeypatch, str(config), '--size', '64', '72')


def test_tool_with_a_config(monkeypatch, capsys, tmp_path):
    pytest.importorskip('mmpretrain')
    file = tmp_path / 'tiny.py'
    file.write_text("""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileNetV2', widen_factor=0.25),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=1280))
test_dataloader = dict(
    dataset=dict(pipeline=[dict(type='CenterCrop', crop_size=64)]))
""")
    run_tool(monkeypatch, str(file), '--cfg-options',
             'model.head.num_classes=7')
    out = capsys.readouterr().out
    assert '1 x 3 x 64 x 64 (size from: CenterCrop' in out
    assert f'{1281 * 7:,}' in next(
        line for line in out.splitlines() if line.startswith('head'))
    with pytest.raises(SystemExit, match='tiny.py'):
        run_tool(monkeypatch, str(tmp_path / 'tinny.py'))


@pytest.mark.parametrize('name, message', [
    ('mmpretrain.MobilViT', 'mmpretrain.MobileViT'),
    ('nowhere.MobileViT', "scope 'nowhere'"),
    ('MobileViT', 'write e.g. mmpretrain.MobileViT'),
])
def test_tool_with_a_wrong_type(monkeypatch, name, message):
    pytest.importorskip('mmpretrain')
    with pytest.raises(SystemExit, match=message):
        run_tool(monkeypatch, name)
