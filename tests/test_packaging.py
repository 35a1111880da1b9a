# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What wheels, sdists and editable installs contain."""
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MIM = 'mmxvit/.mim/'


def files_below(folder, *parts):
    """Relative names of the files that a distribution takes along."""
    return {
        path.relative_to(folder).as_posix()
        for part in parts for path in (folder / part).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the sources in which nothing has ever been built."""
    root = tmp_path_factory.mktemp('source') / 'mmxvit'
    ignore = shutil.ignore_patterns('.mim', '__pycache__', '*.egg-info',
                                    '_build')
    for name in ('configs', 'demo', 'docs', 'mmxvit', 'requirements', 'tests',
                 'tools', '.ci'):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != '.gitignore':
            shutil.copy(path, root / path.name)
    # leftovers that must not be shipped
    for folder in ('mmxvit', 'tools'):
        cache = root / folder / '__pycache__'
        cache.mkdir()
        (cache / 'left.cpython-311.pyc').touch()
    return root


def build_wheel(source, out):
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-build-isolation',
         '--no-deps', '--no-cache-dir', '-w', out, source],
        check=True, cwd=out, capture_output=True)
    (wheel, ) = out.glob('mmxvit-*.whl')
    return wheel


def build_with_hook(hook, source, out):
    """Call a hook of the build backend, as pip and build do."""
    code = 'from setuptools import build_meta; ' \
        f'build_meta.{hook}({str(out)!r})'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=source,
                   capture_output=True)
    (result, ) = out.iterdir()
    return result


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def sdist(source, tmp_path_factory):
    return build_with_hook('build_sdist', source,
                           tmp_path_factory.mktemp('sdist'))


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name, ) = (n for n in archive.namelist() if n.endswith('/METADATA'))
        return email.message_from_bytes(archive.read(name))


def mim_files(source):
    """What OpenMIM is to find: all but the script that sets up a clone."""
    files = files_below(source, 'configs', 'tools') | {'model-index.yml'}
    return {MIM + f for f in files if not f.startswith('tools/dev/')}


def test_wheel_contains_package_and_mim(source, wheel):
    names = {n for n in names_in(wheel) if '.dist-info/' not in n}
    package = {f for f in files_below(source, 'mmxvit')
               if not f.startswith(MIM)}
    assert 'mmxvit/version.py' in package
    assert MIM + 'tools/train.py' in mim_files(source)
    assert any(f.startswith(MIM + 'configs/') for f in mim_files(source))
    assert names == package | mim_files(source)


def test_mim_in_the_folder_that_onedl_mim_takes_for_the_package(
        source, wheel):
    """That of the first entry of RECORD, which pip sorts."""
    folder = min(names_in(wheel)).partition('/')[0]
    assert folder.endswith('.dist-info')
    found = {n.removeprefix(f'{folder}/') for n in names_in(wheel)
             if n.startswith(f'{folder}/.mim/')}
    assert found == {n.removeprefix('mmxvit/') for n in mim_files(source)}


def test_wheel_metadata(wheel):
    info = metadata(wheel)
    version = re.search("'(.+)'", (ROOT / 'mmxvit/version.py').read_text())[1]
    assert (info['Name'], info['Version']) == ('mmxvit', version)
    assert info['License-Expression'] == 'Apache-2.0'
    assert any(n.endswith('/licenses/LICENSE') for n in names_in(wheel))
    assert wheel.name == f'mmxvit-{version}-py3-none-any.whl'


def test_requirements_name_no_mm_package(wheel):
    requirements = metadata(wheel).get_all('Requires-Dist')
    always = {re.match(r'[\w-]+', r)[0] for r in requirements
              if 'extra ==' not in r}
    assert always == {'torch', 'numpy', 'packaging'}


@pytest.mark.parametrize('extra', ['onedl', 'openmmlab'])
def test_extras_are_the_pinned_sets(wheel, extra):
    mark = f'extra == "{extra}"'
    found = {r.split(';')[0].strip()
             for r in metadata(wheel).get_all('Requires-Dist') if mark in r}
    lines = (ROOT / 'requirements' / f'{extra}.txt').read_text().splitlines()
    assert found == {x for x in lines if not x.startswith('#')}
    assert all('==' in x for x in found)
    assert len([x for x in found if re.match(r'(onedl-)?mm', x)]) == 5


def test_extra_tests_is_all_that_set_up_installs_for_them(wheel):
    found = {re.match(r'[\w-]+', r)[0]
             for r in metadata(wheel).get_all('Requires-Dist')
             if 'extra == "tests"' in r}
    assert found >= {'pytest', 'ruff', 'codespell', 'onnx', 'onnxruntime',
                     'openvino', 'sphinx', 'myst-parser', 'furo'}


def test_sdist_contains_what_its_user_needs(source, sdist):
    with tarfile.open(sdist) as archive:
        names = {n.split('/', 1)[1] for n in archive.getnames() if '/' in n
                 and archive.getmember(n).isfile()}
    assert mim_files(source) <= names
    assert files_below(source, 'configs', 'tools', 'tests', 'docs', 'mmxvit',
                       'requirements', '.ci') - names == set()
    assert {'Makefile', 'LICENSE', 'README.md', 'CHANGELOG.md', 'setup.py',
            'hubconf.py', 'pyproject.toml'} <= names
    assert not any(n.endswith('.pyc') for n in names)


def test_wheel_from_unpacked_sdist_is_the_same(wheel, sdist, tmp_path):
    shutil.unpack_archive(sdist, tmp_path)
    (unpacked, ) = tmp_path.iterdir()
    (tmp_path / 'wheel').mkdir()
    again = build_wheel(unpacked, tmp_path / 'wheel')
    assert names_in(again) == names_in(wheel)
    assert again.name == wheel.name


def test_editable_install_follows_the_sources(source, tmp_path):
    site = tmp_path / 'site'
    (tmp_path / 'wheel').mkdir()
    editable = build_with_hook('build_editable', source, tmp_path / 'wheel')
    shutil.unpack_archive(editable, site, 'zip')
    code = f'import site; site.addsitedir({str(site)!r}); ' \
        'import importlib.util as u; print(u.find_spec("mmxvit").origin)'
    # -S and an empty place: only this install can be found
    result = subprocess.run([sys.executable, '-S', '-c', code], check=True,
                            cwd=site, capture_output=True, text=True)
    origin = Path(result.stdout.strip())
    assert origin == source / 'mmxvit' / '__init__.py'

    mim = origin.parent / '.mim'
    assert files_below(mim, 'configs') == files_below(source, 'configs')
    assert (mim / 'model-index.yml').is_file()
    new = source / 'configs' / 'new.py'
    new.touch()
    try:
        assert (mim / 'configs' / 'new.py').is_file()
    finally:
        new.unlink()


def test_build_replaces_an_old_copy(source, tmp_path):
    """Where links cannot be made .mim holds copies, also of removed files."""
    mim = source / 'mmxvit' / '.mim'
    (mim / 'configs').unlink(missing_ok=True)
    (mim / 'configs').mkdir(parents=True)
    (mim / 'configs' / 'removed.py').touch()
    names = names_in(build_wheel(source, tmp_path))
    assert MIM + 'configs/removed.py' not in names
    assert mim_files(source) <= names


def test_a_second_build_drops_what_is_gone(source, tmp_path):
    """setuptools leaves what it has copied in the folder ``build``."""
    gone = [source / 'configs' / 'gone.py', source / 'mmxvit' / 'gone.py']
    try:
        for path in gone:
            path.touch()
        assert MIM + 'configs/gone.py' in names_in(
            build_wheel(source, tmp_path))
        assert (source / 'build').is_dir()
    finally:
        for path in gone:
            path.unlink()
    names = names_in(build_wheel(source, tmp_path))
    assert not any(name.endswith('gone.py') for name in names)
    assert mim_files(source) <= names


def test_executables_are_executable():
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)
