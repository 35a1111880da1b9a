# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json

import pytest

from mmxvit.analysis.gallery import (
    Gallery,
    plot,
    read_curve,
    read_scores,
    score_tables,
    write_page,
)
from mmxvit.engine.command import UserError

from ..html_page import Page, check_page


def write_log(folder, records, tail=''):
    log = folder / 'vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(map(json.dumps, records)) + tail)


def epochs(numbers, loss=100.):
    """As MMEngine logs them: 20 iterations an epoch, validated after each."""
    for epoch in numbers:
        for step in (10, 20):
            i = (epoch - 1) * 20 + step
            yield dict(lr=.1, loss=loss / epoch, epoch=epoch, iter=i, step=i)
        yield {'coco/bbox_mAP': .1 * epoch, 'coco/bbox_mAP_50': .2 * epoch,
               'coco/bbox_mAP_s': -1., 'time': 1., 'step': epoch}


def test_curve_of_a_training_that_was_killed_and_resumed(tmp_path):
    write_log(tmp_path / '20260101_000000', epochs([1, 2, 3], loss=900.),
              '\n{"loss": 3')
    write_log(tmp_path / '20260102_000000', epochs([3, 4]))
    write_log(tmp_path / '20260103_000000', [])  # a test
    curve = read_curve(tmp_path)
    assert curve.unit == 'epoch'
    third = pytest.approx(100 / 3)
    assert curve.loss == [(.5, 900), (1, 900), (1.5, 450), (2, 450),
                          (2.5, third), (3, third), (3.5, 25), (4, 25)]
    assert list(curve.scores) == ['mAP (boxes)', 'AP50 (boxes)']
    assert curve.scores['mAP (boxes)'] == [
        (e, pytest.approx(.1 * e)) for e in (1, 2, 3, 4)]


def test_a_new_training_in_the_same_folder_replaces_the_old_one(tmp_path):
    write_log(tmp_path / '1', epochs([1, 2, 3]))
    write_log(tmp_path / '2', epochs([1], loss=7.))
    curve = read_curve(tmp_path)
    assert curve.loss == [(.5, 7), (1, 7)]
    assert [x for x, _ in curve.scores['mAP (boxes)']] == [1]


@pytest.mark.parametrize('resume', [False, True])
def test_a_new_training_that_logs_more_rarely(tmp_path, resume):
    """Only its config tells it from a resumed one."""
    for name, interval, resumed in ('1', 10, False), ('2', 50, resume):
        write_log(tmp_path / name, [
            dict(loss=float(name), iter=i, step=i)
            for i in range(interval, 101, interval)
        ] + [dict(mIoU=float(name), step=interval)])
        (tmp_path / name / 'vis_data/config.py').write_text(
            f"load_from = None\nresume = {resumed}\nwork_dir = 'x'\n")
    curve = read_curve(tmp_path)
    old = [(10, 1), (20, 1), (30, 1), (40, 1)] if resume else []
    assert curve.loss == [*old, (50, 2), (100, 2)]
    assert curve.scores['mIoU'] == [*old[:1], (50, 2)]


@pytest.mark.parametrize('by_epoch_first', [False, True])
def test_logs_by_iterations_and_by_epochs_are_not_mixed(
        tmp_path, by_epoch_first):
    by_iteration = [r for i in (5, 30, 60) for r in (
        dict(loss=1., iter=i, step=i), dict(mIoU=.5, step=i))]
    logs = [list(epochs([1, 2])), by_iteration]
    for name, log in zip('12', logs if by_epoch_first else logs[::-1],
                         strict=True):
        write_log(tmp_path / name, log)
    curve = read_curve(tmp_path)
    if by_epoch_first:
        assert curve.unit == 'iteration' and list(curve.scores) == ['mIoU']
        assert [x for x, _ in curve.loss] == [5, 30, 60]
    else:
        assert curve.unit == 'epoch' and 'mIoU' not in curve.scores
        assert [x for x, _ in curve.loss] == [.5, 1, 1.5, 2]


def test_curve_by_iterations(tmp_path):
    write_log(tmp_path / '1', [
        dict(loss=2., iter=50, step=50), dict(mIoU=12.5, aAcc=30., step=50),
        dict(loss=float('nan'), iter=100, step=100),
        dict(mIoU=25., aAcc=40., step=100)])
    curve = read_curve(tmp_path)
    assert curve.unit == 'iteration'
    assert curve.loss == [(50, 2.)]
    assert curve.scores == {'mIoU': [(50, 12.5), (100, 25.)]}


def test_no_curve(tmp_path):
    assert read_curve(tmp_path / 'none') is None
    write_log(tmp_path / '1', [{'coco/bbox_mAP': .1, 'step': 1}])
    write_log(tmp_path / '2', [dict(loss=float('inf'), iter=1, step=1)])
    assert read_curve(tmp_path) is None


def test_plot(tmp_path):
    write_log(tmp_path / '1', epochs([1, 2, 4]))
    drawn = plot(read_curve(tmp_path))
    loss, mean, half = drawn['lines']
    left, right, bottom = (drawn[k] for k in ('left', 'right', 'bottom'))
    assert loss['points'][-1][0] == right and mean['points'][-1][0] == right
    assert loss['points'][0][1] < loss['points'][-1][1] < bottom
    # 0.8 of the height, between 0 and 1
    ticks = {text: place for place, text in drawn['score_ticks']}
    assert ticks['0'] == bottom and half['points'][-1][1] == ticks['0.8']
    assert drawn['x_ticks'][0] == (left, '0')
    assert {'50', '100'} <= {text for _, text in drawn['y_ticks']}
    assert drawn['table'].rows == [
        ['1', '0.100', '0.200'], ['2', '0.200', '0.400'],
        ['4', '0.400', '0.800']]
    assert 'mAP (boxes) ends at 0.400' in drawn['summary']


def test_plot_of_percentages_of_a_constant_and_of_a_long_training(tmp_path):
    write_log(tmp_path / '1', [
        *(dict(loss=0., iter=i, step=i) for i in range(1, 5001)),
        {'accuracy/top1': 25., 'step': 5000}])
    drawn = plot(read_curve(tmp_path))
    loss, accuracy = drawn['lines']
    assert len(loss['points']) <= 500
    ticks = {text: place for place, text in drawn['score_ticks']}
    assert ticks['20'] > accuracy['points'][0][1] > ticks['40']


def test_tables_of_coco_scores():
    scores = {'coco/disc_precision': .5, 'coco/big ring_precision': .25}
    for kind in ('bbox', 'segm'):
        scores.update({f'coco/{kind}_{k}': v for k, v in (
            ('mAP', .4), ('mAP_50', .6), ('mAP_75', .45), ('mAP_s', -1),
            ('mAP_m', .3), ('mAP_l', float('nan')))})
    scores.update({'coco/bbox_mAP_copypaste': .1, 'coco_panoptic/PQ': 47.31,
                   'time': 9, 'data_time': 9})
    main, classes, rest = score_tables(scores)
    assert main.head == ['', 'mAP', 'AP50', 'AP75', 'small', 'medium',
                         'large']
    assert main.rows == [
        [kind, '0.400', '0.600', '0.450', '–', '0.300', '–']
        for kind in ('boxes', 'masks')]
    assert classes.caption == 'mAP of each class (masks)'
    assert classes.rows == [['disc', '0.500'], ['big ring', '0.250']]
    assert rest.rows == [['coco_panoptic/PQ', '47.31']]


def test_table_of_other_scores():
    (table, ) = score_tables({'aAcc': 90.5, 'mIoU': 40., 'time': 3})
    assert table.caption == 'Scores'
    assert table.rows == [['aAcc', '90.50'], ['mIoU', '40.00']]


def test_scores_that_are_not_there(tmp_path):
    path = tmp_path / 'a.json'
    with pytest.raises(UserError, match='no such file; give the JSON file'):
        read_scores(path)
    for text in ('', '[1, 2]', '{"mAP": "high"}', '{"mAP": [1]}', 'mAP: 1'):
        path.write_text(text)
        with pytest.raises(UserError, match='expected names and numbers'):
            read_scores(path)
    path.write_text('{"mAP": 0.1}\n{"mAP": 0.2}')
    assert read_scores(path) == dict(mAP=.2)


def test_page_without_anything(tmp_path):
    path = tmp_path / 'page.html'
    path.write_text('old')
    write_page(
        Gallery('<b>&', [('"a"', '<i>')], None, [], [],
                attention_note='no <attention>'), path)
    page = Page(path)
    check_page(page)
    assert '<b>& "a" <i>' in page.text.replace('<b>& ', '', 1)
    assert 'The work folder has no log of a training.' in page.text
    assert 'no <attention>' in page.text
    assert not page.all('b') and not page.all('i')
    assert [p.name for p in tmp_path.iterdir()] == ['page.html']


def test_page_of_a_training_without_validation(tmp_path):
    write_log(tmp_path / '1', [r for r in epochs([1, 2]) if 'loss' in r])
    path = tmp_path / 'page.html'
    write_page(Gallery('a', [], read_curve(tmp_path), [], []), path)
    page = Page(path)
    check_page(page)
    assert len(page.all('polyline')) == 1
    assert 'This training was not validated' in page.text
