# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmxvit.datasets.coco_panoptic import (
    read_annotations,
    read_ids,
    write_ids,
)
from mmxvit.engine.command import UserError

SEGMENTS = [dict(id=1, category_id=7), dict(id=70000, category_id=8)]
IDS = np.array([[0, 1, 1], [70000, 70000, 0]])
CATEGORIES = [dict(id=7, name='a', isthing=1), dict(id=8, name='b', isthing=0)]
ANNOTATION = dict(image_id=5, file_name='5.png', segments_info=SEGMENTS)


def test_round_trip():
    write_ids(Path('new/folder/a.png'), IDS)
    ids = read_ids('new/folder/a.png', SEGMENTS, every=True)
    assert ids.dtype == np.int32
    assert (ids == IDS).all()


def test_pictures_with_transparency():
    write_ids(Path('a.png'), IDS)
    with Image.open('a.png') as image:
        image.convert('RGBA').save('b.png')
    assert (read_ids('b.png', SEGMENTS) == IDS).all()


def test_bad_pictures():
    write_ids(Path('a.png'), IDS)
    with pytest.raises(UserError, match='^a.png: has the segment ids 70000, '
                       'which segments_info'):
        read_ids('a.png', SEGMENTS[:1])
    with pytest.raises(UserError, match='^a.png: has no pixel of .* ids 9, '):
        read_ids('a.png', [*SEGMENTS, dict(id=9)], every=True)
    with pytest.raises(UserError, match='^no/a.png: .*No such file.*correct'):
        read_ids('no/a.png', SEGMENTS)
    content = Path('a.png').read_bytes()
    for part in (content[:60], content[:40], b'text', b''):
        Path('b.png').write_bytes(part)
        with pytest.raises(UserError, match='^b.png: cannot be read as a PNG'):
            read_ids('b.png', SEGMENTS)
    for mode in 'LP':
        Image.new(mode, (3, 2)).save('c.png')
        with pytest.raises(UserError, match=f'^c.png: .* mode {mode}, .*RGB'):
            read_ids('c.png', SEGMENTS)


def write(content):
    Path('a.json').write_text(
        content if isinstance(content, str) else json.dumps(content))
    return 'a.json'


def test_annotations():
    path = write(dict(categories=CATEGORIES, annotations=[ANNOTATION]))
    expected = {7: CATEGORIES[0], 8: CATEGORIES[1]}
    assert read_annotations(path) == (expected, {5: ANNOTATION})
    path = write(dict(categories=CATEGORIES))  # of a test set
    assert read_annotations(path) == (expected, {})
    # predictions need no categories, and theirs are not used
    for more in ({}, dict(categories=[dict(id=1)])):
        path = write(dict(annotations=[ANNOTATION], **more))
        assert read_annotations(path, expected) == (expected, {5: ANNOTATION})


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


def with_segment(**changes):
    """A file of ground truth with one segment."""
    return dict(
        categories=CATEGORIES,
        annotations=[dict(ANNOTATION, segments_info=[
            dict(id=1, category_id=7) | changes])])


@pytest.mark.parametrize('content, message', [
    ('{"annotations": [', 'is no JSON file'),
    ([ANNOTATION], 'is not in the panoptic format'),
    (dict(categories=CATEGORIES, annotations=[5]), 'not in the panoptic form'),
    # COCO's format for boxes
    (dict(annotations=[dict(image_id=5, bbox=[1, 2, 3, 4])]),
     'file_name in annotations'),
    (dict(annotations=[without(ANNOTATION, 'segments_info')]),
     'segments_info in annotations'),
    (dict(categories=[without(c, 'isthing') for c in CATEGORIES]),
     'isthing in categories'),
    (dict(annotations=[dict(ANNOTATION, segments_info=[dict(id=1)])]),
     'category_id in segments_info'),
    (dict(categories=CATEGORIES[:1], annotations=[ANNOTATION]),
     'segment 70000 of image_id 5 is of category_id 8, which'),
    (dict(categories=CATEGORIES, annotations=[ANNOTATION] * 2),
     'image_id in annotations occurs twice'),
    (dict(categories=CATEGORIES, annotations=[dict(
        ANNOTATION, segments_info=ANNOTATION['segments_info'][:1] * 2)]),
     'id in segments_info occurs twice'),
    (dict(categories=CATEGORIES, annotations=[dict(ANNOTATION,
                                                   file_name=None)]),
     'file_name None'),
    (with_segment(category_id=[7]), 'unhashable'),
    (with_segment(area='8'), "area '8'"),
    (with_segment(area=None), 'area None'),
    (with_segment(area=0), 'segment 1 of image_id 5 has the area 0, expected '
     'its number of pixels'),
])
def test_bad_annotations(content, message):
    path = write(content)
    with pytest.raises(UserError, match=f'^a.json: .*{message}'):
        read_annotations(path)


def test_what_does_not_count():
    """Areas of crowds, and in predictions all areas and earlier entries."""
    crowd = with_segment(area=0, iscrowd=1)
    assert read_annotations(write(crowd))[1] == {5: crowd['annotations'][0]}
    known = {7: CATEGORIES[0], 8: CATEGORIES[1]}
    twice = [with_segment(area='?')['annotations'][0], ANNOTATION]
    assert read_annotations(write(dict(annotations=twice)), known) == (
        known, {5: ANNOTATION})


def test_missing_annotations():
    with pytest.raises(UserError, match='^no.json: .*No such file.*correct'):
        read_annotations('no.json')
