# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The logic of set-up, with pip and the compiler replaced by stand-ins."""
import ast
import ctypes
import errno
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'dev' / 'setup_env.py'

spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)
SetupError = setup_env.SetupError


def write_executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    """A copy of what set-up reads."""
    root = tmp_path / 'clone'
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    for name in (*setup_env.PACKAGE_FILES, 'mmxvit/__init__.py',
                 'tools/dev/setup_env.py'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


class Steps:
    """Stands in for ``setup_env.run``: does what the commands would leave."""

    def __init__(self, root):
        self.root = root
        self.calls = []
        self.fail = {}  # part of a command -> how often it still fails
        tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
        self.tags = f'{tag}-{tag}-linux_{setup_env.platform.machine()}'

    def __call__(self, title, command, log, env=None):
        command = list(map(str, command))
        text = ' '.join(command)
        self.calls.append((text, env))
        for part in self.fail:
            if part in text and self.fail[part]:
                self.fail[part] -= 1
                raise SetupError(f'{title} failed')
        if '-m venv' in text:
            self.point_to(Path(command[-1]), 'None')
        elif 'pip wheel' in text:
            name, version = command[-1].split('==')
            folder = Path(command[command.index('-w') + 1])
            name = name.replace('-', '_')
            (folder / f'{name}-{version}-{self.tags}.whl').touch()
        elif '-e' in command:
            self.point_to(Path(command[0]).parents[1],
                          Path(command[-1], 'mmxvit', '__init__.py'))
            mim = Path(command[-1], 'mmxvit', '.mim')
            mim.mkdir(exist_ok=True)
            (mim / 'tools').mkdir(exist_ok=True)

    @staticmethod
    def point_to(venv, origin):
        """Make a python that finds mmxvit at ``origin``."""
        write_executable(venv / 'bin' / 'python',
                         f'#!/bin/sh\necho "{origin}"\n')

    def count(self, part):
        return sum(part in text for text, _ in self.calls)


@pytest.fixture
def steps(clone, monkeypatch):
    steps = Steps(clone)
    monkeypatch.setattr(setup_env, 'run', steps)
    monkeypatch.setattr(setup_env, 'preflight', lambda *_: None)
    return steps


@pytest.fixture
def set_up(clone, tmp_path):
    """Set-up into ``tmp_path``, with its folder for the environment."""

    def call(root=clone, stack='onedl'):
        # the preflight check, replaced here, makes the folder
        if not call.venv.exists():
            call.venv.mkdir()
        setup_env.set_up(root, call.venv, stack, call.cache)

    call.venv, call.cache = tmp_path / 'venv', tmp_path / 'cache'
    return call


# ---- keys ------------------------------------------------------------------

ENVIRONMENT_FILES = [
    'requirements/{stack}_setup.txt', 'requirements/{stack}.txt',
    'requirements/runtime.txt', 'requirements/deploy.txt',
    'requirements/tests.txt', 'requirements/docs.txt',
    'tools/dev/setup_env.py'
]


@pytest.mark.parametrize('stack', setup_env.STACKS)
@pytest.mark.parametrize('name', ENVIRONMENT_FILES)
def test_environment_key_follows_each_input(clone, name, stack):
    before = setup_env.environment_key(clone, stack)
    with (clone / name.format(stack=stack)).open('a') as stream:
        stream.write('# changed\n')
    assert setup_env.environment_key(clone, stack) != before


def test_environment_key_follows_python_and_machine(clone, monkeypatch):
    keys = {setup_env.environment_key(clone, 'onedl')}
    monkeypatch.setattr(setup_env, 'PYTHON', '3.99')
    keys.add(setup_env.environment_key(clone, 'onedl'))
    monkeypatch.setattr(setup_env.platform, 'machine', lambda: 'other')
    keys.add(setup_env.environment_key(clone, 'onedl'))
    assert len(keys) == 3


def test_environment_key_ignores_what_set_up_does_not_read(clone, tmp_path):
    before = setup_env.environment_key(clone, 'onedl')
    (clone / 'requirements' / 'openmmlab.txt').write_text('changed\n')
    (clone / 'pyproject.toml').write_text('changed\n')
    moved = shutil.copytree(clone, tmp_path / 'moved')
    assert setup_env.environment_key(moved, 'onedl') == before


@pytest.mark.parametrize('name', setup_env.PACKAGE_FILES)
def test_package_key_follows_each_input(clone, name):
    before = setup_env.package_key(clone)
    (clone / name).write_text((clone / name).read_text() + '\n')
    assert setup_env.package_key(clone) != before


def test_package_key_follows_the_clone(clone, tmp_path):
    moved = shutil.copytree(clone, tmp_path / 'moved')
    assert setup_env.package_key(moved) != setup_env.package_key(clone)


@pytest.mark.parametrize('stack', setup_env.STACKS)
def test_each_stack_is_pinned(stack):
    build, packages, *others = setup_env.requirement_files(ROOT, stack)
    for file, names in ((build, ('torch', 'torchvision', 'opencv-python')),
                        (packages, ('mmengine', 'mmcv', 'mmpretrain'))):
        for name in names:
            assert setup_env.pin(file, name)[1]
    assert 'setuptools>=77,<81' in build.read_text().split()
    assert all(file.is_file() for file in others)


def test_unknown_stack_names_those_there_are(set_up):
    with pytest.raises(SetupError, match="no stack 'x', there is: onedl, "):
        set_up(stack='x')


# ---- the environment -------------------------------------------------------


def test_first_set_up_and_second(steps, set_up):
    set_up()
    text, env = next(c for c in steps.calls if 'pip wheel' in c[0])
    for flag in ('--no-build-isolation', '--no-cache-dir', '--no-deps'):
        assert flag in text
    assert env['MMCV_WITH_OPS'] == '1' and env['FORCE_CUDA'] == '0'
    order = [steps.count(part) and next(
        i for i, c in enumerate(steps.calls) if part in c[0])
        for part in ('-m venv', 'onedl_setup.txt', 'pip wheel', 'onedl.txt',
                     'import mmcv.ops', '-e ')]
    assert order == sorted(order)


def test_second_set_up_asks_only_which_mmxvit_is_imported(
        steps, set_up, monkeypatch):
    set_up()
    steps.calls.clear()
    started, run = [], subprocess.run
    monkeypatch.setattr(subprocess, 'run', lambda command, **kwargs: (
        started.append(command[:2]), run(command, **kwargs))[1])
    set_up()
    assert steps.calls == []
    assert started == [[str(set_up.venv / 'bin' / 'python'), '-c']]


def test_changed_requirement_is_a_new_environment(steps, set_up, clone):
    set_up()
    (set_up.venv / 'lib').mkdir()
    (set_up.venv / 'lib' / 'old').touch()
    with (clone / 'requirements' / 'tests.txt').open('a') as stream:
        stream.write('another\n')
    steps.calls.clear()
    set_up()
    assert steps.count('-m venv') == 1
    assert not (set_up.venv / 'lib').exists()
    # the compiled mmcv is still right
    assert steps.count('pip wheel') == 0


@pytest.mark.parametrize('name', setup_env.PACKAGE_FILES)
def test_changed_metadata_is_only_a_new_editable_install(
        steps, set_up, clone, name):
    set_up()
    (clone / name).write_text((clone / name).read_text() + '\n')
    steps.calls.clear()
    set_up()
    assert [text.split()[1:-1] for text, _ in steps.calls] == [[
        '-m', 'pip', 'install', '--no-deps', '--no-build-isolation', '-e']]


def test_another_clone_is_only_a_new_editable_install(
        steps, set_up, clone, tmp_path):
    set_up()
    moved = shutil.copytree(clone, tmp_path / 'moved')
    steps.calls.clear()
    set_up(moved)
    assert [text.split()[-2:] for text, _ in steps.calls] == [
        ['-e', str(moved)]]


def test_mmxvit_from_elsewhere_is_noticed(steps, set_up, clone):
    set_up()
    steps.point_to(set_up.venv, '/elsewhere/mmxvit/__init__.py')
    steps.calls.clear()
    set_up()
    assert steps.count(f'-e {clone}') == len(steps.calls) == 1


def test_missing_mim_is_noticed(steps, set_up, clone):
    set_up()
    shutil.rmtree(clone / 'mmxvit' / '.mim')
    steps.calls.clear()
    set_up()
    assert steps.count(f'-e {clone}') == len(steps.calls) == 1


def test_foreign_environment_is_left_alone(steps, set_up):
    config = set_up.venv / 'pyvenv.cfg'
    config.parent.mkdir()
    config.write_text('mine')
    with pytest.raises(SetupError, match='not made by this set-up'):
        set_up()
    assert config.read_text() == 'mine'
    assert list(set_up.venv.iterdir()) == [config]
    assert steps.calls == []


def test_file_in_the_place_of_the_environment_is_left_alone(steps, set_up):
    set_up.venv.write_text('mine')
    with pytest.raises(SetupError, match='not made by this set-up'):
        set_up()
    assert set_up.venv.read_text() == 'mine'


@pytest.mark.parametrize('step', ['-m venv', 'onedl_setup.txt', 'pip wheel',
                                  'onedl.txt', 'tests.txt', ' -e '])
def test_stopped_set_up_starts_over(steps, set_up, step):
    steps.fail = {step: 1}
    with pytest.raises(SetupError):
        set_up()
    steps.calls.clear()
    set_up()
    # only the last step goes on with what is there
    assert steps.count('-m venv') == (step != ' -e ')
    steps.calls.clear()
    set_up()
    assert steps.calls == []


# ---- mmcv ------------------------------------------------------------------


def wheels(set_up):
    return list(set_up.cache.glob('wheels/*/*'))


def test_wheel_is_kept_by_torch_and_python(steps, set_up, clone):
    set_up()
    (wheel, ) = wheels(set_up)
    torch = setup_env.pin(clone / 'requirements/onedl_setup.txt', 'torch')[1]
    major, minor = sys.version_info[:2]
    assert wheel.parent.name == f'torch{torch}-cp{major}{minor}'

    build = clone / 'requirements' / 'onedl_setup.txt'
    build.write_text(build.read_text().replace(f'torch=={torch}',
                                               'torch==2.99.0'))
    steps.calls.clear()
    set_up()
    assert steps.count('pip wheel') == 1
    assert {w.parent.name for w in wheels(set_up)} == {
        wheel.parent.name, f'torch2.99.0-cp{major}{minor}'}


@pytest.mark.parametrize('name, found', [
    ('onedl_mmcv-2.3.6-{tag}-{tag}-linux_{machine}.whl', True),
    ('onedl_mmcv-2.3.6-{tag}-{tag}-manylinux_2_28_{machine}.whl', True),
    ('onedl_mmcv-2.3.5-{tag}-{tag}-linux_{machine}.whl', False),
    ('mmcv-2.3.6-{tag}-{tag}-linux_{machine}.whl', False),
    ('onedl_mmcv-2.3.6-cp399-cp399-linux_{machine}.whl', False),
    ('onedl_mmcv-2.3.6-{tag}-{tag}-linux_other.whl', False),
    ('onedl_mmcv-2.3.6-py3-none-any.whl', False),
])
def test_which_wheel_counts(tmp_path, name, found):
    major, minor = sys.version_info[:2]
    wheel = tmp_path / name.format(tag=f'cp{major}{minor}',
                                   machine=setup_env.platform.machine())
    wheel.touch()
    expected = wheel if found else None
    assert setup_env.find_wheel(tmp_path, 'onedl-mmcv', '2.3.6') == expected


def test_cached_wheel_that_does_not_fit_is_built_anew(steps, set_up, clone):
    set_up()
    (clone / 'requirements' / 'tests.txt').write_text('')
    steps.calls.clear()
    steps.fail = {'import mmcv.ops': 1}
    set_up()
    assert steps.count('pip wheel') == 1
    assert steps.count('--force-reinstall') == 1
    assert len(wheels(set_up)) == 1


def test_new_wheel_that_does_not_work_is_not_kept(steps, set_up):
    steps.fail = {'import mmcv.ops': 1}
    with pytest.raises(SetupError, match='mmcv.ops failed'):
        set_up()
    assert steps.count('pip wheel') == 1
    assert wheels(set_up) == []


def test_wheel_without_operators_is_refused(steps, set_up):
    steps.tags = 'py3-none-any'
    with pytest.raises(SetupError, match='without its operators'):
        set_up()
    assert wheels(set_up) == []


def test_killed_build_leaves_no_wheel(steps, set_up):
    steps.fail = {'pip wheel': 1}
    with pytest.raises(SetupError):
        set_up()
    (folder, ) = set_up.cache.glob('wheels/*')
    # what a process that was killed outright could not remove itself
    (folder / 'build-left').mkdir()
    (folder / 'build-left' / 'half.whl').touch()
    set_up()
    assert [w.suffix for w in wheels(set_up)] == ['.whl']


def test_one_opencv_is_left(steps, set_up):
    site = set_up.venv / 'lib' / 'python3.99' / 'site-packages'
    for name in ('opencv_python-4.12.0.88', 'opencv_python_headless-5.0'):
        (site / f'{name}.dist-info').mkdir(parents=True)
    python = set_up.venv / 'bin' / 'python'
    setup_env.one_opencv(python, ROOT, 'onedl', None)
    assert [' '.join(text.split()[3:]) for text, _ in steps.calls] == [
        'uninstall -y opencv-python opencv-python-headless',
        'install --no-deps opencv-python==4.12.0.88']

    shutil.rmtree(site / 'opencv_python_headless-5.0.dist-info')
    steps.calls.clear()
    setup_env.one_opencv(python, ROOT, 'onedl', None)
    assert steps.calls == []


# ---- checks ----------------------------------------------------------------


@pytest.mark.parametrize('stack, version, last', [
    ('onedl', (3, 6), 12), ('onedl', (3, 9), 12), ('onedl', (3, 13), 12),
    ('openmmlab', (3, 9), 11), ('openmmlab', (3, 12), 11),
])
def test_python_outside_the_range(stack, version, last):
    with pytest.raises(SetupError, match=(
            rf'Python 3\.{version[1]} found .*3\.10 to 3\.{last} needed.* '
            r'make PYTHON=python3\.11')):
        setup_env.check_python(stack, version)


@pytest.mark.parametrize('stack, version', [
    ('onedl', (3, 10)), ('onedl', (3, 11)), ('onedl', (3, 12)),
    ('openmmlab', (3, 10)), ('openmmlab', (3, 11)),
])
def test_python_inside_the_range(stack, version):
    setup_env.check_python(stack, version)


def test_old_python_can_read_the_script():
    """Else it would report a syntax error and not the range."""
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_active_environment_can_be_replaced(tmp_path):
    """Its own python is removed on the way: the base's has to go on."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip',
                    tmp_path / 'venv'], check=True)
    code = f'import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); ' \
        'import setup_env; print(setup_env.INTERPRETER)'
    result = subprocess.run([tmp_path / 'venv/bin/python', '-B', '-c', code],
                            check=True, capture_output=True, text=True)
    interpreter = Path(result.stdout.strip())
    assert interpreter.is_file() and tmp_path not in interpreter.parents


@pytest.fixture
def good_machine(monkeypatch):
    """A machine on which the checks find nothing."""
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: None)
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(11e9))
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(ROOT))
    monkeypatch.setattr(Path, 'is_file', lambda self: True)


def problems(tmp_path, replaces=False, venv='venv'):
    try:
        setup_env.preflight(tmp_path / 'clone', tmp_path / venv,
                            tmp_path / 'cache', replaces)
    except SetupError as e:
        return str(e).splitlines()
    return []


def test_nothing_to_report(good_machine, tmp_path):
    assert problems(tmp_path) == []


def raise_os_error(*_):
    raise OSError


@pytest.mark.parametrize('target, name, value, expected', [
    (importlib.util, 'find_spec', lambda name: None if name == 'ensurepip'
     else 1, ('ensurepip', f'python3.{sys.version_info[1]}-venv')),
    (Path, 'is_file', lambda self: False,
     ('Python.h is missing', f'python3.{sys.version_info[1]}-dev')),
    (shutil, 'which', lambda name: None if name == 'g++' else name,
     ('g++ not found', 'build-essential')),
    (ctypes, 'CDLL', raise_os_error,
     ('libGL.so.1', 'apt install libgl1 libglib2.0-0')),
    (shutil, 'disk_usage', lambda path: namedtuple('u', 'free')(9e9),
     ('less than 10 GB', 'VENV=')),
])
def test_each_problem_is_one_line(good_machine, tmp_path, monkeypatch, target,
                                  name, value, expected):
    monkeypatch.setattr(target, name, value)
    (line, ) = problems(tmp_path)
    for part in expected:
        assert part in line


def test_replacing_needs_less_room(good_machine, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(6e9))
    assert problems(tmp_path, replaces=True) == []


@pytest.fixture
def refuse(monkeypatch):
    """``refuse(name)``: no writing to such a folder; root may everywhere."""
    make = setup_env.tempfile.TemporaryFile

    def start(folder):

        def refused(dir):
            if Path(dir).name == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return make(dir=dir)

        monkeypatch.setattr(setup_env.tempfile, 'TemporaryFile', refused)

    return start


FOLDERS = pytest.mark.parametrize('folder, variable', [
    ('venv', 'VENV'), ('cache', 'MMXVIT_CACHE')])


@FOLDERS
def test_folder_without_write_permission(good_machine, tmp_path, refuse,
                                         folder, variable):
    refuse(folder)
    (line, ) = problems(tmp_path)
    assert line == (f'cannot write to {tmp_path / folder} (Permission denied):'
                    f' change its permissions or choose another, {variable}='
                    '...')


@FOLDERS
def test_no_permission_for_a_new_package_in_a_ready_environment(
        clone, steps, set_up, refuse, folder, variable):
    set_up()
    name = setup_env.PACKAGE_FILES[0]
    (clone / name).write_text((clone / name).read_text() + '\n')
    refuse(folder)
    with pytest.raises(SetupError, match=f'^cannot write .*, {variable}=...$'):
        set_up()


def test_clone_without_write_permission(good_machine, tmp_path, refuse):
    refuse('clone')
    (line, ) = problems(tmp_path)
    assert line == (f'cannot write to {tmp_path / "clone"} (Permission denied)'
                    ': change its permissions or make a clone of your own')


def test_folder_that_cannot_be_entered(good_machine, clone, set_up,
                                       monkeypatch, refuse):
    """As with ``--venv /root/venv``; root may enter every folder."""
    stat = os.stat

    def refused(path, *args, **kwargs):
        if str(set_up.venv) in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, 'stat', refused)
    refuse(set_up.venv.name)
    with pytest.raises(SetupError, match='^cannot write to .*, VENV=...$'):
        setup_env.set_up(clone, set_up.venv, 'onedl', set_up.cache)


def test_folder_that_cannot_be_written(good_machine, tmp_path):
    (tmp_path / 'file').touch()
    (line, ) = problems(tmp_path, venv='file/venv')
    assert f'cannot write to {tmp_path}/file/venv' in line
    assert 'VENV=' in line


def test_all_problems_at_once(good_machine, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.setattr(ctypes, 'CDLL', raise_os_error)
    assert len(problems(tmp_path)) == 2


# ---- running ---------------------------------------------------------------


def test_failed_step_shows_the_end_of_its_output(tmp_path, capsys):
    log = tmp_path / 'log'
    script = 'for i in $(seq 30); do echo line $i; done; echo ERROR: broken; '\
        'echo "[notice] newer pip"; exit 3'
    with pytest.raises(SetupError) as error:
        setup_env.run('the step', ['sh', '-c', script], log)
    assert str(error.value) == \
        f'the step failed: ERROR: broken (all output: {log})'
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 20 and 'line 30' in shown and 'line 12' not in shown


def test_the_systems_error_is_shown_and_not_pips_last_words(tmp_path):
    script = '''echo "  error: [Errno 13] Permission denied: 'x.egg-info'"
        echo "error: metadata-generation-failed"
        echo "hint: See above for details."; exit 1'''
    with pytest.raises(SetupError, match="failed: error: .Errno 13. Perm"):
        setup_env.run('the step', ['sh', '-c', script], tmp_path / 'log')


def test_missing_network_is_named(tmp_path, capsys):
    """Said by pip itself, which asks an address where nobody answers."""
    command = [sys.executable, '-m', 'pip', '--isolated', 'download',
               '--no-deps', '--no-cache-dir', '--retries', '0', '--index-url',
               'http://127.0.0.1:9/simple', '-d', tmp_path, 'mmxvit==999']
    with pytest.raises(SetupError) as error:
        setup_env.run('installing torch', command, tmp_path / 'log')
    (line, ) = str(error.value).splitlines()
    assert line.startswith('nothing can be downloaded; is there a network, or '
                           'a proxy to be set? installing torch failed: ERROR')
    assert capsys.readouterr().err == ''  # nothing beside that line


def test_other_failures_are_not_laid_on_the_network(tmp_path, capsys):
    said = 'ERROR: Ignored the following versions that require a different ' \
        'python version: 2.8.0; ERROR: no torch==2.8.0 (from versions: none)'
    with pytest.raises(SetupError) as error:
        setup_env.run('the step', ['sh', '-c', f'echo "{said}"; exit 1'],
                      tmp_path / 'log')
    assert str(error.value).startswith('the step failed: ERROR: Ignored')
    assert said in capsys.readouterr().err


def test_long_step_shows_that_it_is_alive(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup_env, 'HEARTBEAT', 0.1)
    setup_env.run('the step', ['sleep', '0.5'], tmp_path / 'log')
    assert capsys.readouterr().out.count('still the step') >= 2


def test_stopping_set_up_stops_the_step(tmp_path):
    """Also what the step itself has started."""
    log = tmp_path / 'log'
    script = tmp_path / 'stopped.py'
    script.write_text(f'''
import signal
import sys
from pathlib import Path
sys.path.insert(0, {str(SCRIPT.parent)!r})
import setup_env
# it is ignored where a shell has started the tests in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
setup_env.run('the step', ['sh', '-c', 'sleep 60 & echo child $!; wait'],
              Path({str(log)!r}))
''')
    process = subprocess.Popen([sys.executable, script],
                               stderr=subprocess.PIPE, text=True)
    started = None
    deadline = time.monotonic() + 60
    while not started and time.monotonic() < deadline:
        time.sleep(0.05)
        started = log.exists() and re.search(r'^child (\d+)$',
                                             log.read_text(), re.M)
    assert started, log.read_text()
    process.send_signal(signal.SIGINT)
    assert 'KeyboardInterrupt' in process.communicate(timeout=30)[1]
    state = Path(f'/proc/{started[1]}/stat')
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        # a zombie that nobody has waited for yet is as good as gone
        if not state.exists() or state.read_text().split()[2] == 'Z':
            return
        time.sleep(0.05)
    pytest.fail('the step goes on')


def test_two_set_ups_take_turns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup_env, 'HEARTBEAT', 0.1)
    file, entered = tmp_path / 'cache' / 'lock', threading.Event()

    def second():
        with setup_env.locked(file):
            entered.set()

    thread = threading.Thread(target=second)
    with setup_env.locked(file):
        thread.start()
        assert not entered.wait(0.4)
    assert entered.wait(5)
    thread.join()
    assert f'waiting for another set-up, which holds {file}' in \
        capsys.readouterr().out


def test_command_line_reports_one_line(clone, tmp_path):
    result = subprocess.run(
        [sys.executable, clone / 'tools/dev/setup_env.py', '--stack', 'x',
         '--venv', tmp_path / 'venv'], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == \
        "set-up: no stack 'x', there is: onedl, openmmlab\n"


@pytest.mark.parametrize('variables, folder', [
    ((), '.venv'),
    (('STACK=onedl', ), '.venv'),
    (('STACK=openmmlab', ), '.venv-openmmlab'),
    (('STACK=openmmlab', 'VENV=/x'), '/x'),
])
def test_each_stack_has_its_folder(clone, variables, folder):
    """Else trying the second one would cost the first."""
    shutil.copy(ROOT / 'Makefile', clone)
    env = {k: v for k, v in os.environ.items()
           if k not in ('MMXVIT_VENV', 'VENV', 'STACK', 'MAKEFLAGS')}
    text = subprocess.run(['make', '-n', 'setup', *variables], cwd=clone,
                          check=True, capture_output=True, text=True,
                          env=env).stdout
    assert f"--venv '{folder}'" in text


def test_folder_without_the_makefile(clone, monkeypatch):
    made = []
    monkeypatch.delenv('MMXVIT_VENV', raising=False)
    monkeypatch.setattr(setup_env, 'ROOT', clone)
    monkeypatch.setattr(setup_env, 'set_up',
                        lambda root, venv, *_: made.append(venv.name))
    monkeypatch.setattr(setup_env.signal, 'signal', lambda *_: None)
    for argv in ((), ('--stack', 'openmmlab'), ('--venv', 'x')):
        monkeypatch.setattr(sys, 'argv', ['setup_env.py', *argv])
        assert setup_env.main() == 0
    assert made == ['.venv', '.venv-openmmlab', 'x']


def test_makefile_runs_python_only():
    """A script in bin/ names the folder in which it was installed."""
    called = set(re.findall(r'\$\(VENV\)/bin/(\S+)',
                            (ROOT / 'Makefile').read_text()))
    assert called == {"python'"}


# ---- continuous integration ------------------------------------------------


@pytest.fixture
def ci(clone, tmp_path):
    """``.ci/run`` in a clone whose tests are one line."""
    (clone / '.ci').mkdir()
    shutil.copy(ROOT / '.ci' / 'run', clone / '.ci' / 'run')
    env = dict(os.environ, MMXVIT_CACHE=str(tmp_path / 'cache'),
               PYTHON=sys.executable, STACK='onedl', MMXVIT_VENV='unused')

    def call(closing, status):
        (clone / 'Makefile').write_text(
            'test:\n\t@mkdir -p $(VENV); echo "VENV is $(VENV)"; '
            f'echo "{closing}"; exit {status}\n')
        return subprocess.run([clone / '.ci' / 'run'], env=env, cwd='/',
                              capture_output=True, text=True, timeout=60)

    call.envs = tmp_path / 'cache' / 'envs'
    return call


def ci_name(key, stack='onedl', version=sys.version_info):
    return f'{stack}-cp{version[0]}{version[1]}-{key}'


def test_ci_runs_in_the_environment_of_this_state(ci, clone):
    result = ci('3 passed in 0.10s', 0)
    venv = ci.envs / ci_name(setup_env.environment_key(clone, 'onedl'))
    assert result.returncode == 0, result.stderr
    assert f'VENV is {venv}' in result.stdout
    assert result.stdout.splitlines()[-1] == '3 passed in 0.10s'
    assert venv.is_dir()


def test_ci_reports_failure(ci):
    result = ci('1 failed, 2 passed in 0.10s', 1)
    assert result.returncode != 0
    assert result.stdout.splitlines()[-1] == '1 failed, 2 passed in 0.10s'


def test_ci_keeps_one_environment_of_a_stack_and_a_python(ci, clone):
    used = ci_name('used')
    other_python = ci_name('a', version=(3, 99))
    other_stack = ci_name('a', stack='other')
    days = {used: 0, ci_name('a'): 0, other_python: 13, other_stack: 13,
            ci_name('b', version=(3, 99)): 15, ci_name('b', stack='other'): 15}
    for name, age in days.items():
        (ci.envs / name / 'lib').mkdir(parents=True)
        lock = ci.envs / f'{name}.lock'
        lock.touch()
        then = time.time() - age * 24 * 3600
        os.utime(lock, (then, then))
    current = ci_name(setup_env.environment_key(clone, 'onedl'))
    with (ci.envs / f'{used}.lock').open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert ci('1 passed in 0.10s', 0).returncode == 0
    assert {p.name for p in ci.envs.iterdir() if p.is_dir()} == {
        current, used, other_python, other_stack}
    # a run that waits may have opened any of the lock files
    assert {p.stem for p in ci.envs.glob('*.lock')} == {current, *days}


def test_ci_notes_when_it_used_an_environment(ci, clone):
    key = setup_env.environment_key(clone, 'onedl')
    lock = ci.envs / f'{ci_name(key)}.lock'
    ci.envs.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    ci('1 passed in 0.10s', 0)
    assert time.time() - lock.stat().st_mtime < 3600


def test_ci_removes_before_it_makes(ci):
    """There is disk for one environment more, not for two."""
    old = ci.envs / ci_name('old')
    old.mkdir(parents=True)
    result = ci(f"$$(ls -d '{old}' || echo gone first)", 0)
    assert 'gone first' in result.stdout


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
@pytest.mark.parametrize('file', ['docs/get_started.md', 'docker/Dockerfile'])
def test_install_by_hand_takes_one_line_of_each_file(file, stack):
    """What the shell puts in for $(grep ...) are no comments."""
    found = re.findall(r'\$\((grep \S+ requirements/)onedl(\S*\.txt)\)',
                       (ROOT / file).read_text())
    assert len(found) == 2
    for start, end in found:
        lines = subprocess.check_output(
            f'{start}{stack}{end}', shell=True, cwd=ROOT, text=True)
        assert re.fullmatch(r'[\w-]+==[\w.]+\n', lines)
