# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The tables of ways to install, and that they are of these versions."""
import importlib.util
import re
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


def test_row_keeps_the_part_that_has_not_run():
    text = '<!-- checked: stacks -->\n<!-- end -->\n'
    found = dict.fromkeys(check_installs.SHOWN, '1.0')
    for stack in ('openmmlab', 'onedl'):
        text = check_installs.stack_row(text, stack, found,
                                        {'routes': '9 of 9'})
    assert [(row[0], *row[-2:]) for row in readme_rows(text)] == [
        ('`onedl`', 'not run', '9 of 9'), ('`openmmlab`', 'not run', '9 of 9')]

    text = check_installs.stack_row(text, 'onedl', found,
                                    {'tests': '5 passed'})
    assert readme_rows(text)[0][-2:] == ['5 passed', '9 of 9']
    # other versions: what ran with the old ones says nothing
    found['mmcv'] = '2.0'
    text = check_installs.stack_row(text, 'onedl', found,
                                    {'tests': '6 passed'})
    assert readme_rows(text)[0][-2:] == ['6 passed', 'not run']
    assert readme_rows(text)[1][-1] == '9 of 9'


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
    assert any(blocks) == any(row[-1] != 'not run' for row in rows)
    for block in filter(None, blocks):
        for module, version in pinned.items():
            assert re.search(rf'\b{module} {re.escape(version)}\b', block)


def test_checks_of_all_parts_are_counted():
    page = '''
<!-- checked: x-pip -->

2026, torch 2: 3 of 4 checks passed.
<!-- end -->
<!-- checked: x-mim -->
<!-- end -->
<!-- checked: y-mim -->
2026: 1 of 1 checks passed.
<!-- end -->
<!-- checked: x-without -->

2026: 10 of 10 checks passed.
'''
    assert check_installs.checks_passed(page, 'x') == '13 of 14'


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='not a clone')
def test_it_is_run_in_a_clone(tmp_path):
    """What git takes along is copied, not what was built."""
    copy = check_installs.copy_of_clone(tmp_path)
    assert (copy / 'setup.py').is_file()
    assert not (copy / 'mmxvit' / '.mim').exists()
