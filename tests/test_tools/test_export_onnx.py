# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
from pathlib import Path

import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

PART = "dict(type='mmxvit.XFormer', out_indices=(0,))"


@pytest.fixture
def export(script):
    return script('tools/deployment/export_onnx.py').main


def test_whole_model_and_its_backbone(config, checkpoint, export, capsys):
    path = config('cls')
    export([path, checkpoint(path), '--out', 'new/model.onnx', '--check',
            '--threads', '1'])
    out = capsys.readouterr().out
    assert 'wrote new/model.onnx: images -> logits' in out
    assert '1 x 3 x 64 x 64:  onnxruntime' in out  # what the config tests at
    for name in ('torch', 'onnxruntime', 'openvino'):
        assert f'  {name:12}' in out
    assert 'weights are random' not in out
    props = {p.key: p.value
             for p in onnx.load('new/model.onnx').metadata_props}
    assert json.loads(props['data_preprocessor'])['mean'] == [128.] * 3
    export([path, '--backbone', '--out', 'backbone.onnx'])
    out = capsys.readouterr().out
    assert 'images -> map7' in out and 'weights are random' in out


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_checkpoint_of_a_backbone(export, script, failure, prefix):
    import onnxruntime

    from mmxvit.analysis.models import build_model, parse_model
    model = build_model(parse_model(PART)[1]).eval()
    state = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state, meta={}), 'part.pth')
    export([PART, 'part.pth', '--out', 'part.onnx', '--size', '32', '64'])
    x = torch.randn(1, 3, 48, 48)
    (out, ) = onnxruntime.InferenceSession('part.onnx').run(
        None, dict(images=x.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(out), model(x)[0],
                                   rtol=1e-4, atol=1e-4)
    text = failure(export, 'mmxvit.LVT', 'part.pth', '--out', 'b.onnx')
    assert 'part.pth' in text and not Path('b.onnx').exists()


def test_mistakes(config, export, failure, tmp_path):
    assert 'nearest names' in failure(
        export, 'yolov3_xfomer_1xb4-256-16e_shapes.py', '--out', 'a.onnx')
    assert 'mmxvit.XFormer' in failure(export, 'mmxvit.XFromer', '--out', 'a')
    assert 'a backbone already' in failure(export, PART, '--backbone',
                                           '--out', 'a.onnx')
    assert '17' in failure(export, PART, '--opset', '9', '--out', 'a.onnx')
    assert '--size' in failure(export, PART, '--size', '16', '--out', 'a.onnx')
    assert 'no such' in failure(export, PART, 'b.pth', '--out', 'a.onnx')
    Path('a.onnx').write_text('kept')
    assert 'exists already' in failure(export, PART, '--out', 'a.onnx')
    assert Path('a.onnx').read_text() == 'kept'
