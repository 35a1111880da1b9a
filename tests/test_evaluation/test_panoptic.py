# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect
import json
from collections import Counter
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from mmxvit.evaluation import panoptic
from mmxvit.evaluation.coco_panoptic import evaluate_files
from mmxvit.evaluation.panoptic import (
    CategoryStat,
    check_segments,
    count_pixels,
    format_table,
    ids_to_rgb,
    match_segments,
    panoptic_quality,
    rgb_to_ids,
)

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden' / 'panoptic'
CATEGORIES = {
    1: dict(name='disc', isthing=1),
    2: dict(name='ring', isthing=1),
    7: dict(name='cloud', isthing=0),
    9: dict(name='grain', isthing=0),
}
HALF = Fraction(1, 2)


def reference(gt, gt_segments, pred, pred_segments, seen=None):
    """Pair by pair and mask by mask, in exact fractions.

    Returns (IoUs, false positives, false negatives) by category. ``seen``
    counts which rules were needed.
    """
    seen = Counter() if seen is None else seen
    void = gt == 0
    result = {}
    for category in CATEGORIES:
        truths = [gt == s['id'] for s in gt_segments
                  if s['category_id'] == category and not s['iscrowd']]
        crowds = [gt == s['id'] for s in gt_segments
                  if s['category_id'] == category and s['iscrowd']]
        guesses = [pred == s['id'] for s in pred_segments
                   if s['category_id'] == category]
        ious, fp, found = [], 0, set()
        for guess in guesses:
            ignored = guess & void
            if crowds:
                ignored = ignored | guess & crowds[-1]
            matches = False
            for i, truth in enumerate(truths):
                union = (guess | truth) & ~void
                iou = Fraction(int((guess & truth).sum()),
                               int(union.sum()) or 1)
                seen['tie'] += iou == HALF
                if iou > HALF:
                    seen['match only without void'] += 2 * (
                        guess & truth).sum() <= (guess | truth).sum()
                    ious.append(iou)
                    found.add(i)
                    matches = True
            share = Fraction(int(ignored.sum()), int(guess.sum()))
            if not matches:
                seen['ignored'] += share > HALF
                seen['half ignored'] += share == HALF
                seen['crowd'] += (share > HALF
                                  and 2 * (guess & void).sum() <= guess.sum())
                fp += share <= HALF
        fn = len(truths) - len(found)
        seen['tp'] += len(ious)
        seen['fp'] += fp
        seen['fn'] += fn
        seen['two crowds'] += len(crowds) > 1
        if ious or fp or fn:
            result[category] = (sorted(ious), fp, fn)
    return result


def plain(stats):
    """As :func:`reference` returns it, with floats for fractions."""
    return {
        category: (sorted(s.ious), s.fp, s.fn)
        for category, s in stats.items() if s.ious or s.fp or s.fn
    }


def random_image(rng):
    """Two maps of rectangles, the second a disturbed copy of the first."""
    shape = tuple(rng.integers(3, 9, 2))

    def rectangles(ids, count):
        for _ in range(count):
            top, left = (rng.integers(0, n) for n in shape)
            height, width = rng.integers(1, 7, 2)
            value = rng.choice([0, *range(1, 10)])
            ids[top:top + height, left:left + width] = value

    gt = np.zeros(shape, np.int32)
    rectangles(gt, rng.integers(0, 7))
    kinds = {i: int(rng.choice(list(CATEGORIES))) for i in range(1, 10)}
    pred = gt.copy()
    rectangles(pred, rng.integers(0, 4))
    # what is void in the one may be a segment of the other
    pred[(pred == 0) & (rng.random() < 0.5)] = rng.integers(1, 10)
    gt[:, :rng.integers(0, 3)] *= rng.integers(0, 2)

    def segments(ids, wrong):
        return [
            dict(
                id=i,
                category_id=int(rng.choice(list(CATEGORIES)))
                if rng.random() < wrong else kinds[i],
                iscrowd=int(rng.random() < 0.25))
            for i in np.unique(ids).tolist() if i
        ]

    # ids have nothing to do with each other
    shift = int(rng.integers(0, 1 << 23))
    pred_segments = segments(pred, 0.15)
    for segment in pred_segments:
        segment['id'] += shift
    return (gt, segments(gt, 0.),
            np.where(pred > 0, pred + shift, 0).astype(np.int32),
            pred_segments)


def images(count):
    rng = np.random.default_rng(0)
    return [random_image(rng) for _ in range(count)]


def test_equals_the_reference():
    seen = Counter()
    for image in images(1500):
        expected = reference(*image, seen)
        found = plain(match_segments(*image))
        assert {c: (len(v[0]), *v[1:]) for c, v in found.items()} == {
            c: (len(v[0]), *v[1:]) for c, v in expected.items()}
        for category, (ious, _, _) in found.items():
            np.testing.assert_allclose(
                ious, [float(v) for v in expected[category][0]], rtol=1e-15)
    assert min(seen.values()) >= 10, seen  # every rule was needed


# What might be written by mistake in place of a rule.
MISTAKES = [
    ('iou > 0.5', 'iou >= 0.5'),
    (' - void)', ')'),
    ("(true.get('iscrowd')\n                or category !=",
     '(category !='),
    ("if (true.get('iscrowd')\n                or category != "
     "pred_infos[pred_id]['category_id']):", "if true.get('iscrowd'):"),
    ("gt_matched and not true.get('iscrowd')", 'gt_matched'),
    ('if gt_id not in gt_matched and', 'if'),
    ('<= pred_areas', '< pred_areas'),
    ('pred_areas[pred_id] / 2', 'pred_areas[pred_id]'),
    ('ignored += ', 'ignored = '),
    ('if category in crowds:', 'if False:'),
    ('pred_id not in pred_matched\n                and ', ''),
    ('crowds = {', 'crowds = {} and {'),
    ('for i, s in gt_infos.items()', 'for i, s in '
     'reversed(gt_infos.items())'),
    ('fn += 1', 'fp += 1'),
    ('<< 24 | pred', '<< 16 | pred'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_reference_notices_mistakes(right, wrong):
    source = inspect.getsource(match_segments)
    assert source.count(right) == 1
    namespace = vars(panoptic).copy()
    exec(source.replace(right, wrong), namespace)

    def differs(image):
        expected = {c: (len(v[0]), *v[1:])
                    for c, v in reference(*image).items()}
        try:
            found = plain(namespace['match_segments'](*image))
        except (KeyError, ZeroDivisionError):
            return True
        return {c: (len(v[0]), *v[1:]) for c, v in found.items()} != expected

    assert any(map(differs, images(1500)))


def segment(i, category=1, **more):
    return dict(id=i, category_id=category, iscrowd=0, **more)


def test_half_is_no_match():
    gt = np.array([[1, 1, 2, 2]])
    pred = np.array([[1, 5, 5, 5]])
    stats = match_segments(gt, [segment(1), segment(2)], pred,
                           [segment(1), segment(5)])
    # 1/2 of the first, 2/3 of the second
    assert stats[1] == CategoryStat([2 / 3], fp=1, fn=1)


def test_area_of_the_truth_is_the_stated_one():
    """Also where the picture tells another one; as the evaluator of COCO."""
    gt, pred = np.array([[1, 1, 1, 0]]), np.array([[1, 1, 1, 0]])
    for area, iou in ((3, 1.), (4, 3 / 4)):
        stats = match_segments(gt, [segment(1, area=area)], pred,
                               [segment(1, area=99)])
        assert stats[1].ious == [iou]


def test_segments_without_a_pixel():
    gt = np.zeros((2, 3), np.int32)
    assert match_segments(gt, [], gt, []) == {}
    stats = match_segments(gt, [segment(1)], gt, [])
    assert stats == {1: CategoryStat(fn=1)}
    empty = np.zeros((0, 3), np.int32)
    assert match_segments(empty, [], empty, []) == {}


def test_maps_of_another_size():
    with pytest.raises(ValueError, match='is 3 x 2, the ground truth 2 x 3'):
        match_segments(np.zeros((3, 2), int), [], np.zeros((2, 3), int), [])


@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64])
def test_count_pixels(dtype):
    rng = np.random.default_rng(0)
    for shape in ((0, 0), *10 * [(1, 1)], *10 * [(5, 7)]):
        values = rng.integers(0, 4, shape).astype(dtype)
        assert count_pixels(values) == Counter(values.ravel().tolist())


def test_colours():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 16777215, 1234567]])
    rgb = ids_to_rgb(ids)
    assert rgb.dtype == np.uint8
    assert rgb[1, 3].tolist() == [1234567 % 256, 1234567 // 256 % 256,
                                  1234567 // 65536]
    assert (rgb_to_ids(rgb) == ids).all()
    alpha = np.concatenate([rgb, np.full((2, 4, 1), 255, np.uint8)], -1)
    assert (rgb_to_ids(alpha) == ids).all()


def test_check_segments():
    ids = np.array([[0, 1, 2]])
    check_segments(ids, [segment(1), segment(2), segment(3)])
    check_segments(ids, [segment(1), segment(2)], every=True)
    with pytest.raises(ValueError, match='segment ids 2, which'):
        check_segments(ids, [segment(1)])
    with pytest.raises(ValueError, match='no pixel of the segment ids 3, '):
        check_segments(ids, [segment(1), segment(2), segment(3)], every=True)
    with pytest.raises(ValueError, match=r'ids 2, 3, 4, 5, 6, \.\.\., which'):
        check_segments(np.arange(9)[None], [segment(1)])


def test_quality():
    """Worked by hand from the definition."""
    quality = panoptic_quality([
        {1: CategoryStat([0.75], fp=1, fn=2), 7: CategoryStat([0.6])},
        {1: CategoryStat([1.]), 2: CategoryStat(), 9: CategoryStat(fp=3)},
    ], CATEGORIES)
    rows = {
        1: dict(pq=1.75 / 3.5, sq=1.75 / 2, rq=2 / 3.5),
        7: dict(pq=0.6, sq=0.6, rq=1.),
        9: dict(pq=0., sq=0., rq=0.),
    }
    assert quality['per_class'] == rows
    assert quality['Things'] == dict(rows[1], n=1)
    assert quality['Stuff'] == dict(pq=0.3, sq=0.3, rq=0.5, n=2)
    assert quality['All'] == dict(
        pq=pytest.approx(1.1 / 3), sq=pytest.approx(1.475 / 3),
        rq=pytest.approx((2 / 3.5 + 1) / 3), n=3)


def test_mean_over_nothing_is_zero():
    quality = panoptic_quality([{7: CategoryStat([0.6])}], CATEGORIES)
    assert quality['Things'] == dict(pq=0., sq=0., rq=0., n=0)
    assert panoptic_quality([], CATEGORIES)['All']['n'] == 0


def test_order_of_the_images_does_not_matter():
    """To the last bit, where plain sums differ."""
    rng = np.random.default_rng(0)
    stats = [match_segments(*image) for image in images(300)]
    expected = panoptic_quality(stats, CATEGORIES)
    ious = [iou for s in stats for c in s.values() for iou in c.ious]
    sums = set()
    for _ in range(5):
        order = rng.permutation(len(stats))
        assert panoptic_quality([stats[i] for i in order],
                                CATEGORIES) == expected
        # sum() of Python 3.12 compensates its rounding
        sums.add(reduce(add, rng.permutation(ious).tolist()))
    assert len(sums) > 1


def test_table():
    quality = panoptic_quality(
        [{1: CategoryStat([0.75], fn=1), 7: CategoryStat([0.9])}], CATEGORIES)
    assert format_table(quality) == (
        '            PQ      SQ      RQ     N\n'
        'All      70.00   82.50   83.33     2\n'
        'Things   50.00   75.00   66.67     1\n'
        'Stuff    90.00   90.00  100.00     1')
    assert format_table(quality, CATEGORIES).splitlines()[-2:] == [
        '1 disc    50.00   75.00   66.67',
        '7 cloud   90.00   90.00  100.00',
    ]


@pytest.mark.parametrize('nproc', [1, 2])
@pytest.mark.parametrize('name', ['a', 'b'])
def test_golden(name, nproc):
    """panopticapi's results for real images, with crowds and void."""
    quality, categories = evaluate_files(
        *(str(GOLDEN / part)
          for part in ('gt.json', 'gt', f'{name}.json', name)), nproc)
    expected = json.loads((GOLDEN / f'{name}_result.json').read_text())
    for group, row in expected['summary'].items():
        assert quality[group] == pytest.approx(row, rel=0, abs=1e-9)
    found = {i: row for i, row in quality['per_class'].items() if row['pq']}
    assert set(found) == {int(i) for i in expected['per_class']}
    for category, row in found.items():
        assert row == pytest.approx(
            expected['per_class'][str(category)], rel=0, abs=1e-9)
    assert len(quality['per_class']) == quality['All']['n']
    assert len(categories) == 133
