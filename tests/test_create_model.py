# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Classifiers and backbones in plain PyTorch."""
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmxvit
from mmxvit import models
from mmxvit.registry import MODELS
from mmxvit.utils.checkpoint import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    name.partition('_')[0]
    for name in mmxvit.list_models(task='Image Classification'))
# one for each head and each kind of map
SMALL = ['cabvit-p-l0', 'fcaformer-l1', 'lolvit-s', 'lvt', 'xformer']


def images(size=64):
    return torch.randn(2, 3, size, size)


def test_every_arch_has_a_name():
    built = {
        name: mmxvit.create_model(name, features_only=True, out_indices=(0, ))
        for name in NAMES
    }
    archs = mmxvit.list_archs()
    assert sorted((family, repr(getattr(models, family).arch_settings[arch]))
                  for family, names in archs.items() for arch in names) == \
        sorted((type(model).__name__, repr(model.arch))
               for model in built.values())


@pytest.mark.parametrize('name', SMALL)
def test_classifier_is_that_of_mmpretrain(name):
    """Names, shapes and logits; a checkpoint of either loads in the other."""
    pytest.importorskip('mmpretrain')
    theirs = mmxvit.get_model(f'{name}_8xb128_in1k')
    ours = mmxvit.create_model(name, num_classes=1000).eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(ours.state_dict())
    x = images()
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x, mode='tensor'))


def test_images_are_normalised_as_imagenet():
    """What the documentation says of trained models."""
    for name in mmxvit.list_models(task='Image Classification'):
        cfg = Config.fromfile(mmxvit.get_config_path(name)).data_preprocessor
        assert cfg.to_rgb
        assert np.divide(cfg.mean, 255) == pytest.approx([0.485, 0.456, 0.406])
        assert np.divide(cfg.std, 255) == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize('name', SMALL)
def test_classifier_from_its_checkpoint(name):
    """The number of classes is the checkpoint's."""
    model = mmxvit.create_model(name, num_classes=5).eval()
    assert model(images()).shape == (2, 5)
    for content in (model.state_dict(), dict(state_dict=model.state_dict())):
        torch.save(content, 'model.pth')
        again = mmxvit.create_model(name, pretrained=Path('model.pth'))
        for key, value in again.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])


@pytest.mark.parametrize('name', SMALL)
def test_features(name):
    model = mmxvit.create_model(name, features_only=True).eval()
    info = model.feature_info
    maps = model(images())
    assert len(maps) == len(info) == (1 if name == 'cabvit-p-l0' else 4)
    assert info.channels() == [m.shape[1] for m in maps]
    assert info.reduction() == [64 // m.shape[2] for m in maps]
    assert info.reduction(-1) == info[-1]['reduction']
    for position, entry in enumerate(info):
        assert entry['num_chs'] == info.channels(position)
        assert entry['module'] == info.module_name(position)


@pytest.mark.parametrize('name, kwargs', [
    ('lvt', dict(out_indices=(1, 3))),
    ('fcaformer-l2', dict(out_dims='arch', out_indices=(0, 2))),
])
def test_feature_info_names_the_module_of_each_map(name, kwargs):
    """Nothing of a map comes from behind its module."""
    model = mmxvit.create_model(name, features_only=True, **kwargs)
    info = model.feature_info
    assert [entry['index'] for entry in info] == list(kwargs['out_indices'])
    maps = model(images())
    for name, out in zip(info.module_name(), maps, strict=True):
        last = list(model.get_submodule(name).parameters())[-1]
        model.zero_grad()
        out.square().sum().backward(retain_graph=True)
        assert last.grad.abs().sum() > 0
        later = [p for other in info.module_name() if other > name
                 for p in model.get_submodule(other).parameters()]
        assert all(p.grad is None for p in later)


def test_widths_of_the_arch():
    """Those of the classifier, not of the authors' detectors."""
    model = mmxvit.create_model('fcaformer-l2', features_only=True)
    assert model.feature_info.channels() == [96, 192, 320, 480]
    assert model.feature_info.channels([3, 0]) == [480, 96]
    assert model.feature_info.reduction(1) == 8
    assert model.feature_info.get_dicts(['num_chs', 'reduction'], [1]) == [
        dict(num_chs=192, reduction=8)]
    assert model.feature_info.get_dicts() == list(model.feature_info)


def test_features_from_any_checkpoint_with_the_backbone():
    """A backbone's own, a classifier's, and that of a detector with less."""
    backbone = MODELS.build(dict(type='XFormer'))
    own = backbone.state_dict()
    whole = {f'backbone.{k}': v for k, v in own.items()}
    whole['bbox_head.weight'] = torch.zeros(3)
    for state in (own, whole, dict(state_dict=whole)):
        torch.save(state, 'model.pth')
        model = mmxvit.create_model(
            'xformer', 'model.pth', features_only=True, out_indices=(1, ))
        assert len(model.stages) == 2
        for key, value in model.state_dict().items():
            assert torch.equal(value, own[key])
        with pytest.raises(CheckpointError, match='not a checkpoint of this'):
            mmxvit.create_model('lvt', 'model.pth', features_only=True)


def test_new_classes_keep_the_rest():
    model = mmxvit.create_model('lvt', num_classes=5)
    torch.save(model.state_dict(), 'model.pth')
    with pytest.warns(UserWarning, match='model.pth has 5 classes, not 3: '
                      'head.fc.weight, head.fc.bias, head.aux_fc.weight'):
        tuned = mmxvit.create_model('lvt', 'model.pth', num_classes=3)
    assert tuned(images()).shape == (2, 3)
    for key, value in tuned.state_dict().items():
        new = key.startswith(('head.fc', 'head.aux_fc'))
        assert new or torch.equal(value, model.state_dict()[key])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        mmxvit.create_model('lvt', 'model.pth', num_classes=5)


def test_arguments_of_the_backbone():
    model = mmxvit.create_model(
        'xformer', in_channels=1, out_indices=(0, 3), num_classes=2)
    assert model.eval()(torch.randn(1, 1, 40, 50)).shape == (1, 2)
    assert model.training is False
    assert mmxvit.create_model('xformer').training


def test_a_checkpoint_that_does_not_fit():
    model = mmxvit.create_model('xformer', num_classes=2)
    state = model.state_dict()
    torch.save(state, 'model.pth')
    with pytest.raises(CheckpointError, match=r'model\.pth: not a checkpoint '
                       r'of this classifier:\n  .*\n(.*\n)*  \.\.\. and'):
        mmxvit.create_model('lolvit-s', 'model.pth')
    state['extra'] = torch.zeros(1)
    first = next(iter(state))
    del state[first]
    torch.save(state, 'model.pth')
    with pytest.raises(CheckpointError, match=f'missing {first}\n.*not in the '
                       'model: extra'):
        mmxvit.create_model('xformer', 'model.pth')
    with pytest.raises(CheckpointError, match='none.pth: no such file'):
        mmxvit.create_model('xformer', 'none.pth')


class Bomb:
    def __reduce__(self):
        return open, ('exploded', 'w')


@pytest.mark.parametrize('features_only', [False, True])
def test_a_checkpoint_is_not_executed(features_only):
    torch.save(dict(state_dict={}, bomb=Bomb()), 'bomb.pth')
    with pytest.raises(CheckpointError, match='asks to run'):
        mmxvit.create_model('lvt', 'bomb.pth', features_only)
    assert not Path('exploded').exists()


@pytest.mark.parametrize('kwargs, message', [
    (dict(name='fcaformer_l1'), "no classifier 'fcaformer_l1'; choose from.* "
     'fcaformer-l1, .*xformer'),
    (dict(name='yolov3_xformer_8xb24-320-300e_coco'), 'no classifier'),
    (dict(pretrained=''), 'give the path'),
    (dict(pretrained=True), 'no published weights of xformer; give the path'),
    (dict(features_only=True, num_classes=2), 'num_classes has no use'),
    (dict(num_classes=0), 'num_classes=0: expected 1 or more'),
    (dict(pretrained='x.pth', init_cfg={}), 'init_cfg or pretrained'),
    (dict(out_indices=(0, 1)), 'has 96 channels, the classifier takes 160'),
    (dict(out_indices=(7, )), 'out_indices'),
])
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mmxvit.create_model(**{'name': 'xformer', **kwargs})


def test_config_path():
    name = 'segformer_lvt_8xb2-160k_ade20k-512x512'
    path = Path(mmxvit.get_config_path(name))
    assert path.is_file() and path.stem == name
    with pytest.raises(ValueError, match="no model 'segformer_lvt'; mmxvit"):
        mmxvit.get_config_path('segformer_lvt')
    with pytest.raises(ValueError, match=f'nearest are .*{name}'):
        mmxvit.get_config_path(name.replace('lvt', 'ltv'))


WITHOUT_MM_PACKAGES = '''
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain',
                                      'torchvision', 'modelindex'):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
import torch
import mmxvit
x = torch.randn(1, 3, 64, 64)
for name in {names}:
    model = mmxvit.create_model(name, num_classes=3).eval()
    assert model(x).shape == (1, 3)
    torch.save(model.state_dict(), 'model.pth')
    mmxvit.create_model(name, 'model.pth', features_only=True)
assert mmxvit.list_models('lvt', task='Image Classification')
hub = torch.hub.load({root!r}, 'lvt', source='local', pretrained='model.pth')
assert torch.equal(hub.eval()(x), model(x))
features = torch.hub.load({root!r}, 'fcaformer-l1', source='local',
                          features_only=True)
assert features.feature_info.reduction() == [4, 8, 16, 32]
'''


def test_without_any_mm_package_but_mmengine():
    """And torch.hub, of the clone."""
    code = WITHOUT_MM_PACKAGES.format(
        names=('fcaformer-l1', 'xformer', 'lvt'), root=str(ROOT))
    result = subprocess.run([sys.executable, '-c', code], text=True,
                            capture_output=True)
    assert result.returncode == 0, result.stderr


def test_torch_hub_without_an_installation():
    code = f'''
import sys
sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]
sys.path = [p for p in sys.path if p and p != {str(ROOT)!r}]
import torch
assert 'mmxvit' not in sys.modules
model = torch.hub.load({str(ROOT)!r}, 'lolvit-s', source='local')
assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
assert sys.modules['mmxvit'].__file__.startswith({str(ROOT)!r})
'''
    result = subprocess.run([sys.executable, '-c', code], text=True,
                            capture_output=True)
    assert result.returncode == 0, result.stderr


def test_torch_hub_has_every_model():
    result = subprocess.run(
        [sys.executable, '-c',
         'import hubconf; print(*(n for n, v in vars(hubconf).items() '
         "if callable(v) and not n.startswith('_')))"],
        cwd=ROOT, text=True, capture_output=True)
    assert sorted(result.stdout.split()) == NAMES, result.stderr
