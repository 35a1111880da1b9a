# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Files of COCO's panoptic format, without panopticapi.

A JSON file lists ``categories`` and, for each image, ``segments_info``; a
picture of the same name tells the segment of each pixel by its colour.
"""
import io
import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import get
from PIL import Image

from mmxvit.engine.command import UserError
from mmxvit.evaluation.panoptic import (
    Segments,
    check_segments,
    ids_to_rgb,
    rgb_to_ids,
)

METAINFO = ('set metainfo of the data set in the config: `classes` to the '
            'names of all `categories` of the file, `thing_classes` and '
            '`stuff_classes` to those of either kind; then num_classes, '
            'num_things_classes and num_stuff_classes of the heads')
"""What to do where the categories of a file are not those of the config."""


def read_ids(path: str,
             segments: Segments,
             every: bool = False,
             backend_args: dict | None = None) -> np.ndarray:
    """Segment ids of a panoptic PNG.

    Args:
        path: File, or address that MMEngine's file backends know.
        segments: ``segments_info`` of the image.
        every: Also refuse segments without a pixel.
        backend_args: Of MMEngine's file backend.

    Returns:
        int32 (H, W), 0 is void.

    Raises:
        UserError: It is missing, damaged, no colour picture, or has ids that
            are not among the segments.
    """
    content = _read(path, backend_args, 'panoptic PNG')
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f'{path}: cannot be read as a PNG ({error}); write it '
                        'again or fetch it again') from error
    if mode not in ('RGB', 'RGBA'):
        raise UserError(
            f'{path}: is a picture of mode {mode}, expected one of 8-bit RGB '
            'with segment ids R + 256 G + 65536 B; convert it to that')
    ids = rgb_to_ids(pixels)
    try:
        check_segments(ids, segments, every)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    return ids


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write segment ids, int (H, W) below 2^24, as a panoptic PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_to_rgb(ids)).save(path)


def read_annotations(path: str,
                     categories: Mapping[int, dict] | None = None,
                     backend_args: dict | None = None
                     ) -> tuple[dict[int, dict], dict[int, dict]]:
    """Categories and annotations of a JSON file.

    Args:
        path: File, or address that MMEngine's file backends know.
        categories: Known ones, by id; None takes those of the file.
        backend_args: Of MMEngine's file backend.

    Returns:
        Categories by id, and ``annotations`` of the file by image id; what
        it lacks is empty.

    Raises:
        UserError: It is missing, damaged, of another format, or has segments
            of an unknown category; or, as ground truth, an image or a segment
            twice, or a segment without area.
    """
    truth = categories is None
    try:
        data = json.loads(_read(path, backend_args, 'panoptic JSON'))
    except ValueError as error:
        raise UserError(f'{path}: is no JSON file ({error}); write it again '
                        'or fetch it again') from error
    try:
        if truth:
            categories = _by_key(data, 'categories', 'id', 'name', 'isthing')
        # of predictions the last entry counts, as in COCO's own evaluator
        annotations = _by_key(data, 'annotations', 'image_id', 'file_name',
                              'segments_info', unique=truth)
        for annotation in annotations.values():
            segments = _by_key(annotation, 'segments_info', 'id',
                               'category_id', unique=truth)
            if not isinstance(annotation['file_name'], str):
                raise TypeError(f'file_name {annotation["file_name"]!r}')
            for segment in segments.values():
                hash(segment['category_id'])
                area = segment.get('area', 1)
                if truth and not isinstance(area, (int, float)):
                    raise TypeError(f'area {area!r}')
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: is not in the panoptic format of COCO ({error}); it has '
            '`annotations`: image_id, file_name, segments_info (id, '
            'category_id), and, of the ground truth, `categories`: id, name, '
            'isthing') from error
    for image_id, annotation in annotations.items():
        for segment in annotation['segments_info']:
            if segment['category_id'] not in categories:
                raise UserError(
                    f'{path}: segment {segment["id"]} of image_id {image_id} '
                    f'is of category_id {segment["category_id"]}, which '
                    '`categories` of the ground truth does not list: correct '
                    'it, or add it there')
            if (truth and not segment.get('iscrowd')
                    and segment.get('area', 1) <= 0):
                raise UserError(
                    f'{path}: segment {segment["id"]} of image_id {image_id} '
                    f'has the area {segment["area"]}, expected its number of '
                    'pixels: correct it, or remove the segment')
    return categories, annotations


def check_categories(path: str, image_id: int, segments: Segments,
                     categories: Mapping[int, dict],
                     known: Container[int]) -> None:
    """Check that a data set knows the categories of an image's segments.

    Args:
        path: JSON file, for the message.
        image_id: Image, for the message.
        segments: ``segments_info`` of the image.
        categories: Of the file, by id.
        known: Ids of those that are ``classes`` of the data set.

    Raises:
        UserError: It does not.
    """
    for segment in segments:
        category = segment['category_id']
        if category in known:
            continue
        start = (f'{path}: segment {segment["id"]} of image_id {image_id} is '
                 f'of category_id {category}')
        if category not in categories:
            raise UserError(f'{start}, which `categories` does not list: '
                            'correct it, or add it there')
        raise UserError(f'{start} ({categories[category]["name"]}), which is '
                        f'not one of `classes` of the config: {METAINFO}')


def _by_key(parent: dict[str, Any], name: str, key: str, *others: str,
            unique: bool = False) -> dict[int, dict]:
    """Entries of the list ``parent[name]``, which have all the keys.

    Args:
        unique: Refuse two entries with the same value of ``key``.
    """
    entries = parent.get(name, ())
    for entry in entries:
        for required in (key, *others):
            if required not in entry:
                raise KeyError(f'{required} in {name}')
    found = {entry[key]: entry for entry in entries}
    if unique and len(found) < len(entries):
        raise KeyError(f'{key} in {name} occurs twice')
    return found


def _read(path: str, backend_args: dict | None, kind: str) -> bytes:
    try:
        return get(path, backend_args=backend_args)
    except OSError as error:
        raise UserError(
            f'{path}: this {kind} cannot be read ({error.strerror or error}); '
            'put it there, or correct the folder or name') from error
