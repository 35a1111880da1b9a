# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Panoptic quality, by the rules of COCO's own evaluator (panopticapi).

Kirillov et al., "Panoptic Segmentation", CVPR 2019, Sec. 4: of a category's
segments, those that match by an IoU > 0.5 are true positives (TP), and

    PQ = sum of the IoUs of TP / (TP + FP / 2 + FN / 2) = SQ x RQ
    SQ = mean IoU of TP,    RQ = TP / (TP + FP / 2 + FN / 2).

What the paper leaves open and the evaluator decides: see
:func:`match_segments`.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VOID = 0
"""Segment id of pixels without a label."""

Segments = Sequence[Mapping[str, Any]]
"""``segments_info`` of an image: dicts with ``id``, ``category_id`` and, of
ground truth, ``iscrowd`` (0) and ``area`` (counted)."""


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Segment ids R + 256 G + 256^2 B of a picture.

    Args:
        rgb: uint8 (H, W, 3 or more); what follows blue is ignored.

    Returns:
        int32 (H, W).
    """
    rgb = rgb[..., :3].astype(np.int32)
    return rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Inverse of :func:`rgb_to_ids`: uint8 (H, W, 3)."""
    return np.stack([ids, ids >> 8, ids >> 16], -1).astype(np.uint8)


def count_pixels(values: np.ndarray) -> dict[int, int]:
    """Pixels of each value that occurs in a map of non-negative integers."""
    values = values.ravel()
    # runs instead of pixels: segments are connected for the most part
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(starts, append=values.size)
    found, inverse = np.unique(values[starts], return_inverse=True)
    counts = np.bincount(inverse, lengths, len(found)).astype(np.int64)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def check_segments(ids: np.ndarray, segments: Segments,
                   every: bool = False) -> None:
    """Check that an image's map and its list of segments agree.

    Args:
        ids: Segment ids, int (H, W).
        segments: ``segments_info`` of the image.
        every: Also refuse segments without a pixel.

    Raises:
        ValueError: They do not; says what to do.
    """
    listed = {s['id'] for s in segments}
    painted = set(count_pixels(ids))
    if unknown := painted - listed - {VOID}:
        raise ValueError(
            f'has the segment ids {_some(unknown)}, which segments_info of '
            'the JSON file does not list: add them there, or set their pixels '
            'to 0 (void)')
    if every and (absent := listed - painted):
        raise ValueError(
            f'has no pixel of the segment ids {_some(absent)}, which '
            'segments_info of the JSON file lists: remove them there')


def _some(values: Iterable[int]) -> str:
    values = sorted(values)
    return ', '.join(map(str, values[:5])) + ', ...' * (len(values) > 5)


@dataclass
class CategoryStat:
    """Matches of the segments of a category.

    Attributes:
        ious: IoU of each true positive.
        fp: False positives.
        fn: False negatives.
    """
    ious: list[float] = field(default_factory=list)
    fp: int = 0
    fn: int = 0


Stats = dict[int, CategoryStat]
"""By category id."""


def match_segments(gt: np.ndarray, gt_segments: Segments, pred: np.ndarray,
                   pred_segments: Segments) -> Stats:
    """Match the predicted segments of one image with the true ones.

    * Two segments match if they are of one category and their IoU is above
      0.5. Void pixels of the ground truth are taken from the union.
    * The area of a true segment is the one that ``gt_segments`` states.
    * A crowd region neither matches nor is missed.
    * A predicted segment that matches nothing is no false positive if more
      than half of it is void or in the crowd region of its category; of
      several such regions the last in the list counts.

    Args:
        gt: True segment ids, int (H, W), 0 to 2^24 - 1.
        gt_segments: ``segments_info`` of the ground truth.
        pred: Predicted segment ids, int (H, W).
        pred_segments: ``segments_info`` of the prediction, of segments with a
            pixel or more.

    Raises:
        ValueError: The maps differ in size.
    """
    if gt.shape != pred.shape:
        raise ValueError(f'is {_size(pred)}, the ground truth {_size(gt)}: '
                         'segment ids are due at the size of the image')
    overlaps = {
        divmod(pair, 1 << 24): pixels
        for pair, pixels in count_pixels(
            gt.astype(np.int64) << 24 | pred).items()
    }
    gt_areas, pred_areas = count_pixels(gt), count_pixels(pred)
    gt_infos = {s['id']: s for s in gt_segments}
    pred_infos = {s['id']: s for s in pred_segments}
    crowds = {
        s['category_id']: i
        for i, s in gt_infos.items() if s.get('iscrowd')
    }
    stats = {
        s['category_id']: CategoryStat()
        for s in (*gt_infos.values(), *pred_infos.values())
    }
    gt_matched, pred_matched = set(), set()
    for (gt_id, pred_id), common in overlaps.items():
        if gt_id not in gt_infos or pred_id not in pred_infos:
            continue
        true = gt_infos[gt_id]
        category = true['category_id']
        if (true.get('iscrowd')
                or category != pred_infos[pred_id]['category_id']):
            continue
        area = true.get('area', gt_areas[gt_id])
        void = overlaps.get((VOID, pred_id), 0)
        iou = common / (area + pred_areas[pred_id] - common - void)
        if iou > 0.5:
            stats[category].ious.append(iou)
            gt_matched.add(gt_id)
            pred_matched.add(pred_id)
    for gt_id, true in gt_infos.items():
        if gt_id not in gt_matched and not true.get('iscrowd'):
            stats[true['category_id']].fn += 1
    for pred_id, guess in pred_infos.items():
        category = guess['category_id']
        ignored = overlaps.get((VOID, pred_id), 0)
        if category in crowds:
            ignored += overlaps.get((crowds[category], pred_id), 0)
        if (pred_id not in pred_matched
                and ignored <= pred_areas[pred_id] / 2):
            stats[category].fp += 1
    return stats


def _size(ids: np.ndarray) -> str:
    return ' x '.join(map(str, ids.shape[::-1]))


def panoptic_quality(
        images: Iterable[Stats],
        categories: Mapping[int, Mapping[str, Any]]) -> dict[str, dict]:
    """Sum up a data set.

    The result does not depend on the order of the images, to the last bit.

    Args:
        images: Of each image, from :func:`match_segments`.
        categories: By id, with ``isthing`` (0 or 1).

    Returns:
        ``pq``, ``sq``, ``rq`` (fractions 0..1) and ``n``, the number of
        categories with TP + FP + FN > 0, under ``All``, ``Things`` and
        ``Stuff``; ``pq``, ``sq``, ``rq`` of each of these categories by its
        id under ``per_class``. The mean over no category is 0.
    """
    total = {i: CategoryStat() for i in categories}
    for stats in images:
        for category, stat in stats.items():
            total[category].ious += stat.ious
            total[category].fp += stat.fp
            total[category].fn += stat.fn
    per_class = {}
    for category, stat in total.items():
        tp, iou = len(stat.ious), math.fsum(stat.ious)
        segments = tp + (stat.fp + stat.fn) / 2
        if segments:
            per_class[category] = dict(
                pq=iou / segments, sq=iou / tp if tp else 0.,
                rq=tp / segments)
    groups = dict(All=(False, True), Things=(True, ), Stuff=(False, ))
    result = {}
    for name, kinds in groups.items():
        rows = [row for category, row in per_class.items()
                if bool(categories[category]['isthing']) in kinds]
        result[name] = {
            key: sum(row[key] for row in rows) / max(len(rows), 1)
            for key in ('pq', 'sq', 'rq')
        }
        result[name]['n'] = len(rows)
    return dict(result, per_class=per_class)


def format_table(quality: Mapping[str, dict],
                 categories: Mapping[int, Mapping[str, Any]] | None = None
                 ) -> str:
    """Table of :func:`panoptic_quality`, x 100.

    Args:
        quality: From :func:`panoptic_quality`.
        categories: With ``name``, for a row per category.
    """
    rows = {name: quality[name] for name in ('All', 'Things', 'Stuff')}
    for category, row in quality['per_class'].items() if categories else ():
        rows[f'{category} {categories[category]["name"]}'] = row
    width = max(map(len, rows))
    lines = [' ' * width + f'{"PQ":>8}{"SQ":>8}{"RQ":>8}{"N":>6}']
    for name, row in rows.items():
        values = ''.join(f'{100 * row[key]:8.2f}' for key in ('pq', 'sq',
                                                              'rq'))
        lines.append(f'{name:{width}}{values}{row.get("n", ""):>6}'.rstrip())
    return '\n'.join(lines)
