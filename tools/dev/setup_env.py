# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Make the virtual environment that the Makefile's targets run in.

Standard library only: the system's Python runs it.  The environment is
torch, the mm* packages of one verified stack (mmcv compiled against that very
torch), what tests and docs need, and this clone as an editable install.
A second run only compares a stamp, which takes well under a second.
"""
import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A stack is a row here, its mm* packages in requirements/<name>.txt, and what
# has to be there before them in requirements/<name>_setup.txt.
STACKS = {
    'onedl': {'python': ((3, 10), (3, 12))},
    # torch 2.1 has no wheels for 3.12
    'openmmlab': {'python': ((3, 10), (3, 11))},
}
EXTRAS = ('runtime.txt', 'deploy.txt', 'tests.txt', 'docs.txt')
# what the editable install of this clone is made from
PACKAGE_FILES = ('pyproject.toml', 'setup.py', 'mmxvit/version.py')
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')

STAMP = 'mmxvit-setup.json'
DISK_GB = 10  # an environment takes about 7, pip's downloads the rest
HEARTBEAT = 20  # seconds between signs of life
START = time.monotonic()
PYTHON = '{}.{}'.format(*sys.version_info[:2])
# of the base, not of an active environment that may be about to go
INTERPRETER = os.path.realpath(sys.executable)


class SetupError(Exception):
    """What is wrong and what to do about it, one line each."""


def say(text):
    """Print ``text`` with the seconds since the start."""
    print(f'[{time.monotonic() - START:5.0f} s] {text}', flush=True)


# ---- what set-up reads -----------------------------------------------------


def cache_dir():
    """Folder for wheels, the log, and the environments of CI."""
    base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    own = os.environ.get('MMXVIT_CACHE')
    return Path(own or base / 'mmxvit').expanduser().absolute()


def requirement_files(root, stack):
    """Requirement files in the order in which they are installed."""
    names = (f'{stack}_setup.txt', f'{stack}.txt', *EXTRAS)
    return [root / 'requirements' / name for name in names]


def digest(parts, files):
    """Hash of texts and of the names and contents of files."""
    state = hashlib.sha256(repr(parts).encode())
    for file in files:
        content = file.read_bytes()
        state.update(f'\n{file.name} {len(content)}\n'.encode() + content)
    return state.hexdigest()[:16]


def environment_key(root, stack):
    """Hash of all that decides what is in the environment."""
    files = requirement_files(root, stack) + [root / 'tools/dev/setup_env.py']
    return digest((stack, PYTHON, platform.machine()), files)


def package_key(root):
    """Hash of all that decides the editable install of this clone."""
    return digest(str(root), [root / name for name in PACKAGE_FILES])


def ci_venv(root, stack, cache):
    """Where CI keeps the environment of this state.

    CI reads stack and Python off the name, to remove the older ones of both.
    """
    key = environment_key(root, stack)
    return cache / 'envs' / f'{stack}-cp{PYTHON.replace(".", "")}-{key}'


def pin(file, suffix):
    """Name and version of the ``name==version`` line that ends so."""
    return re.search(rf'^([\w-]*{suffix})==([\w.]+)', file.read_text(),
                     re.M).groups()


def wheel_dir(root, stack, cache):
    """Where mmcv compiled for this torch and this Python is kept."""
    torch = pin(requirement_files(root, stack)[0], 'torch')[1]
    return cache / 'wheels' / f'torch{torch}-cp{PYTHON.replace(".", "")}'


def find_wheel(folder, name, version):
    """The compiled wheel in ``folder`` or None.

    A wheel without operators is called ``...-none-any`` and does not count.
    """
    name, tag = name.replace('-', '_'), 'cp' + PYTHON.replace('.', '')
    return next(folder.glob(
        f'{name}-{version}-{tag}-*_{platform.machine()}.whl'), None)


# ---- checks before anything is done ----------------------------------------


def check_python(stack, version=sys.version_info):
    """Refuse a Python for which the stack has no packages."""
    low, high = STACKS[stack]['python']
    if not low <= tuple(version[:2]) <= high:
        raise SetupError(
            f'Python {version[0]}.{version[1]} found ({sys.executable}), '
            f'{low[0]}.{low[1]} to {high[0]}.{high[1]} needed: choose '
            f'another, make PYTHON=python{low[0]}.{low[1] + 1} ...')


def missing_libraries():
    """Those of opencv's system libraries that are not there."""
    for library in ('libGL.so.1', 'libgthread-2.0.so.0'):
        try:
            ctypes.CDLL(library)
        except OSError:
            yield library


def unwritable(root, venv, cache):
    """A line for each folder that cannot be written to; makes them."""
    # an editable install writes into the clone
    for folder, other in ((venv, 'choose another, VENV=...'),
                          (cache, 'choose another, MMXVIT_CACHE=...'),
                          (root, 'make a clone of your own')):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=str(folder)):
                continue
        except OSError as e:
            yield (f'cannot write to {folder} ({e.strerror}): change its '
                   f'permissions or {other}')


def preflight(root, venv, cache, replaces):
    """Report at once all that would make set-up fail later.

    Args:
        root (Path): The clone.
        venv (Path): The environment to be made.
        cache (Path): The project's cache folder.
        replaces (bool): Whether an older environment makes room first.
    """
    problems = []
    if not all(map(importlib.util.find_spec, ('venv', 'ensurepip'))):
        problems.append(f'Python {PYTHON} has no venv or ensurepip module: '
                        f'apt install python{PYTHON}-venv')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if not header.is_file():
        problems.append(f'{header} is missing, mmcv is compiled with it: '
                        f'apt install python{PYTHON}-dev')
    missing = [c for c in ('gcc', 'g++') if not shutil.which(c)]
    if missing:
        problems.append(f'{" and ".join(missing)} not found, mmcv is compiled '
                        'with it: apt install build-essential')
    missing = list(missing_libraries())
    if missing:
        problems.append(f'{" and ".join(missing)} not found, opencv needs it: '
                        'apt install libgl1 libglib2.0-0')
    problems += unwritable(root, venv, cache)
    need = DISK_GB / 2 if replaces else DISK_GB
    if os.path.isdir(venv) and shutil.disk_usage(venv).free < need * 1e9:
        problems.append(f'less than {need:g} GB free for {venv}: make room or '
                        'choose another place, VENV=...')
    if problems:
        raise SetupError('\n'.join(problems))


# ---- steps -----------------------------------------------------------------


@contextlib.contextmanager
def locked(file):
    """Keep two set-ups from working at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w') as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                say(f'waiting for another set-up, which holds {file}')
                time.sleep(HEARTBEAT / 2)
        yield


def run(title, command, log, env=None):
    """Run one step: output to ``log``, and lines that show it is alive."""
    say(title)
    begin = time.monotonic()
    with log.open('a') as stream:
        print('\n$', *command, file=stream, flush=True)
        # a session of its own, so that compilers stop together with it
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, env=env, cwd='/',
            start_new_session=True)
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT)
                except subprocess.TimeoutExpired:
                    seconds = time.monotonic() - begin
                    say(f'  ... still {title}, for {seconds:.0f} s')
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if process.returncode:
        lines = log.read_text(errors='replace').splitlines()[-20:]
        errors = [x.strip() for x in lines
                  if re.match(r'\s*(ERROR|error:|\w+Error)', x)]
        # pip's last words on what a build says of the system are less clear
        last = ([x for x in errors if '[Errno' in x] or errors or lines)[-1]
        message = f'{title} failed: {last} (all output: {log})'
        # pip's words for a package index that it does not reach; it says
        # "none" of versions for another Python, too, but names these
        text = '\n'.join(lines)
        if re.search('Failed to establish a new connection|name resolution',
                     text) or ('from versions: none' in text
                               and 'Ignored the following' not in text):
            raise SetupError('nothing can be downloaded; is there a network, '
                             f'or a proxy to be set? {message}')
        print(*lines, sep='\n', file=sys.stderr)
        raise SetupError(message)


def build_mmcv(python, name, version, folder, log):
    """Compile mmcv into ``folder``; a killed build leaves no wheel there."""
    for left in folder.glob('build-*'):
        shutil.rmtree(left)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(len(os.sched_getaffinity(0)), int(memory / 2e9)))
    # for the CPU even where there is a GPU: that would take a CUDA toolkit
    env = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=str(jobs),
               FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    with tempfile.TemporaryDirectory(prefix='build-', dir=str(folder)) as tmp:
        # in isolation it would be built without operators; pip's own cache
        # hands out wheels that were compiled against another torch
        run(f'compiling {name} {version} (6-7 minutes with 2 jobs, here '
            f'{jobs})', [python, '-m', 'pip', 'wheel', '--no-build-isolation',
                         '--no-cache-dir', '--no-deps', '-w', tmp,
                         f'{name}=={version}'], log, env)
        built = find_wheel(Path(tmp), name, version)
        if built is None:
            raise SetupError(f'{name} {version} was built without its '
                             f'operators (all output: {log})')
        os.replace(built, folder / built.name)
    return folder / built.name


def install_mmcv(python, root, stack, cache, log):
    """Install mmcv from the project's cache and prove its operators."""
    build, packages, *_ = requirement_files(root, stack)
    name, version = pin(packages, 'mmcv')
    folder = wheel_dir(root, stack, cache)
    folder.mkdir(parents=True, exist_ok=True)
    cached = find_wheel(folder, name, version)
    wheel = cached or build_mmcv(python, name, version, folder, log)
    pip = [python, '-m', 'pip', 'install']
    run(f'installing {wheel.name}', [*pip, '--no-deps', wheel], log)
    run(f'installing {packages.name}', [*pip, '-c', build, '-r', packages],
        log)
    check = ['checking mmcv.ops', [python, '-c', 'import mmcv.ops'], log]
    try:
        run(*check)
    except SetupError:
        wheel.unlink()
        if not cached:
            raise
        say(f'{wheel} does not fit this torch and goes')
        wheel = build_mmcv(python, name, version, folder, log)
        run(f'installing {wheel.name}',
            [*pip, '--no-deps', '--force-reinstall', wheel], log)
        run(*check)


def one_opencv(python, root, stack, log):
    """Leave one owner of ``cv2``: dependencies bring a second one."""
    name, version = pin(requirement_files(root, stack)[0], 'opencv-python')
    found = {path.name.split('-')[0].replace('_', '-') for path in
             python.parents[1].glob('lib/*/site-packages/opencv_*.dist-info')}
    if found != {name}:
        run('removing a second opencv',
            [python, '-m', 'pip', 'uninstall', '-y', *sorted(found)], log)
        run(f'installing {name} again', [python, '-m', 'pip', 'install',
                                         '--no-deps', f'{name}=={version}'],
            log)


def package_is_current(python, root, stamp):
    """Whether the environment imports this clone, installed as it is now."""
    code = 'import importlib.util as u; s = u.find_spec("mmxvit"); ' \
        'print(s and s.origin)'
    found = subprocess.run([str(python), '-c', code], cwd='/',
                           stdout=subprocess.PIPE).stdout.decode().strip()
    package = root / 'mmxvit'
    return (found == str(package / '__init__.py')
            and stamp.get('package') == package_key(root)
            and all((package / '.mim' / name).exists()
                    == (root / name).exists() for name in MIM_ENTRIES))


def read_stamp(venv):
    """What set-up noted about an environment; empty if it is unfinished."""
    try:
        return json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(venv, **stamp):
    """Note what is in the environment, in one step."""
    new = venv / (STAMP + '.new')
    new.write_text(json.dumps(stamp) + '\n')
    os.replace(new, venv / STAMP)


def create(venv, root, stack, cache, log):
    """Make the environment from nothing."""
    # the stamp stays: it says whose folder this is if we are stopped
    write_stamp(venv)
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != STAMP:
            entry.unlink()
    run(f'creating {venv}', [INTERPRETER, '-m', 'venv', venv], log)
    python = venv / 'bin' / 'python'
    pip = [python, '-m', 'pip', 'install']
    build, _, *others = requirement_files(root, stack)
    run('installing torch and build tools (about 3 GB to download)',
        [*pip, '-r', build], log)
    run('checking cv2', [python, '-c', 'import cv2'], log)
    install_mmcv(python, root, stack, cache, log)
    run('installing what tests and docs need',
        [*pip, '-c', build, *(x for f in others for x in ('-r', f))], log)
    one_opencv(python, root, stack, log)


def set_up(root, venv, stack, cache):
    """Bring ``venv`` up to date.

    Raises:
        SetupError: It cannot be done; the message says what to do.
    """
    if stack not in STACKS:
        raise SetupError(f'no stack {stack!r}, there is: {", ".join(STACKS)}')
    check_python(stack)
    python = venv / 'bin' / 'python'
    key = environment_key(root, stack)

    def ready():
        return read_stamp(venv).get('environment') == key and python.exists()

    if ready() and package_is_current(python, root, read_stamp(venv)):
        return
    # os.path says no of what is in a folder that cannot be entered
    ours = os.path.exists(venv / STAMP)
    if not ours and (os.path.isfile(venv) or os.access(venv, os.R_OK)
                     and any(venv.iterdir())):
        raise SetupError(f'{venv} was not made by this set-up and is left '
                         'alone: remove it or choose another, VENV=...')
    if not ready():
        preflight(root, venv, cache, ours)
    problems = list(unwritable(root, venv, cache))
    if problems:
        raise SetupError('\n'.join(problems))
    with locked(cache / 'setup.lock'):
        log = cache / 'setup.log'
        log.write_text('')
        if not ready():
            if ours:
                say(f'{venv} is out of date or unfinished: making it anew')
            create(venv, root, stack, cache, log)
            write_stamp(venv, environment=key)
        run(f'installing {root} (editable)',
            [python, '-m', 'pip', 'install', '--no-deps',
             '--no-build-isolation', '-e', root], log)
        write_stamp(venv, environment=key, package=package_key(root))
    say(f'set-up of {venv} is complete')


def main():
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--venv', type=Path, default=os.environ.get('MMXVIT_VENV') or None,
        help='default: $MMXVIT_VENV, or in the clone .venv for onedl, and '
        '.venv-STACK for others')
    parser.add_argument('--stack', default='onedl',
                        help=f'one of: {", ".join(STACKS)}')
    parser.add_argument(
        '--print-ci-venv', action='store_true',
        help='print where CI keeps the environment of this state, and stop')
    args = parser.parse_args()
    venv = args.venv or ROOT / (
        '.venv' if args.stack == 'onedl' else f'.venv-{args.stack}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.print_ci_venv:
            print(ci_venv(ROOT, args.stack, cache_dir()))
        else:
            set_up(ROOT, venv.expanduser().resolve(), args.stack, cache_dir())
    except (SetupError, OSError) as e:
        for line in str(e).splitlines():
            print(f'set-up: {line}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('set-up: stopped; the next run starts over', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
