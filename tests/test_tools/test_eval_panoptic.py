# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmxvit.datasets.coco_panoptic import write_ids

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden' / 'panoptic'


@pytest.fixture
def main(script):
    return script('tools/analysis_tools/eval_panoptic.py').main


@pytest.fixture
def files():
    """A copy of the golden files, to spoil."""
    shutil.copytree(GOLDEN, 'data')
    return [
        f'--{kind}-{what}={path}'
        for kind, name in (('gt', 'gt'), ('pred', 'a'))
        for what, path in (('json', f'data/{name}.json'), ('dir',
                                                           f'data/{name}'))
    ]


def edit(path, change):
    data = json.loads(Path(path).read_text())
    change(data['annotations'][1])
    Path(path).write_text(json.dumps(data))


def test_table_and_json(main, files, capfd):
    main([*files, '--out', 'new/result.json'])
    printed = capfd.readouterr().out
    assert printed == ('            PQ      SQ      RQ     N\n'
                       'All      18.14   24.16   24.53    18\n'
                       'Things    3.33    8.84    5.35    14\n'
                       'Stuff    69.98   77.79   91.67     4\n'
                       'wrote new/result.json\n')
    result = json.loads(Path('new/result.json').read_text())
    expected = json.loads((GOLDEN / 'a_result.json').read_text())
    assert list(result) == ['All', 'Things', 'Stuff', 'per_class']
    for group, row in expected['summary'].items():
        assert result[group] == pytest.approx(row, rel=0, abs=1e-9)
    assert len(result['per_class']) == 18
    assert result['per_class']['193'] == pytest.approx(
        expected['per_class']['193'], rel=0, abs=1e-9)
    main([*files, '--classwise', '--nproc', '2'])
    rows = capfd.readouterr().out.splitlines()
    assert len(rows) == 4 + 18
    assert rows[4].split() == ['1', 'person', '18.26', '59.99', '30.43']


def test_nothing_is_overwritten(main, files, failure):
    Path('mine.json').write_text('mine')
    message = failure(main, *files, '--out', 'mine.json')
    assert 'mine.json: exists already' in message and '--force' in message
    assert Path('mine.json').read_text() == 'mine'
    main([*files, '--out', 'mine.json', '--force'])
    assert json.loads(Path('mine.json').read_text())['All']['n'] == 18
    Path('empty.json').touch()  # as mktemp makes it
    main([*files, '--out', 'empty.json'])
    assert Path('empty.json').read_text() == Path('mine.json').read_text()
    Path('folder').mkdir()
    assert 'folder: is a folder' in failure(
        main, *files, '--out', 'folder', '--force')


def test_failure_leaves_an_earlier_result(main, files, failure):
    Path('mine.json').write_text('mine')
    Path('data/a.json').unlink()
    assert 'data/a.json: ' in failure(main, *files, '--out', 'mine.json',
                                      '--force')
    assert Path('mine.json').read_text() == 'mine'


def test_prediction_without_picture(main, files, failure):
    Path('data/a/000000439180.png').unlink()
    message = failure(main, *files)
    assert 'data/a/000000439180.png: ' in message and 'correct the' in message


def test_prediction_without_image(main, files, failure):
    edit('data/a.json', lambda entry: entry.update(image_id=1))
    message = failure(main, *files)
    assert 'data/a.json: has no prediction for 1 of the 2 images' in message
    assert 'image_id 439180: predict all' in message


@pytest.mark.parametrize('name', ['a', 'gt'])
def test_picture_with_other_ids(name, main, files, failure):
    edit(f'data/{name}.json', lambda entry: entry['segments_info'].pop())
    message = failure(main, *files)
    assert f'data/{name}/000000439180.png: has the segment ids' in message
    assert 'add them there' in message


def test_segment_that_is_not_in_the_picture(main, files, failure):
    more = dict(id=77, category_id=1, iscrowd=0, area=4)
    edit('data/gt.json', lambda entry: entry['segments_info'].append(more))
    main(files)  # as the evaluator of COCO: it is missed
    edit('data/a.json', lambda entry: entry['segments_info'].append(more))
    message = failure(main, *files)
    assert 'data/a/000000439180.png: has no pixel of the segment ids 77' in (
        message)


@pytest.mark.parametrize('name', ['a', 'gt'])
def test_unknown_category(name, main, files, failure):
    edit(f'data/{name}.json',
         lambda entry: entry['segments_info'][0].update(category_id=999))
    message = failure(main, *files)
    assert f'data/{name}.json: segment ' in message
    assert 'category_id 999' in message


def test_sizes_differ(main, files, failure):
    path = Path('data/a/000000439180.png')
    with Image.open(path) as image:
        image.resize((320, 180), Image.NEAREST).save(path)
    message = failure(main, *files)
    assert f'{path}: is 320 x 180, the ground truth 640 x 360' in message
    assert 'data/gt/000000439180.png' in message


def test_files_in_the_wrong_place(main, files, failure):
    wrong = [a.replace('gt.json', 'a.json') for a in files]
    assert 'data/a.json: ' in failure(main, *wrong)
    assert 'nowhere/000000142238.png: ' in failure(
        main, *(a.replace('data/gt', 'nowhere') if 'dir' in a else a
                for a in files))
    assert '--nproc 0' in failure(main, *files, '--nproc', '0')


def test_image_in_which_nothing_is_found(main, files):
    """The remedy that the message on missing images names."""
    main([*files, '--out', 'before.json'])
    write_ids(Path('data/a/000000439180.png'), np.zeros((360, 640), np.int32))
    edit('data/a.json', lambda entry: entry.update(segments_info=[]))
    main([*files, '--out', 'after.json'])
    before, after = (json.loads(Path(f'{name}.json').read_text())['All']
                     for name in ('before', 'after'))
    assert 0 < after['pq'] < before['pq']
