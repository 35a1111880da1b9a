# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The tables of ways to install, and that they are of these versions."""
import importlib.util
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STACKS = ('onedl', 'openmmlab')


def load(name):
    spec = importlib.util.spec_from_file_location(
        name, ROOT / 'tools' / 'dev' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_installs = load('check_installs')
Result = check_installs.Result


def test_table_names_each_failure_once():
    notes = ['an older one']
    rows = {
        'a': {'installs': Result(True), 'files': Result(False, 'broken')},
        'b': {'installs': Result(True, '3 files')},
        'c': {'files': Result(False, 'broken')},
        'd': {'files': Result(False, 'worse')},
    }
    assert check_installs.table(rows, 'way', notes).splitlines() == [
        '| way | installs | files |',
        '| --- | --- | --- |',
        '| a | yes | no (2) |',
        '| b | 3 files |  |',
        '| c |  | no (2) |',
        '| d |  | no (3) |',
    ]
    assert notes == ['an older one', 'broken', 'worse']


PAGE = '''a
<!-- checked: x -->
old
<!-- end -->
b
<!-- checked: y -->
<!-- end -->
'''


def test_only_its_block_is_replaced():
    new = check_installs.replace_block(PAGE, 'x', r'\1 new')
    assert new == PAGE.replace('old\n', '\n\\1 new\n\n')
    with pytest.raises(SystemExit, match='no block "checked: z"'):
        check_installs.replace_block(PAGE, 'z', '')


def readme_rows(text):
    return [[x.strip() for x in line.strip('| ').split('|')]
            for line in text.splitlines() if line.startswith('| `')]


def test_blocks_that_have_not_run_say_so():
    new = check_installs.mark_not_run(PAGE)
    assert new == PAGE.replace(
        'y -->\n', 'y -->\n\nNot run yet.\n\n')
    assert check_installs.mark_not_run(new) == new


def test_row_keeps_what_has_not_run():
    text = '<!-- checked: stacks -->\n<!-- end -->\n'
    found = dict.fromkeys(check_installs.SHOWN, '1.0')
    for stack in ('openmmlab', 'onedl'):
        text = check_installs.stack_row(text, stack, found, '9 of 9')
    assert [(row[0], *row[-2:]) for row in readme_rows(text)] == [
        ('`onedl`', 'not run', '9 of 9'), ('`openmmlab`', 'not run', '9 of 9')]

    text = check_installs.stack_row(text, 'onedl', found, '9 of 9',
                                    '5 passed')
    assert readme_rows(text)[0][-2:] == ['5 passed', '9 of 9']
    text = check_installs.stack_row(text, 'onedl', found, '8 of 9')
    assert readme_rows(text)[0][-2:] == ['5 passed', '8 of 9']
    # the page has the ways to install of another Python
    text = check_installs.stack_row(text, 'onedl', found, 'not run')
    assert readme_rows(text)[0][-2:] == ['5 passed', '8 of 9']
    # other versions: what ran with the old ones says nothing
    found['mmcv'] = '2.0'
    text = check_installs.stack_row(text, 'onedl', found, '7 of 9')
    assert readme_rows(text)[0][-2:] == ['not run', '7 of 9']
    # nothing is left of the row
    found['mmcv'] = '3.0'
    text = check_installs.stack_row(text, 'onedl', found, 'not run')
    assert [row[0] for row in readme_rows(text)] == ['`openmmlab`']


@pytest.mark.parametrize('output, said', [
    ('x\nERROR: no /root/.cache/a/b.whl\n[notice] a new pip\n',
     'ERROR: no .../b.whl'),
    ('Traceback\n\x1b[31mValueError: wrong\x1b[0m\n', 'ValueError: wrong'),
    ('RuntimeError: why\nsubprocess.CalledProcessError: 1\n',
     'RuntimeError: why'),
    ('it ends\n', 'it ends'),
    ('', 'no output'),
])
def test_last_words(output, said):
    assert check_installs.last_words(output) == said


def test_environment_sees_what_is_named_and_no_more(tmp_path):
    env = check_installs.Environment(tmp_path / 'env', ['pip', 'packaging'])
    assert env.run('python', '-c', 'import packaging, pip').ok
    for module in 'pytest', 'torch', 'mmxvit':
        assert not env.run('python', '-c', f'import {module}').ok
    assert env.run('python', '-c', 'import torch').said == \
        "ModuleNotFoundError: No module named 'torch'"
    before = importlib.util.find_spec('packaging').origin
    env.run('python', '-m', 'pip', 'uninstall', '-y', 'packaging')
    assert Path(before).is_file()


@pytest.mark.parametrize('stack', STACKS)
def test_tables_are_of_the_pinned_versions(stack):
    """They are written anew when a version changes: make installs."""
    names = check_installs.distributions(stack)
    pins = dict(re.findall(
        r'^([\w-]+)==([\w.]+)', ''.join(
            (ROOT / 'requirements' / f'{name}.txt').read_text()
            for name in (f'{stack}_setup', stack)), re.M))
    pinned = {module: pins[dist] for module, dist in names.items()
              if module in check_installs.SHOWN and dist in pins}
    assert len(pinned) >= 6
    rows = [row for row in readme_rows((ROOT / 'README.md').read_text())
            if row[0] == f'`{stack}`']
    columns = ['stack', 'Python', *check_installs.SHOWN]
    for row in rows:
        row = dict(zip(columns, row, strict=False))
        assert all(row[m] == pinned[m] for m in columns if m in pinned)
    page = (ROOT / 'docs' / 'installs.md').read_text()
    blocks = [re.search(
        rf'<!-- checked: {stack}-{part} -->\n(.*?)<!-- end -->', page,
        re.S)[1].strip() for part in check_installs.PARTS]
    assert all(blocks)
    blocks = [x for x in blocks if x != check_installs.NOT_RUN]
    assert bool(blocks) == any(row[-1] != 'not run' for row in rows)
    for block in blocks:
        for module, version in pinned.items():
            assert re.search(rf'\b{module} {re.escape(version)}\b', block)


def test_readme_names_the_parts_and_the_oldest_date():
    used = f'Python {check_installs.PYTHON}.7, pip 23.2, torch 2.1, mmcv 2'
    page = f'''
<!-- checked: x-pip -->

2026-03-02, {used}: 3 of 4 checks passed, 1 are known not to.
<!-- end -->
<!-- checked: x-mim -->

Not run yet.

<!-- end -->
<!-- checked: y-mim -->

2026-01-01, {used}: 1 of 1 checks passed.
<!-- end -->
<!-- checked: x-without -->

2026-03-01, {used}: 9 of 9 checks passed.
'''
    found = {'torch': '2.1', 'mmcv': '2'}
    assert check_installs.checks_passed(page, 'x', found) == \
        'pip 3 of 4 (1 known not to work), without 9 of 9 (2026-03-01); ' \
        'mim not run'
    assert check_installs.checks_passed(page, 'z', found) == 'not run'
    # other versions, another Python
    other = page.replace('mmcv 2: 9', 'mmcv 3: 9')
    assert check_installs.checks_passed(other, 'x', found) == \
        'pip 3 of 4 (1 known not to work) (2026-03-02); mim, without not run'
    other = page.replace(used, used.replace('Python 3', 'Python 4'))
    assert check_installs.checks_passed(other, 'x', found) == 'not run'


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='not a clone')
def test_it_is_run_in_a_clone(tmp_path):
    """What git takes along is copied, not what was built."""
    copy = check_installs.copy_of_clone(tmp_path)
    assert (copy / 'setup.py').is_file()
    assert not (copy / 'mmxvit' / '.mim').exists()


def test_environment_of_another_stack(monkeypatch, capsys):
    other = 'openmmlab' if any(
        metadata.Distribution.discover(name='onedl-mmengine')) else 'onedl'
    monkeypatch.setattr('sys.argv', ['', '--stack', other, '--parts'])
    with pytest.raises(SystemExit):
        check_installs.main()
    assert re.search(f'has no .*, which is of the stack {other}: name',
                     capsys.readouterr().err)
