# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Converted weights give the outputs of the authors' published code."""
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmxvit.registry import MODELS

from ..golden import NAMES, Golden, probe

ROOT = Path(__file__).resolve().parents[2]
F32, F64 = 5e-5, 1e-9

# family, golden file, arch and arguments of the backbone, classifier's config
CASES = [
    ('LVT', 'lvt_cls', 'lvt', {}, 'lvt_8xb128_in1k'),
    ('LVT', 'lvt_dense', 'lvt', {}, None),
    ('FcaFormer', 'fcaformer_l1', 'l1', {}, 'fcaformer-l1_8xb128_in1k'),
    ('FcaFormer', 'fcaformer_l2', 'l2', dict(out_dims=None),
     'fcaformer-l2_8xb128_in1k'),
    ('FcaFormer', 'fcaformer_l2_dense', 'l2', {}, None),
    # the code published for CabViT gives the same names and numbers
    ('CabViT', 'fcaformer_l1', 'h-l1', {}, 'cabvit-h-l1_8xb128_in1k'),
    ('CabViT', 'fcaformer_l2', 'h-l2', {}, 'cabvit-h-l2_8xb128_in1k'),
]


@pytest.fixture(
    scope='module', params=CASES, ids=[f'{c[0]}-{c[2]}-{c[1]}' for c in CASES])
def case(request, tmp_path_factory):
    """Family, golden file, backbone, config and the converted checkpoint."""
    family, name, arch, kwargs, config = request.param
    folder = tmp_path_factory.mktemp(name)
    source, target = folder / 'source.pth', folder / 'converted.pth'
    golden = Golden(name)
    torch.save(dict(model=golden.state_dict()), source)
    tool = f'tools/model_converters/{family.lower()}_to_mmxvit.py'
    runpy.run_path(str(ROOT / tool))['main']([str(source), str(target)])
    backbone = dict(type=f'mmxvit.{family}', arch=arch, **kwargs)
    return family, golden, backbone, config, target


def difference(actual, expected):
    return (actual.double() - expected).abs().max()


def test_every_file_is_used():
    assert sorted({case[1] for case in CASES}) == NAMES


def test_classifier(case):
    family, golden, _, config, target = case
    if config is None:
        assert 'logits' not in golden.values
        return
    pytest.importorskip('mmpretrain')
    converted = torch.load(target, weights_only=True)
    assert converted['meta']['kind'] == 'classifier'
    path = ROOT / 'configs' / family.lower() / f'{config}.py'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(Config.fromfile(path).model)
    model.load_state_dict(converted['state_dict'], strict=True)
    model.eval()
    x, logits = golden.make_image(), golden.values['logits']
    with torch.no_grad():
        assert difference(model(x, mode='tensor'), logits) < F32
        assert difference(model.double()(x.double(), mode='tensor'),
                          logits) < F64


def maps_by_their_names(family, golden, model, x):
    """What golden files hold: maps, or the stages of a classifier."""
    maps = model(x)
    if 'feat0' in golden.values:
        return {f'feat{i}': out for i, out in enumerate(maps)}
    if family == 'LVT':
        return {f'stage{i}': out.permute(0, 2, 3, 1)
                for i, out in enumerate(maps)}
    # stages together with the downsampling behind them, which is ours in
    # front of the next one; tokens in the last two
    outs = [stage[0](out) for stage, out in
            zip(model.stages[1:], maps[:-1], strict=True)]
    outs = [*outs[:2], *(out.flatten(2).transpose(1, 2)
                         for out in (outs[2], maps[3]))]
    return {'patch_embed': model.stem(x),
            **{f'layer_{i}': out for i, out in enumerate(outs)}}


def test_backbone(case):
    family, golden, backbone, _, target = case
    init_cfg = dict(
        type='Pretrained', checkpoint=str(target), prefix='backbone.')
    model = MODELS.build(dict(backbone, init_cfg=init_cfg))
    model.init_weights()
    model.eval()
    x = golden.make_image()
    names = {n for n in golden.values if n + '_shape' in golden.values}
    assert len(names) >= 4
    for dtype, tolerance in ((torch.float, F32), (torch.double, F64)):
        with torch.no_grad():
            outs = maps_by_their_names(family, golden, model.to(dtype),
                                       x.to(dtype))
        assert set(outs) == names
        for name, out in outs.items():
            assert list(out.shape) == golden.values[f'{name}_shape'].tolist()
            assert difference(probe(out), golden.values[name]) < tolerance
