# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Try every way to install this clone, each in an environment of its own.

Run by the Python of an environment that set-up has made, whose stack is under
test.  The new environments see the packages of that stack by links, those and
what they require and nothing else, so that little is downloaded and nothing
compiled.  What comes out is written to docs/installs.md and to the table of
stacks in README.md.
"""
import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'installs.md'
README = ROOT / 'README.md'
PYTHON = '{}.{}'.format(*sys.version_info[:2])
MIMS = {'onedl-mim': '0.5.1', 'openmim': '0.3.9'}
# what every row of the table of stacks names
SHOWN = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')

# One stock config of each task package, and what goes into its model
STOCK = {
    'mmdet': ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', {
        'backbone': {'type': 'mmxvit.LVT', 'out_indices': [1, 2, 3]},
        'neck.in_channels': [256, 160, 64],
    }),
    'mmseg': ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', {
        'backbone': {'type': 'mmxvit.LVT'},
        'decode_head.in_channels': [64, 64, 160, 256],
    }),
    'mmpretrain': ('mobilenet_v2/mobilenet-v2_8xb32_in1k.py', {
        'backbone': {'type': 'mmxvit.LVT', 'out_indices': [3]},
        'head.in_channels': 256,
    }),
}
PROBE = '''
import json, sys
from importlib.util import find_spec
from pathlib import Path
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
scope, (config, changes) = sys.argv[1], json.loads(sys.argv[2])
cfg = Config.fromfile(
    Path(find_spec(scope).origin).parent / '.mim/configs' / config)
for key, value in changes.items():
    *path, name = ('model.' + key).split('.')
    node = cfg
    for part in path:
        node = node[part]
    node[name] = value
with DefaultScope.overwrite_default_scope(scope):
    model = MODELS.build(cfg.model).eval()
assert type(model.backbone).__name__ == 'LVT'
model(torch.rand(1, 3, 64, 64), mode='tensor')
'''
# shipped configs that are trained and tested on toy data
CONFIGS = {
    'mmdet': 'lvt/retinanet_lvt_fpn_1xb8-320-20e_bccd.py',
    'mmseg': 'lvt/segformer_lvt_8xb2-160k_ade20k-512x512.py',
    'mmpretrain': 'lvt/lvt_8xb128_in1k.py',
}
TASKS = {
    'mmdet': 'detection',
    'mmseg': 'segmentation',
    'mmpretrain': 'classification'
}
PARTS = ['pip', 'mim', 'without']
NOT_RUN = 'Not run yet.'
LIMIT = 900  # seconds for a command
DEMO = 'yolov3_xformer_1xb4-256-16e_shapes.py'


class Result(NamedTuple):
    """A cell of a table: ``said`` is what a failure said, or a short answer.

    ``expected`` tells that it is as this package promises.
    """
    ok: bool
    said: str = ''
    expected: bool = True


# ---- environments ----------------------------------------------------------


def closure(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Installed distributions of these names and all that they require."""
    found, todo, done = {}, list(names), set()
    while todo:
        text = todo.pop()
        if text in done:
            continue
        done.add(text)
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # set-up leaves one opencv of several
        for text in found[name].requires or ():
            marker = Requirement(text).marker
            if marker is None or any(
                    marker.evaluate({'extra': extra})
                    for extra in ('', *requirement.extras)):
                todo.append(text)
    return found


class Environment:
    """A virtual environment that sees some packages of this one.

    They are in a folder of links outside of it, so that pip neither changes
    nor removes them.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder],
                       check=True)
        (self.site, ) = folder.glob('lib/python*/site-packages')
        links = folder.with_name(folder.name + '-stack')
        links.mkdir()
        for dist in closure(names).values():
            for entry in {file.parts[0] for file in dist.files}:
                source = Path(dist.locate_file(entry))
                if entry not in ('..', '__pycache__') and source.exists() \
                        and not (links / entry).exists():
                    (links / entry).symlink_to(source)
        (self.site / 'stack.pth').write_text(f'{links}\n')
        self.work = folder.with_name(folder.name + '-work')
        self.work.mkdir()
        self.python = folder / 'bin' / 'python'

    def run(self, *command: object, cwd: Path | None = None) -> Result:
        """Run a command as its user would, by default in an empty folder."""
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(('PYTHON', 'VIRTUAL_ENV', 'PIP_REQUIRE'))}
        env.update(
            PATH=f'{self.folder / "bin"}{os.pathsep}{os.environ["PATH"]}',
            CUDA_VISIBLE_DEVICES='', PIP_DISABLE_PIP_VERSION_CHECK='1')
        command = list(map(str, command))
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=cwd or self.work, env=env, timeout=LIMIT,
                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT)
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            code, output = 124, f'no end after {LIMIT} s'
        with (self.folder.parent / 'log.txt').open('a') as log:
            print('\n$', *command, f'\n{output}\n-> {code}', file=log)
        said = last_words(output) if code else ''
        shown = ' '.join(command).replace(str(self.folder.parent), '')[:100]
        print(f'  {time.monotonic() - begin:4.0f} s  '
              f'{"ok    " if not code else "FAILED"} {shown} {said}',
              flush=True)
        return Result(not code, said)

    def pip(self, *args: object) -> Result:
        return self.run(self.python, '-m', 'pip', 'install', *args)


def last_words(output: str) -> str:
    """The line that says what went wrong, without colours and folders."""
    text = re.sub(r'\x1b\[[0-9;]*m', '', output)
    text = re.sub(r'(/[\w.+-]+){2,}/', '.../', text)
    lines = [x.strip() for x in text.splitlines() if x.strip()]
    errors = [x for x in lines
              if re.match(r'(ERROR|\w*Error)\b|.*: can.t open file', x)
              and not x.startswith('subprocess.CalledProcessError')]
    return (errors or lines or ['no output'])[-1][:200]


# ---- what is tried ---------------------------------------------------------


def copy_of_clone(folder: Path) -> Path:
    """What git would take along, so that nothing built is in the way."""
    names = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others',
         '--exclude-standard'], cwd=ROOT, check=True, capture_output=True,
        text=True).stdout.split('\0')
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def mim_is_complete(env: Environment, source: Path) -> Result:
    """Whether ``.mim`` of the installed package has every file."""
    code = 'from importlib.util import find_spec; ' \
        'print(find_spec("mmxvit").origin)'
    origin = subprocess.run([env.python, '-I', '-c', code], text=True,
                            cwd=env.work, capture_output=True).stdout.strip()
    mim = Path(origin or '/nowhere').parent / '.mim'
    wanted = [Path('model-index.yml')] + [
        path.relative_to(source) for part in ('configs', 'tools')
        for path in (source / part).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
        and not path.is_relative_to(source / 'tools' / 'dev')
    ]
    missing = [str(path) for path in wanted if not (mim / path).is_file()]
    return Result(not missing, f'{len(missing)} files of {len(wanted)} are '
                  'missing' if missing else f'{len(wanted)} files')


def builds(env: Environment, scope: str) -> Result:
    return env.run(env.python, '-W', 'ignore', '-c', PROBE, scope,
                   json.dumps(STOCK[scope]))


def install_routes(source: Path, folder: Path) -> dict[str, Callable]:
    """Name of a route -> what installs it into an environment."""
    dist = folder / 'dist'
    dist.mkdir()

    def sdist(env: Environment) -> Result:
        copy = shutil.copytree(source, folder / 'for-sdist')
        code = 'from setuptools import build_meta; ' \
            f'build_meta.build_sdist({str(dist)!r})'
        subprocess.run([sys.executable, '-c', code], cwd=copy, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return env.pip(*dist.glob('*.tar.gz'))

    def wheel(env: Environment) -> Result:
        copy = shutil.copytree(source, folder / 'for-wheel')
        built = env.run(env.python, '-m', 'pip', 'wheel', '--no-deps', '-w',
                        dist, copy)
        return env.pip(*dist.glob('*.whl')) if built.ok else built

    return {
        '`pip install .`': lambda env: env.pip(
            shutil.copytree(source, folder / 'for-pip')),
        '`pip install -e .`': lambda env: env.pip(
            '-e', shutil.copytree(source, folder / 'for-editable')),
        'a wheel': wheel,
        'an sdist': sdist,
    }


def try_routes(source: Path, folder: Path, names: list[str]) -> dict:
    """Rows of the table of routes."""
    rows = {}
    for i, (route, install) in enumerate(
            install_routes(source, folder).items()):
        print(route, flush=True)
        env = Environment(folder / f'route{i}', names)
        result = install(env)
        more = {path.name.partition('-')[0]
                for path in env.site.glob('*.dist-info')} - {'mmxvit'}
        if more:  # nothing that is there may be installed again
            result = Result(False, f'also installs {", ".join(sorted(more))}')
        rows[route] = route_row(env, source, result)
    return rows


def route_row(env: Environment, source: Path, installed: Result) -> dict:
    """What a route leaves in an environment."""
    row = {'installs': installed}
    if installed.ok:
        row['`.mim`'] = mim_is_complete(env, source)
        row.update({f'stock {scope} config': builds(env, scope)
                    for scope in STOCK})
    return row


def try_mim(source: Path, folder: Path, names: list[str],
            data: Path, constraints: Path) -> tuple[dict, dict]:
    """Rows of the table of routes, and of that of mim's commands."""
    routes, commands = {}, {}
    for mim, version in MIMS.items():
        for args in ('.', '-e .'):
            name = f'`mim install {args}`, {mim} {version}'
            print(name, flush=True)
            env = Environment(folder / f'{mim}{args[:2]}', names)
            # pandas, which it requires, would bring a newer numpy
            got = env.pip('-c', constraints, f'{mim}=={version}')
            if not got.ok:
                routes[name] = {'installs': got}
                continue
            clone = shutil.copytree(source, folder / f'for-{mim}{args[:2]}')
            routes[name] = route_row(
                env, source, env.run('mim', 'install', *args.split(),
                                     cwd=clone))
            if routes[name]['installs'].ok:
                commands[f'{mim} {version}, `{args}`'] = mim_commands(
                    env, clone if args != '.' else None, data)
    for name, row in commands.items():
        if name.startswith('openmim') and '-e' in name:  # not mended any more
            commands[name] = {column: result._replace(expected=False)
                              for column, result in row.items()}
    return routes, commands


def mim_commands(env: Environment, clone: Path | None, data: Path) -> dict:
    """Try the commands of mim on an installed mmxvit."""
    work = Path(tempfile.mkdtemp(dir=env.work))
    short = ['--work-dir', work, '--cfg-options', f'data_root={data}/',
             'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
             'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
             'test_dataloader.num_workers=0',
             'train_dataloader.persistent_workers=False',
             'val_dataloader.persistent_workers=False',
             'test_dataloader.persistent_workers=False']
    root = clone or env.site / 'mmxvit' / '.mim'
    path = root / 'configs' / 'xformer' / DEMO
    row = {
        '`search`': env.run('mim', 'search', 'mmxvit', '--model', 'lvt',
                            '--field', 'parameters'),
        '`run` a script': env.run('mim', 'run', 'mmxvit', 'make_shapes',
                                  work / 'shapes', '--train', 1, '--val', 1),
        '`train` with a path': env.run('mim', 'train', 'mmxvit', path,
                                       '--gpus', 0, *short),
    }
    by_name = ['--work-dir', work / 'by-name', *short[2:]]
    result = env.run('mim', 'train', 'mmxvit', DEMO, '--gpus', 0, *by_name)
    # a clone has each config twice, one by a link in .mim
    row['`train` with a name'] = result._replace(expected=clone is None)
    checkpoint = next(work.glob('epoch_1.pth'), 'none')
    row['`test`'] = env.run(
        'mim', 'test', 'mmxvit', path, '--checkpoint', checkpoint, '--gpus',
        0, *short)
    return row


def try_without(source: Path, folder: Path, names: dict[str, str],
                configs: dict[str, Path]) -> dict:
    """Train and test on toy data where packages are absent."""
    rows = {}
    for absent in (('mmpretrain', 'torchvision'), ('mmdet', ), ('mmseg', )):
        print('without', *absent, flush=True)
        env = Environment(
            folder / '-'.join(('without', *absent)),
            [dist for module, dist in names.items() if module not in absent])
        row = {}
        for module in absent:
            code = f'import importlib.util as u; ' \
                f'assert not u.find_spec({module!r}), "{module} is there"'
            row['installs'] = env.run(env.python, '-c', code)
            if not row['installs'].ok:
                break
        else:
            row['installs'] = env.pip(source)
        if row['installs'].ok:
            tools = env.site / 'mmxvit' / '.mim' / 'tools'
            for scope, task in TASKS.items():
                work = env.work / scope
                result = env.run(env.python, tools / 'train.py',
                                 configs[scope], '--work-dir', work)
                if scope in absent:
                    told = not result.ok and scope in result.said \
                        and 'pip install' in result.said
                    row[task] = Result(told, 'not installed, and says so'
                                       if told else result.said)
                    continue
                if result.ok:
                    checkpoint = next(work.glob('*_1.pth'), 'none')
                    result = env.run(env.python, tools / 'test.py',
                                     configs[scope], checkpoint)
                row[task] = result
        rows[' and '.join(absent)] = row
    return rows


def toy_configs(folder: Path) -> dict[str, Path]:
    """Configs of one task each, fitted to toy data that is made here."""
    sys.path[:0] = [str(ROOT), str(ROOT / 'tools' / 'dev')]
    import toy_config
    from mmengine.config import Config

    from mmxvit.datasets.shapes import write_dataset
    files = {}
    for scope, name in CONFIGS.items():
        cfg = Config.fromfile(ROOT / 'configs' / name)
        layout = toy_config.layout(cfg)
        data = folder / layout
        write_dataset(data, layout, train=20 if layout == 'imagenet' else 4,
                      val=10 if layout == 'imagenet' else 2, size=64)
        files[scope] = folder / f'{scope}.py'
        toy_config.fit(cfg, data, 64, 2, 1).dump(files[scope])
    return files


# ---- what is written -------------------------------------------------------


def table(rows: dict, first: str, notes: list[str]) -> str:
    """Markdown; what failures said becomes a note below."""
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    lines = [f'| {first} | {" | ".join(columns)} |',
             f'| --- |{" --- |" * len(columns)}']
    for name, row in rows.items():
        cells = []
        for column in columns:
            result = row.get(column)
            if result is None:
                cells.append('')
            elif result.ok:
                cells.append(result.said or 'yes')
            else:
                if result.said not in notes:
                    notes.append(result.said)
                cells.append(f'no ({notes.index(result.said) + 1})')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def versions(names: dict[str, str]) -> dict[str, str]:
    """Versions of the stack, by import name."""
    shown = {**names, 'numpy': 'numpy'}
    return {module: metadata.version(shown[module]) for module in (
        'torch', 'torchvision', 'numpy', 'opencv-python', 'mmengine', 'mmcv',
        'mmdet', 'mmseg', 'mmpretrain')}


def replace_block(text: str, name: str, new: str) -> str:
    """``text`` with what stands in the block ``name`` replaced."""
    block = re.compile(
        rf'(<!-- checked: {name} -->\n).*?(<!-- end -->)', re.S)
    if not block.search(text):
        raise SystemExit(f'there is no block "checked: {name}"')
    return block.sub(lambda m: f'{m[1]}\n{new}\n\n{m[2]}', text)


def mark_not_run(page: str) -> str:
    """The page, where blocks that have not been written say so."""
    return re.sub(r'(<!-- checked: [\w-]+ -->\n)\s*(<!-- end -->)',
                  rf'\1\n{NOT_RUN}\n\n\2', page)


def used(found: dict[str, str]) -> str:
    """Versions as the page has them."""
    return ', '.join(f'{k} {v}' for k, v in found.items())


def stack_row(text: str, stack: str, found: dict[str, str], routes: str,
              tests: str | None = None) -> str:
    """The README with the row of this stack and this Python written anew.

    What has not run keeps its cell if the versions are the same: the page has
    the ways to install of the last run only.  There is no row where nothing
    has run.
    """
    head = ['stack', 'Python', *SHOWN, '`make test`', 'ways to install']
    block = re.search(r'<!-- checked: stacks -->\n(.*?)<!-- end -->', text,
                      re.S)
    rows = {}
    for line in block[1].splitlines() if block else ():
        row = [x.strip() for x in line.strip('| ').split('|')]
        if len(row) == len(head) and row[0].startswith('`'):
            rows[row[0], row[1]] = row
    new = [f'`{stack}`', PYTHON, *(found[m].split('+')[0] for m in SHOWN)]
    old = rows.pop((new[0], new[1]), [])
    old = old[-2:] if old[:len(new)] == new else ['not run', 'not run']
    tests = tests or old[0]
    routes = old[1] if routes == 'not run' else routes
    if (tests, routes) != ('not run', 'not run'):
        rows[new[0], new[1]] = [*new, tests, routes]
    lines = [head, ['---'] * len(head)] + [
        rows[key] for key in sorted(
            rows, key=lambda k: (k[0] != '`onedl`', k[0],
                                 int(k[1].split('.')[1])))]
    return replace_block(text, 'stacks', '\n'.join(
        f'| {" | ".join(row)} |' for row in lines))


def run_tests(stack: str, jobs: int, slow: bool) -> tuple[bool, str]:
    """The suite of ``make test`` or ``make test-all``: what pytest counts.

    Its output is kept beside the logs of the other parts.
    """
    kept = ROOT / 'work_dirs' / f'installs-{stack}-{PYTHON}-tests.log'
    kept.parent.mkdir(exist_ok=True)
    print(f'the output of the tests goes to {kept}', flush=True)
    command = [sys.executable, '-m', 'pytest', 'tests', '-v', '-n', str(jobs),
               '--dist', 'worksteal', '--durations=30']
    with kept.open('w') as file:
        code = subprocess.run(
            command if slow else [*command, '-m', 'not slow'], cwd=ROOT,
            env=dict(os.environ, OMP_NUM_THREADS='1'), stdout=file).returncode
    last = kept.read_text().splitlines()[-1]
    counts = re.findall(r'\d+ (?:failed|passed|skipped|errors?)', last)
    return code == 0, ', '.join(counts) + (', slow ones too' if slow else '')


def commit() -> str:
    """', HASH' of this clone, as far as it is one."""
    found = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT,
                           capture_output=True, text=True)
    return f', {found.stdout.strip()}' if found.returncode == 0 else ''


def run_part(part: str, stack: str, names: dict[str, str],
             found: dict[str, str]) -> bool:
    """Try a part, write its tables; True if everything is as promised."""
    kept = ROOT / 'work_dirs' / f'installs-{stack}-{PYTHON}-{part}.log'
    kept.parent.mkdir(exist_ok=True)
    dists = [*names.values()]
    with tempfile.TemporaryDirectory(prefix='installs-') as tmp:
        folder = Path(tmp)
        try:
            source = copy_of_clone(folder / 'clone')
            if part == 'pip':
                tables = {'way': try_routes(source, folder, dists)}
            elif part == 'mim':
                routes, commands = try_mim(
                    source, folder, dists, toy_data(folder),
                    ROOT / 'requirements' / f'{stack}_setup.txt')
                tables = {'way': routes, 'commands of mim': commands}
            else:
                tables = {'absent': try_without(
                    source, folder, names, toy_configs(folder))}
        finally:  # all output
            if (folder / 'log.txt').exists():
                shutil.copy(folder / 'log.txt', kept)
    results = [r for rows in tables.values() for row in rows.values()
               for r in row.values()]
    known = sum(not r.ok and not r.expected for r in results)
    notes: list[str] = []
    lines = [
        f'{datetime.date.today()}, Python {platform.python_version()}, pip '
        f'{metadata.version("pip")}, {used(found)}: '
        f'{sum(r.ok for r in results)} of {len(results)} checks passed' +
        (f', {known} are known not to.' if known else '.')]
    for first, rows in tables.items():
        lines += ['', table(rows, first, notes)]
    if notes:
        lines += ['', *(f'{i}. `{note}`' for i, note in enumerate(notes, 1))]
    PAGE.write_text(replace_block(
        PAGE.read_text(), f'{stack}-{part}', '\n'.join(lines)))
    print('\n'.join(lines), flush=True)
    return all(r.ok for r in results if r.expected)


def checks_passed(page: str, stack: str, found: dict[str, str]) -> str:
    """How many checks of each part on the page passed, and since when.

    Parts that ran with other versions than ``found``, or on another Python,
    count as not run.
    """
    counts, dates = {}, []
    for part in PARTS:
        match = re.search(
            rf'<!-- checked: {stack}-{part} -->\n\n([\d-]+), Python '
            rf'{re.escape(PYTHON)}\.\d+, pip [^,]+, {re.escape(used(found))}: '
            r'(\d+ of \d+) checks passed(?:, (\d+) are known not to)?\.', page)
        if match:
            dates.append(match[1])
            counts[part] = f'{part} {match[2]}' + (
                f' ({match[3]} known not to work)' if match[3] else '')
    if not counts:
        return 'not run'
    missing = [part for part in PARTS if part not in counts]
    return f'{", ".join(counts.values())} ({min(dates)})' + (
        f'; {", ".join(missing)} not run' if missing else '')


def toy_data(folder: Path) -> Path:
    """What the demo's config reads."""
    from mmxvit.datasets.shapes import write_dataset
    write_dataset(folder / 'shapes', 'coco', train=4, val=2, size=64)
    return folder / 'shapes'


def distributions(stack: str) -> dict[str, str]:
    """The stack's packages: import names -> names of distributions.

    Those of mmdet and the like; of all others the name is that to install.
    """
    found = {'pip': 'pip'}
    for file in f'{stack}_setup.txt', f'{stack}.txt':
        for line in (ROOT / 'requirements' / file).read_text().splitlines():
            if not line.startswith('#'):
                name = Requirement(line).name
                module = re.fullmatch(
                    r'(?:onedl-)?(mm(?:engine|cv|det|seg|pretrain))'
                    '(?:ection|mentation)?', name)
                found[module[1] if module else name] = name
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        '--stack', default='onedl', choices=('onedl', 'openmmlab'),
        help='the stack of this environment (default: %(default)s)')
    parser.add_argument(
        '--parts', nargs='*', choices=[*PARTS, 'tests', 'test-all'],
        default=PARTS,
        help='pip: by pip; mim: by mim, and its commands; without: without '
        'some packages; tests: those of `make test`; test-all: the slow ones, '
        'too; nothing: only write the table in the README from the page '
        '(default: pip, mim, without)')
    parser.add_argument(
        '--jobs', type=int, default=2, help='processes that share the tests')
    args = parser.parse_args()
    names = distributions(args.stack)
    try:
        found = versions(names)
    except metadata.PackageNotFoundError as error:
        parser.error(
            f'{sys.executable} has no {error.name}, which is of the stack '
            f'{args.stack}: name the stack of this environment by --stack, or '
            f'run the Python of one that `make setup STACK={args.stack}` made')
    tests, good = None, True
    for part in args.parts:
        if part in ('tests', 'test-all'):
            ok, said = run_tests(args.stack, args.jobs, part == 'test-all')
            tests = f'{said} ({datetime.date.today()}{commit()})'
        else:
            ok = run_part(part, args.stack, names, found)
        good = good and ok
    page = mark_not_run(PAGE.read_text())
    PAGE.write_text(page)
    README.write_text(stack_row(
        README.read_text(), args.stack, found,
        checks_passed(page, args.stack, found), tests))
    sys.exit(not good)


if __name__ == '__main__':
    main()
