# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Scores per task against a count by hand."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, init_default_scope
from PIL import Image

pytest.importorskip('mmseg')

TASKS = dict(drivable=('background', 'drivable'),
             lane=('background', 'a', 'b'))


def metric(**kwargs):
    init_default_scope('mmseg')
    made = METRICS.build(dict(type='mmxvit.MultiTaskIoUMetric', **kwargs))
    made.dataset_meta = dict(tasks=TASKS)
    return made


def samples(count=3):
    rng = np.random.default_rng(0)
    result = []
    for i in range(count):
        maps = [
            np.stack([rng.integers(0, len(c), (6, 8)) for c in TASKS.values()])
            for _ in range(2)
        ]
        maps[1][:, 0, :3] = 255
        pred, truth = (dict(data=torch.from_numpy(m)) for m in maps)
        result.append(
            dict(pred_sem_seg=pred, gt_sem_seg=truth, img_path=f'{i}.jpg'))
    return result


def by_hand(data, task, classes):
    pred, truth = (
        np.stack([s[key]['data'][task].numpy() for s in data])
        for key in ('pred_sem_seg', 'gt_sem_seg'))
    valid = truth != 255
    return 100 * np.mean([
        (valid & (pred == c) & (truth == c)).sum() /
        (valid & ((pred == c) | (truth == c))).sum() for c in range(classes)
    ])


def test_mean_iou_of_each_task():
    data = samples()
    made = metric()
    made.process(None, data[:2])
    made.process(None, data[2:])
    scores = made.evaluate(3)
    assert {k for k in scores if k.endswith('mIoU')} == {
        'drivable/mIoU', 'lane/mIoU'}
    for i, (task, classes) in enumerate(TASKS.items()):
        # mmseg rounds to two digits
        assert scores[f'{task}/mIoU'] == pytest.approx(
            by_hand(data, i, len(classes)), abs=0.006)
    assert scores['drivable/mIoU'] != scores['lane/mIoU']


def test_options_go_to_all_tasks_and_a_second_evaluation_is_fresh():
    made = metric(iou_metrics=['mFscore'])
    data = samples()
    made.process(None, data)
    first = made.evaluate(3)
    assert {'drivable/mFscore', 'lane/mFscore'} <= set(first)
    made.process(None, data)
    assert made.evaluate(3) == first


def test_predictions_are_written_by_task():
    data = samples()
    made = metric(output_dir='out', format_only=True)
    made.process(None, [{k: v for k, v in s.items() if k != 'gt_sem_seg'}
                        for s in data])
    assert not made.evaluate(3)
    for i, task in enumerate(TASKS):
        assert len(list(Path('out', task).iterdir())) == 3
        written = np.asarray(Image.open(f'out/{task}/2.png'))
        assert (written == data[2]['pred_sem_seg']['data'][i].numpy()).all()
