# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Models by name, in mmpretrain's hub and beside it."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

import mmxvit
from mmxvit import hub
from mmxvit.models.backbones.base import PyramidBackbone
from mmxvit.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    model['Name'] for path in ROOT.glob('configs/*/metafile.yml')
    for model in yaml.safe_load(path.read_text())['Models'])
CLASSIFIER, DETECTOR = ('xformer_8xb128_in1k',
                        'yolov3_xformer_8xb24-320-300e_coco')


def run(code, cwd=None):
    """Last line of output of a new process, from JSON."""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def mmpretrain(monkeypatch):
    """mmpretrain, whose hub has its own models only."""
    mmpretrain = pytest.importorskip('mmpretrain')
    mmpretrain.list_models()
    models = {
        name: model
        for name, model in mmpretrain.ModelHub._models_dict.items()
        if name not in NAMES
    }
    monkeypatch.setattr(mmpretrain.ModelHub, '_models_dict', models)
    return mmpretrain


def test_list_archs_is_complete():
    archs = mmxvit.list_archs()
    MODELS.import_from_location()
    assert set(archs) == {
        name for name, kind in MODELS.module_dict.items()
        if isinstance(kind, type) and issubclass(kind, PyramidBackbone)
    }
    assert archs['XFormer'] == ['xformer']
    for family, names in archs.items():
        assert names == list(MODELS.get(family).arch_settings)


def test_list_archs_imports_no_task_package():
    code = ('import json, sys, mmxvit; mmxvit.list_archs(); '
            'print(json.dumps([m for m in ("mmcv", "mmdet", "mmseg", '
            '"mmpretrain") if m in sys.modules]))')
    assert run(code) == []


def test_register_hub_twice(mmpretrain):
    models = mmpretrain.ModelHub._models_dict
    others = set(models)
    assert CLASSIFIER not in mmpretrain.list_models()
    for _ in range(2):
        mmxvit.register_hub()
        assert set(models) - others == set(NAMES)
        assert CLASSIFIER in mmpretrain.list_models('xformer')
    for name in NAMES:
        path = Path(models[name].config)
        assert path.is_file() and path.stem == name


def test_import_registers_beside_mmpretrain_only(mmpretrain):
    code = '''
import json
{first}
{second}
import mmpretrain
print(json.dumps(mmpretrain.ModelHub.has({name!r})))
'''
    for first, second, expected in (
            ('import mmpretrain', 'import mmxvit', True),
            ('import mmxvit', '', False),
            ('import mmxvit', 'mmxvit.register_hub()', True)):
        assert run(code.format(first=first, second=second,
                               name=CLASSIFIER)) is expected


def test_a_name_that_is_taken(mmpretrain):
    models = mmpretrain.ModelHub._models_dict
    models[CLASSIFIER] = models['resnet18_8xb32_in1k']
    with pytest.raises(ValueError, match=f'{CLASSIFIER} is conflict'):
        mmxvit.register_hub()
    code = f'''
import json, warnings, mmpretrain
hub = mmpretrain.ModelHub
mmpretrain.list_models()
hub._models_dict[{CLASSIFIER!r}] = hub._models_dict['resnet18_8xb32_in1k']
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mmxvit.models
print(json.dumps([str(w.message) for w in caught]))
'''
    messages = [m for m in run(code) if 'mmxvit' in m]
    assert len(messages) == 1
    assert f'{CLASSIFIER} is conflict' in messages[0]


def test_list_models_has_ours_only(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    assert mmxvit.list_models() == NAMES
    expected = [name for name in NAMES if name.startswith('xformer')]
    assert mmxvit.list_models('xformer') == expected
    assert CLASSIFIER not in mmxvit.list_models(
        exclude_patterns=['xformer_*'])
    detectors = mmxvit.list_models(task='Object Detection')
    assert DETECTOR in detectors and CLASSIFIER not in detectors


def test_get_model(mmpretrain, tmp_path):
    model = mmxvit.get_model(CLASSIFIER)
    short = mmxvit.get_model(CLASSIFIER.partition('_')[0])
    assert short.state_dict().keys() == model.state_dict().keys()
    assert not model.training
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    again = mmpretrain.get_model(
        CLASSIFIER, pretrained=str(tmp_path / 'model.pth'))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = model(x, mode='tensor')
        assert logits.shape == (1, 1000)
        assert torch.equal(again(x, mode='tensor'), logits)
    other = mmxvit.get_model(CLASSIFIER, head=dict(num_classes=7))
    assert other.head.fc.out_features == 7


def test_get_model_of_another_task_or_name(mmpretrain):
    with pytest.raises(ValueError, match=f'{DETECTOR} is a model of mmdet'
                       rf'.*{DETECTOR}\.py'):
        mmxvit.get_model(DETECTOR)
    with pytest.raises(ValueError, match='Failed to find model "no_such"'):
        mmxvit.get_model('no_such')
    # as mmpretrain: a config, or a name of its own
    cfg = Config.fromfile(ROOT / f'configs/xformer/{CLASSIFIER}.py')
    assert mmxvit.get_model(cfg).head.num_classes == 1000
    name = 'mobilevit-xxsmall_3rdparty_in1k'
    assert type(mmxvit.get_model(name).backbone).__name__ == 'MobileViT'


def test_without_mmpretrain(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    for function, args in ((mmxvit.register_hub, ()),
                           (mmxvit.get_model, (CLASSIFIER, ))):
        with pytest.raises(RuntimeError, match='need mmpretrain.*run: pip '
                           'install "onedl-mmpretrain>='):
            function(*args)


def test_where_the_configs_are(monkeypatch, tmp_path):
    """In an installed package, in a clone that was not installed, nowhere."""
    package = tmp_path / 'mmxvit'
    package.mkdir()
    monkeypatch.setattr(hub, '__file__', str(package / 'hub.py'))
    with pytest.raises(RuntimeError, match='install mmxvit again'):
        hub.config_root()
    shutil.copy(ROOT / 'model-index.yml', tmp_path)
    assert hub.config_root() == tmp_path
    (package / '.mim').mkdir()
    shutil.copy(ROOT / 'model-index.yml', package / '.mim')
    assert hub.config_root() == package / '.mim'
