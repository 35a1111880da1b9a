# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What is wrong with panoptic data is said with file and remedy."""
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmxvit.datasets.coco_panoptic import write_ids
from mmxvit.datasets.shapes import CLASSES, STUFF_CLASSES, write_dataset
from mmxvit.engine.command import UserError

mmdet = pytest.importorskip('mmdet')

FOLDER = Path('toy/annotations')
NAMES = (*CLASSES, *STUFF_CLASSES)
CHANGE = 'set metainfo of the data set in the config'


@pytest.fixture(autouse=True)
def toy():
    write_dataset('toy', 'coco_panoptic', train=2, val=1, size=64)


def build(classes=NAMES, kind='mmxvit.CocoPanopticDataset'):
    init_default_scope('mmdet')
    metainfo = classes and dict(
        classes=classes, thing_classes=CLASSES, stuff_classes=STUFF_CLASSES)
    return DATASETS.build(
        dict(
            type=kind,
            data_root='toy',
            ann_file='annotations/panoptic_train2017.json',
            data_prefix=dict(
                img='train2017/', seg='annotations/panoptic_train2017/'),
            metainfo=metainfo,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmxvit.LoadPanopticAnnotations'),
                dict(type='PackDetInputs')
            ]))


@pytest.fixture
def truth():
    """The JSON file, to be written again by :func:`save`."""
    return json.loads((FOLDER / 'panoptic_train2017.json').read_text())


def save(truth):
    (FOLDER / 'panoptic_train2017.json').write_text(json.dumps(truth))


def test_good_data_is_that_of_mmdet():
    ours, mmdets = build(), build(kind='CocoPanopticDataset')
    assert isinstance(ours, type(mmdets)) and len(ours) == 2
    assert ours.metainfo == mmdets.metainfo
    for i in range(2):
        assert ours.get_data_info(i) == mmdets.get_data_info(i)
        assert len(ours[i]['data_samples'].gt_instances.labels)


def test_unknown_categories(truth):
    segment = truth['annotations'][1]['segments_info'][-1]
    truth['categories'].append(dict(id=200, name='moon', isthing=0))
    save(truth)
    assert len(build()) == 2  # no segment of it
    segment['category_id'] = 200
    save(truth)
    start = (f'^toy/annotations/panoptic_train2017.json: segment '
             f'{segment["id"]} of image_id 2 is of category_id')
    with pytest.raises(UserError, match=rf'{start} 200 \(moon\), .*{CHANGE}'):
        build()
    segment['category_id'] = 999
    save(truth)
    with pytest.raises(UserError, match=f'{start} 999, which `categories` '
                       'does not list: correct it'):
        build()


def test_classes_of_other_data():
    """Those of COCO, where metainfo is forgotten."""
    with pytest.raises(UserError, match=f'2017.json: segment .*{CHANGE}'):
        build(classes=None)


def test_missing_categories(truth):
    """mmdet gives their labels to others."""
    classes = (*NAMES[:5], 'comet', *NAMES[5:])
    assert len(build(classes, 'CocoPanopticDataset')) == 2
    with pytest.raises(UserError, match='2017.json: has no categories comet, '
                       f'which are .*{CHANGE}'):
        build(classes)


def test_order_of_the_classes(truth):
    """mmdet numbers them as the file does."""
    truth['categories'][:2] = truth['categories'][1::-1]
    save(truth)
    with pytest.raises(UserError, match='2017.json: lists its categories in '
                       f'another order .*{CHANGE}'):
        build()


def test_segments_that_are_no_objects_for_mmdet(truth):
    """Less than a pixel wide; their pixels are not an unknown segment."""
    segment = truth['annotations'][0]['segments_info'][0]
    segment['bbox'][2] = 0.5
    save(truth)
    info = build().get_data_info(0)
    assert [s['id'] for s in info['unused_segments']] == [segment['id']]
    assert segment['id'] not in [s['id'] for s in info['segments_info']]


def test_things_outside_their_image_are_left_out(truth):
    """mmdet trains on them, to NaN."""
    segments = truth['annotations'][0]['segments_info']
    thing = next(s for s in segments if s['category_id'] < 100)
    stuff = next(s for s in segments if s['category_id'] > 100)
    for segment in (thing, stuff):  # boxes of stuff do not count
        segment['bbox'] = [500, 500, 30, 30]
    save(truth)
    dataset = build()
    info = dataset.get_data_info(0)
    assert [s['id'] for s in info['unused_segments']] == [thing['id']]
    assert stuff['id'] in [s['id'] for s in info['segments_info']]
    boxes = dataset[0]['data_samples'].gt_instances.bboxes
    assert (boxes.tensor <= 64).all()


def test_names_of_the_pngs_are_those_of_the_annotations(truth):
    """mmdet puts .png in the place of .jpg, and reads a .jpeg as the PNG."""
    expected = [s['data_samples'].gt_sem_seg.sem_seg for s in build()]
    image, other = truth['images']
    image['file_name'] = 'a.jpeg'
    (FOLDER.parent / 'train2017/000000000001.jpg').rename(
        FOLDER.parent / 'train2017/a.jpeg')
    truth['annotations'][1]['file_name'] = 'segments_2.png'
    (FOLDER / 'panoptic_train2017/000000000002.png').rename(
        FOLDER / 'panoptic_train2017/segments_2.png')
    save(truth)
    for sample, segments in zip(build(), expected, strict=True):
        assert (sample['data_samples'].gt_sem_seg.sem_seg == segments).all()


def test_segment_that_is_listed_twice(truth):
    segments = truth['annotations'][0]['segments_info']
    segments.append(segments[0])
    save(truth)
    with pytest.raises(UserError, match='segments_info of image_id 1 lists an '
                       'id several times: give each'):
        build()


def test_categories_without_isthing(truth):
    for category in truth['categories']:
        del category['isthing']
    del truth['annotations']  # as for COCO's test images
    save(truth)
    with pytest.raises(UserError, match='2017.json: `categories` has no '
                       '`isthing`, .*name a panoptic file'):
        build()


def test_stuff_before_things(truth):
    truth['categories'].reverse()
    save(truth)
    with pytest.raises(UserError, match='2017.json: `categories` has grain, '
                       'which is stuff, .*list all things first'):
        build()


@pytest.mark.parametrize('content, message', [
    ('{"images": [', 'JSONDecodeError'),
    ('[]', 'AssertionError'),
    (dict(images=[], annotations=[], categories=[]), 'has no `images`'),
    # COCO's format for boxes
    (dict(images=[], categories=[], annotations=[dict(
        image_id=5, bbox=[1, 2, 3, 4])]), "KeyError: 'segments_info'"),
])
def test_other_files(content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (FOLDER / 'panoptic_train2017.json').write_text(text)
    with pytest.raises(UserError, match=f'^toy/.*2017.json: .*({message})'):
        build()


def test_bad_pngs(truth):
    """Found when their image is asked for."""
    path = FOLDER / 'panoptic_train2017/000000000002.png'
    good = path.read_bytes()
    write_ids(path, np.zeros((48, 64), int))
    with pytest.raises(UserError, match=rf'^{path}: is of \(64, 48\) pixels, '
                       r'its image .*jpg of \(64, 64\).* write the PNG again'):
        build()[1]
    path.unlink()
    with pytest.raises(UserError, match=f'^{path}: .*No such file.*correct'):
        build()[1]
    path.write_bytes(good)
    (lost, ) = truth['annotations'][1]['segments_info'][-1:]
    truth['annotations'][1]['segments_info'].remove(lost)
    save(truth)
    with pytest.raises(UserError, match=f'^{path}: has the segment ids '
                       f'{lost["id"]}, which segments_info .*add them there'):
        build()[1]
    assert build()[0]
