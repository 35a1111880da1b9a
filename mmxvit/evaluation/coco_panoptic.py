# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Panoptic quality of files in COCO's panoptic format."""
import os.path as osp
from concurrent.futures import ThreadPoolExecutor

from mmxvit.datasets.coco_panoptic import read_annotations, read_ids
from mmxvit.engine.command import UserError

from .panoptic import Stats, match_segments, panoptic_quality


def evaluate_files(gt_json: str,
                   gt_dir: str,
                   pred_json: str,
                   pred_dir: str,
                   nproc: int = 1) -> tuple[dict[str, dict], dict[int, dict]]:
    """Evaluate predictions for all annotated images.

    Predictions for other images are not looked at.

    Args:
        gt_json: Ground truth.
        gt_dir: Folder of its PNG files.
        pred_json: Predictions.
        pred_dir: Folder of their PNG files.
        nproc: Images that are worked on at a time.

    Returns:
        Result of :func:`~mmxvit.evaluation.panoptic.panoptic_quality`, and
        the categories by id.

    Raises:
        UserError: Something is missing or does not fit; names the file.
    """
    categories, truths = read_annotations(gt_json)
    if not categories or not truths:
        raise UserError(f'{gt_json}: has no `categories` or no `annotations`: '
                        'name the JSON file of the ground truth')
    _, guesses = read_annotations(pred_json, categories)
    if missing := [i for i in truths if i not in guesses]:
        raise UserError(
            f'{pred_json}: has no prediction for {len(missing)} of the '
            f'{len(truths)} images of {gt_json}, such as image_id '
            f'{missing[0]}: predict all of them; one in which nothing is '
            'found has an empty segments_info and a black PNG')

    def evaluate(image_id: int) -> Stats:
        gt, pred = truths[image_id], guesses[image_id]
        gt_path = osp.join(gt_dir, gt['file_name'])
        pred_path = osp.join(pred_dir, pred['file_name'])
        gt_ids = read_ids(gt_path, gt['segments_info'])
        pred_ids = read_ids(pred_path, pred['segments_info'], every=True)
        try:
            return match_segments(gt_ids, gt['segments_info'], pred_ids,
                                  pred['segments_info'])
        except ValueError as error:
            raise UserError(f'{pred_path}: {error} ({gt_path})') from None

    # decoding and counting leave Python's lock to others
    with ThreadPoolExecutor(nproc) as pool:
        stats = list(pool.map(evaluate, truths))
    return panoptic_quality(stats, categories), categories
