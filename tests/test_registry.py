# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""``type='mmxvit.X'`` from a cold start, in each scope, without imports."""
import importlib
import json
import subprocess
import sys

import mmengine
import pytest

from mmxvit import registry

TASK_PACKAGES = ('mmdet', 'mmseg', 'mmpretrain')


def run(code, *args, cwd=None):
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *args],
                          capture_output=True,
                          text=True,
                          cwd=cwd)


BUILD = '''
import importlib, json, sys
scope, absent = {scope!r}, {absent!r}
for package in absent:
    sys.modules[package] = None  # as if it were not installed
from mmengine.registry import MODELS, DefaultScope
if scope:
    DefaultScope.get_instance('cold', scope_name=scope)
    MODELS = importlib.import_module(scope + '.registry').MODELS
model = MODELS.build(dict(type='mmxvit.XFormer', arch='xformer'))
print(json.dumps([sum(p.numel() for p in model.parameters()),
                  [m for m in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')
                   if sys.modules.get(m)]]))
'''


@pytest.mark.parametrize('scope', [None, *TASK_PACKAGES])
def test_builds_cold_in_each_scope(scope):
    """Beside the scope's own package none is needed, none imported.

    The others are made unimportable: the task packages import one another
    where they can (mmdet's re-identification models take mmpretrain along),
    whatever backbone is built.
    """
    absent = [m for m in TASK_PACKAGES if m != scope]
    if scope == 'mmseg':  # its data sets need mmpretrain
        absent.remove('mmpretrain')
    result = run(BUILD.format(scope=scope, absent=absent))
    assert result.returncode == 0, result.stderr
    parameters, imported = json.loads(result.stdout.splitlines()[-1])
    assert parameters == 4_803_158
    assert not set(absent) & set(imported)
    assert scope or not imported


def test_import_is_light():
    code = ('import sys, mmxvit; print([m for m in ("torchvision", "mmcv", '
            '"mmdet", "mmseg", "mmpretrain", "cv2") if m in sys.modules])')
    result = run(code)
    assert result.stdout.strip() == '[]', result.stdout + result.stderr


def test_locations_are_real():
    names = [n for n in vars(registry) if n.isupper() and 'MMENGINE' not in n]
    assert 'MODELS' in names
    for name in names:
        child = getattr(registry, name)
        assert child.scope == 'mmxvit' and child.parent.scope == 'mmengine'
        assert child._locations
        for location in child._locations:
            importlib.import_module(location)


def lazy_names():
    return [(parent, name) for parent in vars(registry).values()
            if isinstance(parent, registry.LazyRegistry)
            for name in parent.lazy]


def test_every_lazy_name_resolves():
    names = lazy_names()
    assert {name for _, name in names} >= {
        'LayerNormClsHead', 'LVTClsHead', 'CocoPanopticMetric',
        'LoadPanopticAnnotations', 'DetLocalVisualizer'
    }
    for parent, name in names:
        kind = parent.get(name)
        assert kind.__name__ == name
        assert kind.__module__ == parent.lazy[name]
        assert parent.get(f'mmxvit.{name}') is kind


LOOK_UP = '''
import json, sys
from mmengine.registry import MODELS
found = {}
for name in sys.argv[1:]:
    MODELS.get('mmxvit.' + name)
    found[name] = [m for m in ('mmdet', 'mmseg', 'mmpretrain', 'lazy_probe')
                   if sys.modules.get(m)]
print(json.dumps(found))
'''


def test_only_the_name_asked_for_imports_its_task_package(tmp_path):
    """The others are made unimportable: mmpretrain takes mmdet along."""
    (tmp_path / 'lazy_probe.py').write_text(
        'from mmxvit.registry import MODELS\n'
        'MODELS.register_module(name="Probe", module=dict)\n')
    code = '''
import sys
sys.modules['mmdet'] = sys.modules['mmseg'] = None
import mmxvit.registry
mmxvit.registry.MODELS.lazy['Probe'] = 'lazy_probe'
'''
    result = run(code + LOOK_UP, 'XFormer', 'Probe', 'LayerNormClsHead',
                 cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found['XFormer'] == []
    assert found['Probe'] == ['lazy_probe']
    assert found['LayerNormClsHead'] == ['mmpretrain', 'lazy_probe']


MISSING = '''
import sys
package, scope = {package!r}, {scope!r}
sys.modules[package] = None  # as if it were not installed
from mmengine.registry import MODELS, DefaultScope
import mmxvit.registry
mmxvit.registry.MODELS.lazy['Probe'] = 'lazy_probe'
if scope:
    DefaultScope.get_instance('cold', scope_name=scope)
{build}
'''
BUILD_CLASSIFIER = '''
from mmpretrain.registry import MODELS
MODELS.build(dict(
    type='ImageClassifier', backbone=dict(type='mmxvit.XFormer'),
    head=dict(type='mmxvit.Probe')))
'''


@pytest.mark.parametrize('package, scope, build', [
    ('mmpretrain', None, "MODELS.build(dict(type='mmxvit.LVTClsHead'))"),
    ('mmpretrain', 'mmpretrain', "MODELS.get('mmxvit.LayerNormClsHead')"),
    # what a stock config of a package that is there builds
    ('mmdet', 'mmpretrain', BUILD_CLASSIFIER),
])
def test_missing_task_package_is_told(package, scope, build, tmp_path):
    (tmp_path / 'lazy_probe.py').write_text('from mmdet.models import X\n')
    code = MISSING.format(package=package, scope=scope, build=build)
    result = run(code, cwd=tmp_path)
    last = result.stderr.splitlines()[-1]
    assert result.returncode != 0
    assert last.startswith('RuntimeError: mmxvit.')
    assert f'needs {package}, which is not installed; run: pip' in last
    assert (f'"{package}>=' in last) and (f'"onedl-{package}' in last)


def test_broken_task_package_is_told(tmp_path):
    (tmp_path / 'lazy_probe.py').write_text('from json import nonsense\n')
    code = MISSING.format(
        package='mmdet', scope=None, build="MODELS.get('mmxvit.Probe')")
    last = run(code, cwd=tmp_path).stderr.splitlines()[-1]
    assert last.startswith('RuntimeError: mmxvit.Probe')
    assert "cannot import name 'nonsense' from 'json'" in last


def test_unknown_name_is_not_in_the_registry():
    assert registry.MODELS.get('NoSuchHead') is None
    with pytest.raises(KeyError, match='NoSuchHead is not in the mmxvit'):
        registry.MODELS.build(dict(type='NoSuchHead'))


def test_old_dependency_is_reported_from_a_stock_config():
    """MMEngine swallows ImportError here; the user must see the remedy."""
    code = '''
from importlib import metadata
from mmdet.registry import MODELS
real = metadata.version
metadata.version = lambda name: '0.1' if 'torch' == name else real(name)
MODELS.build(dict(type='mmxvit.XFormer'))
'''
    result = run(code)
    assert result.returncode != 0
    assert 'RuntimeError: mmxvit cannot be used' in result.stderr
    assert 'pip install "torch>=2.1"' in result.stderr
    assert 'not in the' not in result.stderr


def test_missing_module_of_a_package_that_is_there_is_told(monkeypatch,
                                                           tmp_path):
    (tmp_path / 'lazy_module.py').write_text('import mmengine.nothing\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.MODELS.lazy, 'Probe', 'lazy_module')
    with pytest.raises(RuntimeError) as error:
        registry.MODELS.get('mmxvit.Probe')
    assert str(error.value) == (
        'mmxvit.Probe: a package that it needs cannot be imported: '
        "ModuleNotFoundError: No module named 'mmengine.nothing' "
        f'(mmengine {mmengine.__version__} is installed)')
