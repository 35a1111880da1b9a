# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import warnings

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel

from mmxvit.analysis.benchmark import Settings
from mmxvit.analysis.models import build_model, model_of_config
from mmxvit.deployment import onnx_export
from mmxvit.deployment.onnx_export import (
    _AdaptiveAvgPool2d,
    export_onnx,
    raw_outputs,
)
from mmxvit.deployment.runtimes import (
    PACKAGES,
    check_shapes,
    differences,
    make_runners,
    runtime_latency,
)
from mmxvit.engine.command import UserError, load_config
from mmxvit.hub import list_archs
from mmxvit.models import backbones

from ..shipped import ROOT
from .trained import as_if_trained

onnx = pytest.importorskip('onnx')
for package in PACKAGES:
    pytest.importorskip(package)

# every kind of layer, few of them
TINY = [
    ('XFormer', 'xformer',
     dict(xf=(None, (144, 1, 2), (192, 1, 2), (240, 1, 3)))),
    ('FcaFormer', 'l2', dict(depths=(1, 1, 2, 2))),
    ('CabViT', 'p-l0', dict(depths=(2, ))),
    ('LOLViT', 's', dict()),
    ('LVT', 'lvt', dict(depths=(1, 1, 1, 1))),
]
CONFIGS = {
    'lvt/lvt_8xb128_in1k.py': ['logits'],
    'lvt/segformer_lvt_8xb2-160k_ade20k-512x512.py': ['logits'],
    'xformer/yolov3_xformer_1xb4-256-16e_shapes.py':
    ['pred_maps_0', 'pred_maps_1', 'pred_maps_2'],
}
SLOW_CONFIGS = {
    'cabvit/cabvit-p-l0_8xb128_in1k.py': ['logits'],
    'fcaformer/fcaformer-l1_8xb128_in1k.py': ['logits'],
    'lolvit/lolvit-s_8xb128_in1k.py': ['logits'],
    'xformer/xformer_8xb128_in1k.py': ['logits'],
    'lvt/upernet_lvt_8xb2-160k_ade20k-512x512.py': ['logits'],
    'lolvit/two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k.py':
    ['logits_drivable', 'logits_lane'],
    'lolvit/ssdlite_lolvit-x_8xb32-320-300e_coco.py':
    [f'{n}_{i}' for n in ('cls_scores', 'bbox_preds') for i in range(6)],
    'lolvit/yolo_lolvit-s_8xb32-640-500e_voc0712.py':
    [f'{n}_{i}' for n in ('cls_scores', 'bbox_preds') for i in range(3)],
    'lvt/retinanet_lvt_fpn_1xb8-320-20e_bccd.py':
    [f'{n}_{i}' for n in ('cls_scores', 'bbox_preds') for i in range(5)],
    'fcaformer/mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco.py':
    [f'{n}_{i}' for n in ('rpn_cls_scores', 'rpn_bbox_preds', 'feat')
     for i in range(5)],
    'lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco.py':
    [f'{n}_{i}' for n in ('rpn_cls_scores', 'rpn_bbox_preds', 'feat')
     for i in range(5)],
}


def check(model, path, size=(64, 96)):
    """Export a model; ONNX Runtime and OpenVINO agree with torch."""
    names = export_onnx(as_if_trained(model), path, size)
    shapes = check_shapes(model, size)
    found = differences(make_runners(model, path, threads=1), shapes)
    assert len(found) == 2 * 3
    for key, value in found.items():
        assert value <= 1e-4, (key, value)
    return names, shapes


@pytest.mark.parametrize('family, arch, changes', [
    *(pytest.param(*tiny, id=f'tiny-{tiny[0]}') for tiny in TINY),
    *(pytest.param(name, arch, dict(), marks=pytest.mark.slow)
      for name, archs in list_archs().items() for arch in archs)
])
def test_every_backbone(family, arch, changes, tmp_path):
    settings = getattr(backbones, family).arch_settings[arch]
    model = build_model(dict(type=f'mmxvit.{family}',
                             arch=dict(settings, **changes)))
    names, shapes = check(model, tmp_path / 'model.onnx')
    assert names == [f'map{i}' for i in model.out_indices]
    assert shapes == [(1, 64, 96), (2, 77, 134), (3, 65, 55)]
    # the window of LOLViT's last keys is wider than this map
    runners = make_runners(model, tmp_path / 'model.onnx', threads=1)
    assert max(differences(runners, [(1, 32, 40)]).values()) <= 1e-4


@pytest.mark.parametrize('config', [
    *CONFIGS,
    *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW_CONFIGS)
])
def test_whole_models(config, tmp_path):
    cfg = load_config(str(ROOT / config))
    pytest.importorskip(cfg.default_scope)
    names, shapes = check(build_model(model_of_config(cfg)),
                          tmp_path / 'model.onnx')
    assert names == {**CONFIGS, **SLOW_CONFIGS}[config]
    # YOLOv3 takes multiples of 32 only, all others any size
    assert (shapes[1][1] % 32 == 0) == ('yolov3' in config)


def small():
    return build_model(dict(type='mmxvit.XFormer', out_indices=(0, ))).eval()


def test_file_has_names_and_metadata(tmp_path):
    path = tmp_path / 'new' / 'model.onnx'
    export_onnx(small(), path, (32, 32),
                metadata=dict(config='a.py', data_preprocessor=dict(mean=[1])))
    proto = onnx.load(str(path))
    props = {p.key: p.value for p in proto.metadata_props}
    assert props['config'] == 'a.py'
    assert json.loads(props['data_preprocessor']) == dict(mean=[1])
    (image, ), (out, ) = proto.graph.input, proto.graph.output
    assert [image.name, out.name] == ['images', 'map0']
    assert [d.dim_param or d.dim_value for d in
            image.type.tensor_type.shape.dim] == ['batch', 3, 'height',
                                                  'width']
    assert not {n.op_type for n in proto.graph.node} & {
        'BatchNormalization'}
    assert [p.name for p in path.parent.iterdir()] == ['model.onnx']


def test_mistakes(tmp_path, monkeypatch):
    path = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match='opset 99'):
        export_onnx(small(), path, (32, 32), opset=99)
    assert not list(tmp_path.iterdir())
    path.write_text('kept')
    with pytest.raises(UserError, match='exists already'):
        export_onnx(small(), path)
    assert path.read_text() == 'kept'
    with pytest.raises(UserError, match='BaseModel: only backbones'):
        raw_outputs(type('BaseModel', (BaseModel, ), dict(
            forward=lambda self: None))(), torch.zeros(1, 3, 32, 32))
    monkeypatch.setattr(onnx_export, 'find_spec',
                        lambda name: None if name == 'openvino' else True)
    with pytest.raises(UserError, match=r'openvino.*mmxvit\[deploy\]'):
        make_runners(small(), path)


@pytest.mark.parametrize('wrong', [
    lambda x: x + 1e-3 * x.abs().max(),
    lambda x: x[..., :-1],
    lambda x: x / torch.zeros(1),
])
def test_differences_are_seen(wrong):
    runners = dict(
        torch=lambda x: [x, 2 * x],
        onnxruntime=lambda x: [x, wrong(2 * x)],
        openvino=lambda x: [x * (1 + 1e-6), 2 * x])
    with warnings.catch_warnings(), torch.no_grad():
        found = differences(runners, [(1, 8, 8)])
    assert found['onnxruntime', (1, 8, 8)] > 9e-4
    assert found['openvino', (1, 8, 8)] < 2e-6


@pytest.mark.parametrize('first', [True, False])
def test_values_that_are_not_finite_differ(first):
    """In torch's outputs as well; zeros are equal to zeros."""

    def run(bad):
        outputs = [torch.full((2, ), bad), torch.zeros(2)]
        return lambda x: outputs if first else outputs[::-1]

    runners = dict(torch=run(torch.nan), onnxruntime=run(1.),
                   openvino=run(torch.nan))
    assert set(differences(runners, [(1, 8, 8)]).values()) == {torch.inf}
    runners = dict.fromkeys(runners, run(1.))
    assert set(differences(runners, [(1, 8, 8)]).values()) == {0.}
    runners['torch'] = run(0.)
    assert set(differences(runners, [(1, 8, 8)]).values()) == {torch.inf}


@pytest.mark.parametrize('size', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('shape', [(1, 2), (5, 6), (12, 7), (17, 18)])
def test_pooling_to_a_size(size, shape):
    x = torch.randn(2, 3, *shape)
    torch.testing.assert_close(
        _AdaptiveAvgPool2d(size)(x), nn.AdaptiveAvgPool2d(size)(x))


def test_latency_of_runtimes():
    settings = Settings(((32, 32), (64, 32)), threads=1, rounds=2,
                        min_time=0.)
    lines = []
    part = dict(type='mmxvit.XFormer', out_indices=(0, ))
    seconds = runtime_latency(dict(a=part, b=part), settings, lines.append)
    assert list(seconds) == [
        (name, runtime, size) for size in settings.sizes for name in 'ab'
        for runtime in ('torch', *PACKAGES)
    ]
    assert all(len(s) == 2 and min(s) > 0 for s in seconds.values())
    assert lines[0] == '32x32 exporting a'
    assert any('64x32' in line and 'b openvino' in line for line in lines)


def test_latency_of_a_peer_whose_file_takes_one_size():
    pytest.importorskip('mmdet')
    peer = dict(type='mmdet.PyramidVisionTransformerV2', embed_dims=8,
                num_layers=[1, 1, 1, 1])
    settings = Settings(((64, 64), (96, 64)), threads=1, rounds=1,
                        min_time=0.)
    seconds = runtime_latency(dict(peer=peer), settings, lambda line: None)
    assert len(seconds) == 6 and all(map(any, seconds.values()))
