# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS, init_default_scope

from mmxvit.datasets.coco_panoptic import read_ids, write_ids
from mmxvit.datasets.shapes import write_dataset
from mmxvit.engine.command import UserError

mmdet = pytest.importorskip('mmdet')

SEGMENTS = [
    dict(id=9, category=0, is_thing=1),
    dict(id=300, category=1, is_thing=False),  # a crowd
    dict(id=70000, category=4, is_thing=0),
]
IDS = np.array([[0, 9, 9, 300], [70000, 70000, 9, 300]])


@pytest.fixture
def results():
    write_ids(Path('a.png'), IDS)
    return dict(
        img_path='a.jpg',
        seg_map_path='a.png',
        img_shape=IDS.shape,
        ori_shape=IDS.shape,
        instances=[dict(bbox=[1, 0, 3, 2], bbox_label=0, ignore_flag=0)],
        segments_info=SEGMENTS)


def load(results, **kwargs):
    init_default_scope('mmdet')
    return TRANSFORMS.build(
        dict(type='mmxvit.LoadPanopticAnnotations', **kwargs))(results)


def test_masks_and_labels(results):
    from mmdet.datasets.transforms import LoadPanopticAnnotations
    kind = TRANSFORMS.get('mmxvit.LoadPanopticAnnotations')
    assert issubclass(kind, LoadPanopticAnnotations)
    loaded = load(results)
    assert loaded['gt_seg_map'].tolist() == [[255, 0, 0, 1], [4, 4, 0, 1]]
    assert loaded['gt_masks'].masks.tolist() == [[[0, 1, 1, 0], [0, 0, 1, 0]]]
    assert loaded['gt_bboxes'].tensor.tolist() == [[1, 0, 3, 2]]
    assert loaded['gt_bboxes_labels'].tolist() == [0]


def test_unused_segments_are_ignored(results):
    used = [s for s in SEGMENTS if s['id'] != 9]
    results.update(segments_info=used, unused_segments=[SEGMENTS[0]])
    labels = load(results)['gt_seg_map']
    assert (labels[IDS == 9] == 255).all()
    assert (labels[IDS == 300] == 1).all()


def test_parts_can_be_left_out(results):
    loaded = load(results.copy(), with_bbox=False, with_mask=False)
    assert 'gt_masks' not in loaded and 'gt_bboxes' not in loaded
    assert 'gt_seg_map' in loaded
    loaded = load(results.copy(), with_seg=False)
    assert 'gt_seg_map' not in loaded and 'gt_masks' in loaded


def test_image_without_segments(results):
    write_ids(Path('a.png'), np.zeros_like(IDS))
    results.update(instances=[], segments_info=[])
    loaded = load(results)
    assert loaded['gt_masks'].masks.shape == (0, 2, 4)
    assert (loaded['gt_seg_map'] == 255).all()


def test_images_without_a_truth():
    """Test sets, and images that an inferencer is given."""
    for extra in ({}, dict(seg_map_path=None)):
        loaded = load(dict(img_path='a.jpg', ori_shape=(2, 4),
                           img_shape=(2, 4), **extra))
        assert 'gt_masks' not in loaded and 'gt_seg_map' not in loaded


def test_bad_files(results):
    with pytest.raises(UserError, match='^a.png: has the segment ids 9, 300'):
        load(dict(results, segments_info=SEGMENTS[2:]))
    with pytest.raises(UserError, match=r'^a.png: is of \(4, 2\) pixels, its '
                       r'image a.jpg of \(4, 3\)'):
        load(dict(results, ori_shape=(3, 4)))
    Path('a.png').write_bytes(Path('a.png').read_bytes()[:60])
    with pytest.raises(UserError, match='^a.png: cannot be read as a PNG'):
        load(results)
    Path('a.png').unlink()
    with pytest.raises(UserError, match='^a.png: .*No such file'):
        load(results)


def test_data_set_in_a_training_pipeline():
    write_dataset('toy', 'coco_panoptic', train=2, val=1, size=64)
    from mmdet.datasets import CocoPanopticDataset
    init_default_scope('mmdet')
    names = ('disc', 'square', 'triangle', 'star', 'ring', 'cloud', 'stripe',
             'grain')
    dataset = CocoPanopticDataset(
        data_root='toy',
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/',
                         seg='annotations/panoptic_train2017/'),
        metainfo=dict(classes=names))
    pipeline = Compose([
        dict(type='LoadImageFromFile'),
        dict(type='mmxvit.LoadPanopticAnnotations'),
        dict(type='Resize', scale=(128, 96), keep_ratio=False),
        dict(type='RandomFlip', prob=1.),
        dict(type='PackDetInputs')
    ])
    truth = json.loads(
        Path('toy/annotations/panoptic_train2017.json').read_text())
    categories = {c['id']: names.index(c['name'])
                  for c in truth['categories']}
    rows, columns = np.arange(96) * 64 // 96, np.arange(127, -1, -1) // 2
    for info, annotation in zip(dataset, truth['annotations'], strict=True):
        sample = pipeline(info)['data_samples']
        segments = annotation['segments_info']
        ids = read_ids('toy/annotations/panoptic_train2017/'
                       f'{annotation["file_name"]}', segments)
        ids = ids[rows][:, columns]
        labels = sample.gt_sem_seg.sem_seg[0].numpy()
        masks = sample.gt_instances.masks.masks
        assert ((labels == 255) == (ids == 0)).all()
        things = 0
        for segment in segments:
            label = categories[segment['category_id']]
            mask = ids == segment['id']
            assert (labels[mask] == label).all()
            if label < 5:
                assert (masks[things] == mask).all()
                assert sample.gt_instances.labels[things] == label
                things += 1
        assert len(masks) == things > 0
