# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmxvit.engine import check_annotations
from mmxvit.engine.check_annotations import (
    check_coco,
    check_panoptic,
    check_voc,
)
from mmxvit.engine.command import UserError

FILE = 'cells/train.json'
CONTENT = dict(
    images=[
        dict(id=1, file_name='a.jpg', height=40, width=60),
        dict(id=2, file_name='sub/b.png', height=40, width=60)
    ],
    annotations=[
        dict(id=7, image_id=1, category_id=3, bbox=[5, 6, 20, 10], area=200),
        dict(id=8, image_id=2, category_id=4, bbox=[0, 0, 60, 40], area=2400),
        dict(id=9, image_id=2, category_id=4, bbox=[1.5, 2, 3, 4], area=12)
    ],
    categories=[dict(id=3, name='red'), dict(id=4, name='white')])


@pytest.fixture
def content():
    """What the file says; changes to it are written by ``check``."""
    rng = np.random.default_rng(0)
    for image in CONTENT['images']:
        path = Path('cells/images', image['file_name'])
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 60, 3), np.uint8))
    return copy.deepcopy(CONTENT)


def check(content, classes=('red', 'white'), **changes):
    Path(FILE).write_text(
        content if isinstance(content, str) else json.dumps(content))
    return check_coco(
        dict(
            type='CocoDataset',
            data_root='cells',
            ann_file='train.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=classes),
            **changes), 'train_dataloader.dataset')


def test_set_without_truth(content):
    del content['annotations']
    assert 'not in the format of COCO' in message(content)
    assert check(content, test_mode=True) == []


def test_crowd_flags_are_needed_for_the_evaluation(content):
    assert check(content) == []
    Path(FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match='has no iscrowd; add it'):
        check(content, test_mode=True)
    for annotation in content['annotations']:
        annotation['iscrowd'] = 0
    assert check(content, test_mode=True) == []


def test_pure_python_configs(content):
    from mmdet.datasets import CocoDataset
    Path(FILE).write_text(json.dumps(content))
    assert check_coco(
        dict(type=CocoDataset, data_root='cells', ann_file='train.json',
             data_prefix=dict(img='images'),
             metainfo=dict(classes=('red', 'white'))), 'x') == []


def message(content, classes=('red', 'white')):
    with pytest.raises(UserError) as error:
        check(content, classes)
    assert str(error.value).startswith(f'{FILE}: ')
    return str(error.value)


def test_good_data(content):
    assert check(content) == []
    # COCO's file has more categories than a config needs
    content['categories'].insert(1, dict(id=5, name='blue'))
    assert check(content) == []


def test_classes_from_a_file(content):
    Path('classes.txt').write_text('red\nblue\n')
    assert "no category 'blue'" in message(content, 'classes.txt')


@pytest.mark.parametrize('text, words', [
    ('{"images": [', 'damaged or no JSON file'),
    ('\udcff', 'damaged or no JSON file'),
    ('[]', 'not in the format of COCO'),
    ('{"images": [], "annotations": []}', 'images, annotations, categories'),
])
def test_files_of_another_kind(content, text, words):
    if text == '\udcff':
        Path(FILE).parent.mkdir(exist_ok=True)
        Path(FILE).write_bytes(b'\xff\xfe{')
        with pytest.raises(UserError, match=words):
            check_annotations._read(FILE)
    else:
        assert words in message(text)


@pytest.mark.parametrize('part, key', [
    ('images', 'height'), ('annotations', 'bbox'), ('categories', 'name')])
def test_keys_that_are_needed(content, part, key):
    del content[part][1][key]
    assert f'{part}[1] has no {key}; add it' in message(content)


def test_category_that_the_config_does_not_know(content):
    (note, ) = check(content, ('red', ))
    assert note == (
        f'{FILE}: 2 of 3 annotations are of categories that the config does '
        "not know, 'white'; they are left out. To use them set "
        "train_dataloader.dataset.metainfo.classes to ('red', 'white',), "
        'also for the other splits, and num_classes of the heads to their '
        'number')
    # nothing is lost where nothing has it
    content['annotations'] = content['annotations'][:1]
    assert check(content, ('red', )) == []


def test_class_that_the_file_does_not_know(content):
    text = message(content, ('red', 'white', 'blue'))
    assert "no category 'blue'" in text
    assert "metainfo.classes to ('red', 'white',)" in text


def test_order_of_the_classes(content):
    """mmdet numbers them as the file does, whatever the config says."""
    text = message(content, ('white', 'red'))
    assert "in the order 'red', 'white'" in text
    assert "metainfo.classes to ('red', 'white',)" in text
    content['categories'][1]['name'] = 'red'
    assert "several categories 'red'" in message(content, ('red', ))


def test_part_of_many_classes(content):
    content['categories'] += [
        dict(id=i, name=f'c{i}') for i in range(5, 85)]
    for i, annotation in enumerate(content['annotations']):
        annotation['category_id'] = 10 * (i + 1)
    (note, ) = check(content, ('red', 'white'))
    assert '3 of 3 annotations' in note and len(note) < 500


@pytest.mark.parametrize('part, value, words', [
    ('images', 1, 'images[0] is 1, expected an object'),
    ('images', dict(id=1, file_name='a.jpg', height=4, width=None),
     'width of images[0] is None, expected a number'),
])
def test_entries_of_another_kind(content, part, value, words):
    content[part][0] = value
    assert words in message(content)


@pytest.mark.parametrize('key', ['category_id', 'image_id'])
def test_ids_that_point_nowhere(content, key):
    content['annotations'][1][key] = 99
    text = message(content)
    assert f'annotation 8 has {key} 99' in text and 'add it there' in text


@pytest.mark.parametrize('box', [
    [70, 5, 10, 10], [-30, 5, 20, 10], [5, 41, 10, 10], [5, -20, 10, 20],
    [5, 5, 0.5, 10]])
def test_boxes_outside(content, box):
    content['annotations'][0]['bbox'] = box
    (note, ) = check(content)
    assert note.startswith(
        f'{FILE}: 1 of 3 boxes lie outside their image or are empty; the '
        f'first is annotation 7, bbox {box}, in a.jpg of 60 x 40 pixels')
    assert 'left out' in note
    content['annotations'][1]['area'] = 0
    assert '2 of 3 boxes' in check(content)[0]
    for annotation in content['annotations']:
        annotation['bbox'] = box
    assert '3 of 3 boxes' in message(content)


def test_boxes_over_the_edge(content):
    content['annotations'][1]['bbox'] = [-0.5, -0.5, 61, 41]  # rounding
    assert check(content) == []
    content['annotations'][2]['bbox'] = [50, 30, 12, 8]
    (note, ) = check(content)
    assert '1 of 3 boxes reach over the edge' in note
    assert 'annotation 9' in note and 'cut there' in note


@pytest.mark.parametrize('box', [
    [1, 2, 3], None, [1, 2, 3, '4'], [1, 2, 3, float('nan')]])
def test_boxes_that_are_none(content, box):
    content['annotations'][0]['bbox'] = box
    assert 'bbox of annotation 7 is' in message(content)


@pytest.mark.parametrize('name', ['a.jpg', 'sub/b.png'])
def test_images(content, name):
    path = Path('cells/images', name)
    data = path.read_bytes()
    for damaged in (b'', data[:len(data) // 2], data[:-200], b'text' * 50):
        path.write_bytes(damaged)
        text = message(content)
        assert '1 of 2 images in cells/images are truncated' in text
        assert repr(name) in text and 'Copy them again' in text
    path.write_bytes(data + b'\0' * 100)  # as some cameras do
    assert check(content) == []
    path.unlink()
    text = message(content)
    assert f'1 of 2 images are not in cells/images: {name!r}' in text
    assert 'data_prefix of train_dataloader.dataset' in text


def test_many_images_are_only_looked_up(content, monkeypatch):
    image = Path('cells/images/a.jpg')
    image.write_bytes(image.read_bytes()[:-50])
    assert "'a.jpg'" in message(content)
    monkeypatch.setattr(check_annotations, 'MANY_IMAGES', 1)
    assert check(content) == []
    image.write_bytes(b'')  # the size is as cheap as the name
    assert "'a.jpg'" in message(content)
    Path('cells/images/a.jpg').unlink()
    assert "'a.jpg'" in message(content)


def test_other_formats_and_spellings(content):
    Path('cells/images/a.npy').write_bytes(b'some array')
    content['images'][0]['file_name'] = './a.npy'
    content['images'][1]['file_name'] = 'sub//b.png'
    assert check(content) == []
    Path('cells/images/a.npy').write_bytes(b'')
    assert "'a.npy'" in message(content)


XML = '''<annotation><size><width>60</width><height>40</height></size>
<object><name>red</name><bndbox><xmin>{}</xmin><ymin>2</ymin>
<xmax>{}</xmax><ymax>20</ymax></bndbox></object></annotation>'''


@pytest.fixture
def voc(content):
    for name in ('JPEGImages', 'Annotations'):
        Path('cells/VOC', name).mkdir(parents=True)
    for i in (1, 2):
        Path(f'cells/VOC/JPEGImages/{i}.jpg').write_bytes(
            Path('cells/images/a.jpg').read_bytes())
        Path(f'cells/VOC/Annotations/{i}.xml').write_text(XML.format(1, 60))
    Path('cells/list.txt').write_text('1\n2\n')
    return dict(type='VOCDataset', data_root='cells', ann_file='list.txt',
                data_prefix=dict(sub_data_root='VOC'),
                metainfo=dict(classes=('red', 'white')))


def test_voc(voc):
    assert check_voc(voc, 'x') == []
    Path('cells/VOC/Annotations/2.xml').write_text(XML.format(70, 90))
    (note, ) = check_voc(voc, 'x')
    assert '1 of 2 boxes lie outside' in note and '2.xml, object 0' in note
    voc['metainfo'] = dict(classes=('white', ))
    assert "does not know, 'red'; they are left out" in check_voc(voc, 'x')[0]
    for damage in ('<annotation>', XML.format('left', 9), '<a></a>'):
        Path('cells/VOC/Annotations/1.xml').write_text(damage)
        with pytest.raises(UserError, match='1.xml: is not in the format'):
            check_voc(voc, 'x')
    Path('cells/VOC/Annotations/1.xml').unlink()
    with pytest.raises(UserError, match='1.xml: is missing'):
        check_voc(voc, 'x')
    Path('cells/VOC/JPEGImages/2.jpg').write_bytes(b'')
    with pytest.raises(UserError, match="truncated or no images: 'JPEG"):
        check_voc(voc, 'x')
    Path('cells/VOC/JPEGImages/2.jpg').unlink()
    with pytest.raises(UserError, match='list.txt: 1 of 2 images are not'):
        check_voc(voc, 'x')


def test_images_of_panoptic_data(content):
    Path(FILE).write_text(json.dumps(content))
    dataset = dict(
        type='mmxvit.CocoPanopticDataset', data_root='cells',
        ann_file='train.json', data_prefix=dict(img='images', seg='seg'))
    assert check_panoptic(dataset, 'x') == []
    Path('cells/images/a.jpg').unlink()
    with pytest.raises(UserError, match="are not in cells/images: 'a.jpg'"):
        check_panoptic(dataset, 'x')


def test_boxes_of_panoptic_things(content):
    dataset = dict(
        type='mmxvit.CocoPanopticDataset', data_root='cells',
        ann_file='train.json', data_prefix=dict(img='images', seg='seg'))
    things, stuff = (
        dict(id=i, category_id=i, bbox=[5, 6, 20, 10], area=200)
        for i in (3, 4))
    other = dict(things, id=5)
    content.update(
        categories=[dict(id=3, name='red', isthing=1),
                    dict(id=4, name='white', isthing=0)],
        annotations=[dict(image_id=1, file_name='a.png',
                          segments_info=[things, stuff, other])])

    def notes():
        Path(FILE).write_text(json.dumps(content))
        return check_panoptic(dataset, 'x')

    assert notes() == []
    stuff['bbox'] = [500, 500, 30, 30]
    assert notes() == []
    other['bbox'] = [500, 500, 30, 30]
    (note, ) = notes()
    assert note.startswith(
        'cells/train.json: 1 of 2 boxes lie outside their image or are empty; '
        'the first is annotation 5, bbox [500, 500, 30, 30], in a.jpg of 60 x '
        '40 pixels. They are left out; a box is [x, y, width, height]')
    things['bbox'] = [0, -30, 20, 20]
    with pytest.raises(UserError, match='2 of 2 boxes lie outside'):
        notes()
    other['bbox'] = [1, 2, 3]
    with pytest.raises(UserError, match='bbox of annotation 5 is'):
        notes()


def test_data_root_may_be_left_out(content):
    Path(FILE).write_text(json.dumps(content))
    assert check_coco(
        dict(type='CocoDataset', ann_file=FILE,
             data_prefix=dict(img='cells/images'),
             metainfo=dict(classes=('red', 'white'))), 'x') == []
