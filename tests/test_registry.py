# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""``type='mmxvit.X'`` from a cold start, in each scope, without imports."""
import importlib
import json
import subprocess
import sys

import pytest

from mmxvit import registry

TASK_PACKAGES = ('mmdet', 'mmseg', 'mmpretrain')


def run(code):
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          capture_output=True,
                          text=True)


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
