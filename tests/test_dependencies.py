# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from importlib import metadata, util

import pytest

from mmxvit import dependencies


@pytest.fixture
def installed(monkeypatch):
    """A made-up environment: distribution name -> version."""
    versions = {
        'torch': '2.8.0+cu128',
        'onedl-mmengine': '0.10.12',
        'onedl-mmcv': '2.3.6'
    }

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, 'version', version)
    monkeypatch.setattr(util, 'find_spec', lambda name: None)
    return versions


def test_good_environments(installed):
    dependencies.check_dependencies()
    installed.clear()  # torch and MMEngine alone serve plain PyTorch users
    installed.update({'torch': '2.1.2', 'mmengine': '0.10.7'})
    dependencies.check_dependencies()


@pytest.mark.parametrize('name, module', [('torch', 'torch'),
                                          ('onedl-mmengine', 'mmengine')])
def test_missing(installed, name, module):
    del installed[name]
    with pytest.raises(RuntimeError) as error:
        dependencies.check_dependencies()
    assert f'{module} is not installed' in str(error.value)
    assert f'pip install "{name}>=' in str(error.value)


def test_all_that_is_too_old_is_named_once(installed):
    del installed['onedl-mmengine']
    installed['mmengine'] = '0.8.0'
    installed['mmdet'] = '2.28.0'
    with pytest.raises(RuntimeError) as error:
        dependencies.check_dependencies()
    message = str(error.value)
    assert 'mmengine 0.8.0 is older than 0.10.6' in message
    assert 'mmdet 2.28.0 is older than 3.3.0' in message
    assert message.endswith(
        'pip install "mmengine>=0.10.6" "mmdet>=3.3.0"')


def test_a_source_tree_without_metadata_counts_as_installed(
        installed, monkeypatch):
    del installed['onedl-mmengine']
    monkeypatch.setattr(util, 'find_spec', lambda name: object())
    dependencies.check_dependencies()
