# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import ast
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from mmxvit import dependencies

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch):
    """A made-up environment: distribution name -> version."""
    versions = {
        'torch': '2.8.0+cu128',
        'numpy': '2.2.6',
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
    installed['numpy'] = '1.26.4'
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
    installed['onedl-mmcv'] = '2.0.1'
    with pytest.raises(RuntimeError) as error:
        dependencies.check_dependencies()
    message = str(error.value)
    assert 'mmengine 0.8.0 is older than 0.10.6' in message
    assert 'onedl-mmcv 2.0.1 is older than 2.1.0' in message
    assert 'mmdet 2.28.0 is older than 3.3.0' in message
    assert message.endswith(
        'Run: pip install "mmengine>=0.10.6" "mmdet>=3.3.0" && '
        'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir '
        '--no-deps '
        '--force-reinstall "onedl-mmcv>=2.1.0"')


@pytest.mark.parametrize('dist, said', [
    # mmdet 3.3.0 refuses the latest one
    ('mmcv', '--force-reinstall mmcv==2.1.0'),
    ('mmcv-lite', 'pip install "mmcv-lite>=2.1.0"'),
])
def test_old_mmcv_of_openmmlab(installed, dist, said):
    del installed['onedl-mmcv']
    installed[dist] = '1.7.2'
    with pytest.raises(RuntimeError, match=f'{dist} 1.7.2 is older') as error:
        dependencies.check_dependencies()
    assert str(error.value).endswith(said)


def test_mmcv_is_compiled_for_the_torch_that_is_there(installed):
    missing = ModuleNotFoundError("No module named 'mmcv'", name='mmcv')
    assert dependencies.explain_import_error(missing) == (
        'it imports mmcv, which is not installed; run: MMCV_WITH_OPS=1 pip '
        'install --no-build-isolation --no-cache-dir --no-deps '
        '--force-reinstall "onedl-mmcv>=2.1.0" (or mmcv==2.1.0, beside the '
        'packages of OpenMMLab)')


@pytest.mark.parametrize('script', [
    'tools/train.py', 'tools/test.py', 'tools/analysis_tools/get_flops.py',
    'tools/dataset_tools/make_shapes.py', 'demo/image_demo.py'
])
def test_commands_say_it_in_one_line(tmp_path, script):
    name = 'onedl-mmdetection'  # asked for first, on both stacks
    info = tmp_path / f'{name.replace("-", "_")}-2.28.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: 2.28.0\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    def run(*command):
        return subprocess.run(
            [sys.executable, '-W', 'ignore', *command], cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=path), text=True,
            capture_output=True)

    done = run(ROOT / script, '--help')
    assert done.returncode == 1
    assert done.stderr == (
        f'error: mmxvit cannot be used: {name} 2.28.0 is older than 3.3.0. '
        f'Run: pip install "{name}>=3.3.0"\n')
    # a program of somebody else gets an exception
    done = run('-c', 'import mmxvit')
    assert done.stderr.startswith('Traceback')
    assert f'RuntimeError: mmxvit cannot be used: {name}' in done.stderr


SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for folder in ('tools', 'demo')
    for path in (ROOT / folder).rglob('*.py') if path.parent.name != 'dev')


@pytest.mark.parametrize('script', SCRIPTS)
def test_commands_import_mmxvit_first(script):
    """Or a package that is missing would end them with a traceback."""
    imported = [
        name.partition('.')[0]
        for node in ast.parse((ROOT / script).read_text()).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import) else [node.module]
            if isinstance(node, ast.ImportFrom) else [])]
    checked = [n for n in imported if n in ('torch', 'numpy', 'mmxvit')
               or n.startswith('mm')]
    assert checked[:1] in ([], ['mmxvit'])


def test_commands_say_that_a_package_is_missing(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text("""
import sys
from importlib import metadata

def version(name, real=metadata.version):
    if name in ('mmengine', 'onedl-mmengine'):
        raise metadata.PackageNotFoundError(name)
    return real(name)

metadata.version = version
sys.modules['mmengine'] = None
""")
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', ROOT / 'tools/train.py', '--help'],
        cwd=tmp_path, text=True, capture_output=True,
        env=dict(os.environ, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}'))
    assert done.returncode == 1
    (line, ) = done.stderr.splitlines()
    assert line.startswith(
        'error: mmxvit cannot be used: mmengine is not installed. Run: pip')


def test_a_source_tree_without_metadata_counts_as_installed(
        installed, monkeypatch):
    del installed['onedl-mmengine']
    monkeypatch.setattr(util, 'find_spec', lambda name: object())
    dependencies.check_dependencies()


def test_numpy_2_beside_a_torch_built_with_numpy_1(installed):
    installed['torch'] = '2.2.2+cpu'
    with pytest.raises(RuntimeError) as error:
        dependencies.check_dependencies()
    assert str(error.value) == (
        'mmxvit cannot be used: numpy 2.2.6 does not work with torch '
        '2.2.2+cpu, which was built with numpy 1. Run: pip install "numpy<2"')


@pytest.mark.parametrize('mmcv, said', [
    ('onedl-mmcv', 'onedl-mmcv==1.7.2'), ('mmcv', 'mmcv==1.7.2'),
    ('mmcv-lite', 'mmcv==1.7.2'),
])
@pytest.mark.parametrize('error, expected', [
    (ModuleNotFoundError("No module named 'mmcv._ext'"),
     '1.7.2 is without its operators'),
    (ImportError('/x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined '
                 'symbol: _ZN3c10'), 'compiled for another torch'),
])
def test_operators_of_mmcv(installed, mmcv, said, error, expected):
    del installed['onedl-mmcv']
    installed[mmcv] = '1.7.2'
    line = dependencies.explain_import_error(error)
    assert line.startswith(mmcv) and expected in line
    assert 'MMCV_WITH_OPS=1 pip install --no-build-isolation' in line
    assert line.endswith(said)


@pytest.mark.parametrize('error', [
    ValueError('numpy.dtype size changed, may indicate binary\n'
               'incompatibility. Expected 96 from C header, got 88'),
    ImportError('numpy.core.multiarray failed to import'),
    AttributeError('_ARRAY_API not found'),
])
def test_package_compiled_for_another_numpy(installed, error):
    line = dependencies.explain_import_error(error)
    assert line.startswith('one of its packages was compiled for another '
                           'numpy than the installed 2.2.6')
    assert line.count('\n') == 0 and line.endswith('install that again')
    for package, command in (
            ('pycocotools', 'pip install --force-reinstall --no-cache-dir '
             '--no-deps pycocotools'),
            ('skimage', '--no-deps scikit-image'),
            ('mmcv', '--force-reinstall onedl-mmcv==2.3.6')):
        # as its module has it, whose import fails
        code = {'__name__': f'{package}.mask',
                'error': error.with_traceback(None)}
        with pytest.raises(type(error)) as caught:
            exec('raise error', code)
        line = dependencies.explain_import_error(caught.value)
        assert line.startswith(f'{package} was compiled for another numpy')
        assert line.endswith(command)


def test_undefined_symbols_of_others_are_not_blamed_on_mmcv(installed):
    text = '/x/torchvision/_C.so: undefined symbol: _ZN3c10'
    assert dependencies.explain_import_error(ImportError(text)) == \
        f'ImportError: {text}'


@pytest.mark.parametrize('module, requirement', [
    ('ftfy', 'ftfy'), ('pkg_resources', '"setuptools<81"'),
    ('cv2', 'opencv-python'), ('PIL.Image', 'pillow'), ('yaml', 'pyyaml'),
    ('skimage.io', 'scikit-image'), ('sklearn', 'scikit-learn'),
    ('mmpretrain.datasets', '"onedl-mmpretrain>=1.2.0" '
     '(or "mmpretrain>=1.2.0")'),
])
def test_missing_package(installed, module, requirement):
    missing = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert dependencies.explain_import_error(missing) == (
        f'it imports {module.partition(".")[0]}, which is not installed; '
        f'run: pip install {requirement}')


@pytest.mark.parametrize('module, there', [
    ('mmdet.structures', ' (mmdet 2.28.0 is installed)'),
    ('cv2.gapi', ' (cv2 4.5.0 is installed)'),
    ('local_code.part', ''),  # without metadata
])
def test_missing_module_of_a_package(installed, monkeypatch, module, there):
    installed.update({'mmdet': '2.28.0', 'opencv-python': '4.5.0'})
    monkeypatch.setattr(
        util, 'find_spec',
        lambda name: object() if name == module.partition('.')[0] else None)
    text = f"No module named '{module}'"
    missing = ModuleNotFoundError(text, name=module)
    assert dependencies.explain_import_error(missing) == \
        f'ModuleNotFoundError: {text}{there}'


def test_other_errors_are_passed_on_in_one_line():
    error = AssertionError('MMEngine==0.1 is used\n but incompatible')
    assert dependencies.explain_import_error(error) == \
        'AssertionError: MMEngine==0.1 is used but incompatible'


def test_mmcv_that_is_too_new(installed):
    error = AssertionError(
        'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, '
        '<2.2.0.')
    assert 'run' not in dependencies.explain_import_error(error)
    installed['mmdet'] = '3.3.0'
    assert dependencies.explain_import_error(error) == (
        f'{error}; run: {dependencies.how_to_compile("mmcv==2.1.0")}')


def test_two_owners_of_the_same_files(installed, recwarn):
    dependencies.check_dependencies()
    assert not recwarn.list
    installed['mmcv'] = '2.1.0'
    with pytest.warns(UserWarning, match='onedl-mmcv and mmcv are both .* pip '
                      'uninstall onedl-mmcv mmcv, and install that one again'):
        dependencies.check_dependencies()
