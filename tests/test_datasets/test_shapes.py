# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmxvit.datasets import shapes
from mmxvit.datasets.shapes import (
    CLASSES,
    LAYOUTS,
    SHAPES,
    STUFF_CLASSES,
    image_rng,
    make_portrait,
    make_road_scene,
    make_scene,
    mask_to_polygons,
    write_dataset,
)

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 96, 128
TRAIN, VAL = 8, 3
SEED = 5


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """One folder that holds every layout."""
    out = tmp_path_factory.mktemp('shapes')
    write_dataset(out, LAYOUTS, train=TRAIN, val=VAL, size=(HEIGHT, WIDTH),
                  seed=SEED)
    return out


@pytest.fixture(scope='module')
def scenes() -> list:
    return [make_scene(image_rng(0, 'train', i), 128, 160)
            for i in range(200)]


def scene_of(split: str, index: int):
    return make_scene(image_rng(SEED, split, index), HEIGHT, WIDTH)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes()
            for p in root.rglob('*') if p.is_file()}


def read_map(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def semantic(scene, things, stuff, void) -> np.ndarray:
    """Expected label map, painted pixel class by pixel class."""
    expected = np.full(scene.void.shape, void)
    for i, value in enumerate(stuff):
        expected[(scene.background == i) & ~scene.void] = value
    for obj in scene.objects:
        expected[obj.mask] = things[obj.class_id]
    return expected


# ---------------------------------------------------------------- the scenes
def test_masks_are_of_visible_parts(scenes):
    hidden = []
    for scene in scenes:
        stack = np.stack([scene.void, *(o.mask for o in scene.objects)])
        assert stack.sum(0).max() == 1
        for obj in scene.objects:
            visible = obj.mask.sum() / obj.full_area
            assert shapes.MIN_VISIBLE <= visible <= 1
            hidden.append(visible < 0.9)
            x, y, w, h = obj.box
            box = np.zeros_like(obj.mask)
            box[y:y + h, x:x + w] = True
            assert not (obj.mask & ~box).any()
            inner = obj.mask[y:y + h, x:x + w]
            assert inner[[0, -1]].any(1).all()
            assert inner[:, [0, -1]].any(0).all()
    # occlusion is common, and yet most objects are whole
    assert 0.1 < np.mean(hidden) < 0.5


def test_later_layers_cover_earlier_ones():
    rng = np.random.default_rng(3)
    canvas = shapes._Canvas(rng, 128, 128)
    covered = 0
    for number in range(12):
        image, top = canvas.image.copy(), canvas.top.copy()
        if not canvas.add_shape(number % len(CLASSES), 50):
            continue
        mine = canvas.top == len(canvas.class_ids) - 1
        # painted and labelled are the same pixels, what was there or not
        change = np.abs(canvas.image - image).mean(-1)
        assert np.mean(change[mine] > 0) > 0.97
        near = cv2.dilate(mine.astype(np.uint8), np.ones((3, 3))) > 0
        # only the tips of stars fade out further
        assert (change[~near] > 0).sum() < 0.02 * mine.sum()
        assert (canvas.top[~mine] == top[~mine]).all()
        covered += (mine & (top >= 0)).sum()
    assert covered > 500


def test_counts_and_sizes_are_in_range(scenes):
    counts = [len(scene.objects) for scene in scenes]
    assert set(counts) == set(range(2, 9))
    sides = [side / 128 for scene in scenes for o in scene.objects
             for side in o.box[2:]]
    assert min(sides) >= 0.06
    assert max(sides) <= 0.60
    assert max(sides) > 0.45
    assert min(sides) < 0.08
    assert 0.2 < np.median(sides) < 0.28
    assert 0.1 < np.mean(np.array(sides) > 0.4) < 0.25


def test_image_shows_what_the_masks_say(scenes):
    """Inside and outside of an object differ by the promised contrast."""
    close = 0
    total = 0
    for scene in scenes[:60]:
        image = scene.image.astype(float)
        for obj in scene.objects:
            core = cv2.erode(obj.mask.astype(np.uint8), np.ones((3, 3)))
            around = cv2.dilate(obj.mask.astype(np.uint8), np.ones((9, 9)))
            rim = (around > 0) & ~(cv2.dilate(
                obj.mask.astype(np.uint8), np.ones((3, 3))) > 0)
            if core.sum() < 20:
                continue
            gap = np.abs(image[core > 0].mean(0) - image[rim].mean(0)).max()
            close += gap < 20
            total += 1
    assert total > 150
    assert close < 0.08 * total


def test_class_is_independent_of_colour_and_size(scenes):
    ids, sizes, colours, places = [], [], [], []
    for scene in scenes:
        for obj in scene.objects:
            ids.append(obj.class_id)
            x, y, w, h = obj.box
            sizes.append(np.log(max(w, h)))
            places.append((x + w / 2, y + h / 2))
            colours.append(scene.image[obj.mask].mean(0))
    ids = np.array(ids)
    for values in (np.array(sizes)[:, None], np.array(colours),
                   np.array(places)):
        spread = values.std(0)
        for k in range(len(CLASSES)):
            of_class = values[ids == k]
            # four standard errors of a mean of about 160 objects
            assert (np.abs(of_class.mean(0) - values.mean(0)) <
                    0.32 * spread).all(), (k, of_class.mean(0))
            assert (of_class.std(0) > 0.7 * spread).all()
    share = np.bincount(ids) / len(ids)
    assert len(share) == len(CLASSES)
    assert np.abs(share - 1 / len(CLASSES)).max() < 0.05


def test_shapes_are_distinct_whatever_the_rotation():
    """Rotation-free outlines at 15 px: each class is nearest to itself.

    The signature is the mask's share in concentric rings; two draws with
    other rotations must agree better within a class than across classes.
    """
    rng = np.random.default_rng(0)

    def signature(class_id: int) -> np.ndarray:
        total = np.zeros(5)
        for _ in range(12):
            polygons = shapes._turn(shapes._outline(SHAPES[class_id]), rng,
                                    15.)
            patch = shapes._fill(polygons)
            mass = np.argwhere(patch > 0.5)
            centre = mass.mean(0)
            y, x = np.mgrid[:patch.shape[0], :patch.shape[1]]
            radius = np.hypot(y - centre[0], x - centre[1])
            for i in range(5):
                ring = (radius >= 2 * i) & (radius < 2 * i + 2)
                total[i] += patch[ring].mean() / 12
        return total

    first = np.stack([signature(i) for i in range(len(CLASSES))])
    again = np.stack([signature(i) for i in range(len(CLASSES))])
    distance = np.linalg.norm(first[:, None] - again[None], axis=-1)
    assert (distance.argmin(1) == np.arange(len(CLASSES))).all(), distance


def test_backgrounds_show_large_regions_of_every_texture(scenes):
    seen = np.zeros(len(STUFF_CLASSES))
    for scene in scenes:
        values, counts = np.unique(scene.background, return_counts=True)
        assert 2 <= len(values) <= 3
        assert counts.min() > 0.2 * scene.background.size
        seen[values] += 1
    assert seen.min() > 0.5 * len(scenes)


def test_number_of_classes():
    ids = {o.class_id for i in range(60)
           for o in make_scene(image_rng(0, 'val', i), 96, 96, 10).objects}
    assert ids == set(range(10))


def test_portrait_has_one_large_shape():
    for class_id in range(len(SHAPES)):
        scene = make_portrait(image_rng(1, 'train', class_id), 96, 96,
                              class_id)
        assert [o.class_id for o in scene.objects] == [class_id]
        assert max(scene.objects[0].box[2:]) >= 0.25 * 96


def test_road_scene_codes():
    lanes, areas = set(), set()
    for i in range(40):
        scene = make_road_scene(image_rng(0, 'train', i), 96, 160)
        assert scene.image.shape == (96, 160, 3)
        assert scene.image.dtype == np.uint8
        lanes |= set(np.unique(scene.lane).tolist())
        areas |= set(np.unique(scene.drivable).tolist())
        assert 0.01 < (scene.lane != 255).mean() < 0.2
        # the car's own lane starts at the bottom, where it is widest
        assert (scene.drivable[-1] == 0).mean() > 0.2
    assert areas == {0, 1, 2}
    assert 255 in lanes
    lanes -= {255}
    assert all(code & 0b11001000 == 0 for code in lanes)
    assert {code & 7 for code in lanes} == set(range(8))
    assert {code >> 4 & 1 for code in lanes} == {0, 1}
    # crosswalks, and only they, run across the road
    assert {code for code in lanes if code >> 5} == {0b100000}


def test_lane_code_follows_the_bdd100k_tools():
    # value = category + (direction << 5) + (style << 4)
    assert shapes.lane_code('single yellow', 'vertical', 'dashed') == 55
    assert shapes.lane_code('crosswalk', 'vertical', 'solid') == 32
    assert shapes.lane_code('road curb') == 4
    assert shapes.LANE_BACKGROUND & 1 << 3


# ------------------------------------------------------------------ polygons
def decode(polygons: list, height: int, width: int) -> np.ndarray:
    rles = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def test_polygons_reproduce_scene_masks(scenes):
    several = 0
    for scene in scenes[:60]:
        for obj in scene.objects:
            polygons = mask_to_polygons(obj.mask)
            assert (decode(polygons, 128, 160) == obj.mask).all()
            several += len(polygons) > 1
    assert several > 30  # rings, and objects cut in two by an occluder


@pytest.mark.parametrize('density', [0.1, 0.4, 0.6, 0.9])
def test_polygons_reproduce_any_mask(density):
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((11, 14)) < density
        mask[5, 5] = True
        polygons = mask_to_polygons(mask)
        assert (decode(polygons, 11, 14) == mask).all()
        area = sum(shapes._shoelace(np.array(p).reshape(-1, 2))
                   for p in polygons)
        assert area == mask.sum()


# ---------------------------------------------------------------- the folder
def test_same_arguments_give_the_same_bytes(data, tmp_path):
    write_dataset(tmp_path / 'again', LAYOUTS, train=TRAIN, val=VAL,
                  size=(HEIGHT, WIDTH), seed=SEED)
    first, again = tree(data), tree(tmp_path / 'again')
    assert first == again


def test_longer_set_starts_with_the_shorter_one(data, tmp_path):
    out = tmp_path / 'more'
    write_dataset(out, ['coco', 'ade20k', 'bdd100k', 'imagenet'],
                  train=TRAIN + 2, val=VAL + 1, size=(HEIGHT, WIDTH),
                  seed=SEED)
    short, long = tree(data), tree(out)
    common = [name for name in short
              if name in long and not name.endswith('.json')]
    assert len(common) == (TRAIN + VAL) * (1 + 2 + 3 + 1)
    assert all(short[name] == long[name] for name in common)


def test_seeds_and_splits_differ(data, tmp_path):
    out = tmp_path / 'other'
    write_dataset(out, train=TRAIN, val=VAL, size=(HEIGHT, WIDTH),
                  seed=SEED + 1)
    pictures = [content for root in (data, out)
                for name, content in tree(root).items()
                if name.startswith(('train2017', 'val2017'))]
    assert len(pictures) == len(set(pictures)) == 2 * (TRAIN + VAL)


def test_meta_describes_the_folder(data):
    meta = json.loads((data / 'meta.json').read_text())
    assert meta['seed'] == SEED
    assert (meta['train'], meta['val']) == (TRAIN, VAL)
    assert (meta['height'], meta['width']) == (HEIGHT, WIDTH)
    assert set(meta['layouts']) == set(LAYOUTS)
    assert set(meta['files']) == set(tree(data)) - {'meta.json'}


def test_refuses_a_folder_that_is_not_empty(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('mine')
    for force in (False, True):
        with pytest.raises(FileExistsError, match='not empty'):
            write_dataset(out, train=1, val=1, size=64, force=force)
    assert tree(out) == {'mine.txt': b'mine'}


def test_force_replaces_only_what_was_generated(tmp_path):
    out = tmp_path / 'out'
    write_dataset(out, train=3, val=1, size=64)
    (out / 'train2017' / 'mine.txt').write_text('mine')
    (out / 'work_dir').mkdir()
    with pytest.raises(FileExistsError, match='--force'):
        write_dataset(out, train=1, val=1, size=64)
    assert len(list((out / 'train2017').glob('*.jpg'))) == 3
    write_dataset(out, ['ade20k'], train=1, val=1, size=64, force=True)
    files = tree(out)
    assert files.pop('train2017/mine.txt') == b'mine'
    assert not any('2017' in name for name in files)
    assert not (out / 'val2017').exists()
    assert (out / 'work_dir').is_dir()
    assert set(json.loads(files.pop('meta.json'))['files']) == set(files)


def test_force_spares_what_the_user_changed(tmp_path):
    out = tmp_path / 'out'
    write_dataset(out, train=1, val=1, size=64)
    changed = out / 'annotations' / 'instances_val2017.json'
    changed.write_text('corrected by hand')
    before = tree(out)
    with pytest.raises(FileExistsError, match='instances_val2017.json'):
        write_dataset(out, train=1, val=1, size=64, force=True)
    assert tree(out) == before


def test_force_does_not_overwrite_a_users_file(tmp_path):
    out = tmp_path / 'out'
    write_dataset(out, train=1, val=1, size=64)
    mine = out / 'train2017' / '000000000002.jpg'
    mine.write_text('mine')
    before = tree(out)
    with pytest.raises(FileExistsError, match='000000000002.jpg'):
        write_dataset(out, train=2, val=1, size=64, force=True)
    assert tree(out) == before


def test_interrupted_run_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / 'out'
    write_dataset(out, train=2, val=1, size=64)
    before = tree(out)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, '_save_json', stop)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(out, train=2, val=1, size=64, seed=1, force=True)
    assert tree(out) == before
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / 'new', train=2, val=1, size=64)
    assert not (tmp_path / 'new').exists()


def test_killed_run_does_not_stand_in_the_way(tmp_path):
    out = tmp_path / 'out'
    (out / '.make_shapes_partial' / 'train2017').mkdir(parents=True)
    (out / '.make_shapes_partial' / 'train2017' / 'a.jpg').write_text('half')
    write_dataset(out, train=1, val=1, size=64)
    assert not (out / '.make_shapes_partial').exists()


@pytest.mark.parametrize('wrong, message', [
    (dict(layouts='kitti'), "'kitti' is unknown; known: coco, "),
    (dict(layouts=[]), 'no layout'),
    (dict(train=0), 'train and val'),
    (dict(val=0), 'train and val'),
    (dict(size=32), '64 or more'),
    (dict(size=(96, 32)), '64 or more'),
    (dict(seed=-1), 'seed'),
    (dict(classes=1), '2 to 10'),
    (dict(classes=11), '2 to 10'),
    (dict(layouts='voc', train=3), 'train=4'),
])
def test_wrong_arguments(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / 'out', **dict(
            dict(train=4, val=1, size=64), **wrong))
    assert not (tmp_path / 'out').exists()


def test_out_is_a_file(tmp_path):
    path = tmp_path / 'out'
    path.write_text('mine')
    with pytest.raises(FileExistsError, match='is a file'):
        write_dataset(path, train=1, val=1, size=64)


def test_command_line(tmp_path):
    command = [sys.executable, 'tools/dataset_tools/make_shapes.py',
               str(tmp_path / 'out'), '--train', '4', '--val', '2', '--size',
               '64', '80', '--layout', 'voc', 'coco', '--classes', '3',
               '--seed', '2']
    env = dict(os.environ, PYTHONPATH=str(ROOT))

    def run(*extra):
        return subprocess.run([*command, *extra], cwd=ROOT, env=env,
                              capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    assert '4 training and 2 validation images of 64 x 80' in done.stdout
    write_dataset(tmp_path / 'same', ['voc', 'coco'], train=4, val=2,
                  size=(64, 80), classes=3, seed=2)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'same')
    refused = run()
    assert refused.returncode == 1
    assert '--force' in refused.stderr
    assert 'Traceback' not in refused.stderr
    assert run('--force').returncode == 0


def test_speed():
    """The default coco set of 360 images in less than 20 s on one core."""
    start = time.process_time()
    for i in range(20):
        scene = make_scene(image_rng(0, 'train', i), 256, 256)
        for obj in scene.objects:
            mask_to_polygons(obj.mask)
    assert time.process_time() - start < 20 * 20 / 360


# ---------------------------------------- as the mm* packages read the folders
def test_coco_json_and_mmdet_coco_dataset(data):
    pytest.importorskip('mmdet')
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    for split, count in (('train', TRAIN), ('val', VAL)):
        file = f'annotations/instances_{split}2017.json'
        content = json.loads((data / file).read_text())
        assert content['info']
        assert content['licenses']
        assert [c['name'] for c in content['categories']] == list(CLASSES)
        ids = [c['id'] for c in content['categories']]
        assert ids != list(range(len(ids)))
        assert min(ids) == 1
        dataset = CocoDataset(
            data_root=str(data), ann_file=file,
            data_prefix=dict(img=f'{split}2017/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[LoadImageFromFile(),
                      LoadAnnotations(with_bbox=True, with_mask=True)])
        assert len(dataset) == count
        for index in range(count):
            scene, got = scene_of(split, index), dataset[index]
            assert (got['height'], got['width']) == (HEIGHT, WIDTH)
            decoded = got['img'][..., ::-1].astype(int)
            assert np.abs(decoded - scene.image).mean() < 8
            labels = [o.class_id for o in scene.objects]
            assert got['gt_bboxes_labels'].tolist() == labels
            assert not got['gt_ignore_flags'].any()
            boxes = [(x, y, x + w, y + h)
                     for x, y, w, h in (o.box for o in scene.objects)]
            assert got['gt_bboxes'].tensor.tolist() == [
                list(map(float, box)) for box in boxes]
            masks = np.stack([o.mask for o in scene.objects])
            assert (got['gt_masks'].masks == masks).all()
            areas = [a['area'] for a in content['annotations']
                     if a['image_id'] == got['img_id']]
            assert areas == masks.sum((1, 2)).tolist()


def test_names_of_coco(tmp_path):
    CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
    write_dataset(tmp_path, train=2, val=1, size=64, coco_names=True)
    dataset = CocoDataset(
        data_root=str(tmp_path), data_prefix=dict(img='train2017/'),
        ann_file='annotations/instances_train2017.json')
    assert len(dataset) == 2
    content = json.loads(
        (tmp_path / 'annotations/instances_train2017.json').read_text())
    assert tuple(c['name'] for c in content['categories']) == \
        CocoDataset.METAINFO['classes']
    labels = {i['bbox_label'] for data in dataset for i in data['instances']}
    assert labels and labels <= set(range(len(CLASSES)))
    with pytest.raises(ValueError, match='layout coco only'):
        write_dataset(tmp_path / 'b', 'voc', coco_names=True)


def test_mmdet_panoptic_dataset(data):
    pytest.importorskip('mmdet')
    from mmdet.datasets import CocoPanopticDataset

    # JSON files and folders as mmdet's _base_/datasets/coco_panoptic.py
    dataset = CocoPanopticDataset(
        data_root=str(data), ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/',
                         seg='annotations/panoptic_train2017/'),
        metainfo=dict(classes=CLASSES + STUFF_CLASSES, thing_classes=CLASSES,
                      stuff_classes=STUFF_CLASSES),
        filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=[])
    assert len(dataset) == TRAIN
    content = json.loads(
        (data / 'annotations/panoptic_train2017.json').read_text())
    assert [c['isthing'] for c in content['categories']] == [1] * 5 + [0] * 3
    every_id = [s['id'] for a in content['annotations']
                for s in a['segments_info']]
    assert len(set(every_id)) == len(every_id)
    for index in range(TRAIN):
        scene, got = scene_of('train', index), dataset[index]
        rgb = read_map(got['seg_map_path']).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        labels = np.full(ids.shape, 255)
        for segment in got['segments_info']:
            labels[ids == segment['id']] = segment['category']
            assert segment['is_thing'] == (segment['category'] < 5)
        expected = semantic(scene, range(5), range(5, 8), 255)
        assert (labels == expected).all()
        assert [i['bbox_label'] for i in got['instances']] == [
            o.class_id for o in scene.objects]
        assert [i['bbox'] for i in got['instances']] == [
            [x, y, x + w, y + h]
            for x, y, w, h in (o.box for o in scene.objects)]
        for obj in scene.objects:
            assert len(np.unique(ids[obj.mask])) == 1
        entry = content['annotations'][index]
        assert ((ids == 0) == scene.void).all()
        assert set(np.unique(ids)) - {0} == {
            s['id'] for s in entry['segments_info']}
        for segment in entry['segments_info']:
            ys, xs = np.nonzero(ids == segment['id'])
            assert segment['area'] == len(ys)
            assert segment['bbox'] == [
                xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


def seg_dataset(name: str, **kwargs):
    pytest.importorskip('mmseg')
    from mmseg import datasets
    from mmseg.datasets.transforms import LoadAnnotations
    return getattr(datasets, name)(pipeline=[LoadAnnotations()], **kwargs)


def test_mmseg_ade20k_dataset(data):
    dataset = seg_dataset(
        'ADE20KDataset', data_root=str(data),
        data_prefix=dict(img_path='images/training',
                         seg_map_path='annotations/training'))
    assert len(dataset) == TRAIN
    for index in range(TRAIN):
        expected = semantic(scene_of('train', index), range(5), range(5, 8),
                            255)
        assert (dataset[index]['gt_seg_map'] == expected).all()
    raw = read_map(data / 'annotations/validation/ADE_val_00000001.png')
    expected = semantic(scene_of('val', 0), range(1, 6), range(6, 9), 0)
    assert (raw == expected).all()


def test_mmseg_cityscapes_dataset(data):
    dataset = seg_dataset(
        'CityscapesDataset', data_root=str(data),
        data_prefix=dict(img_path='leftImg8bit/val',
                         seg_map_path='gtFine/val'))
    assert len(dataset) == VAL
    names = dataset.metainfo['classes']
    ids = {0: 7, 8: 21, 10: 23, 11: 24, 12: 25, 13: 26, 14: 27, 15: 28,
           16: 31, 255: 0}
    ignored = 0
    for index in range(VAL):
        scene, got = scene_of('val', index), dataset[index]
        things = [names.index(n) for n in
                  ('person', 'rider', 'car', 'truck', 'bus', 'train')]
        stuff = [names.index(n) for n in ('sky', 'road', 'vegetation')]
        expected = semantic(scene, things, stuff, 255)
        assert (got['gt_seg_map'] == expected).all()
        ignored += (expected == 255).sum()
        image = cv2.imread(got['img_path'])[..., ::-1]
        assert (image == scene.image).all()  # PNG keeps every value
        stem = got['seg_map_path'].removesuffix('labelTrainIds.png')
        label_ids = read_map(stem + 'labelIds.png')
        assert (label_ids == np.vectorize(ids.get)(expected)).all()
        instances = read_map(stem + 'instanceIds.png').astype(int)
        assert (np.where(instances >= 1000, instances // 1000, instances) ==
                label_ids).all()
        found = {frozenset(map(tuple, np.argwhere(instances == i)))
                 for i in np.unique(instances[instances >= 1000])}
        assert found == {frozenset(map(tuple, np.argwhere(o.mask)))
                         for o in scene.objects}
    assert ignored > 0


def test_bdd100k_masks(data):
    for task, attribute in (('drivable', 'drivable'), ('lane', 'lane')):
        for split, count in (('train', TRAIN), ('val', VAL)):
            images = sorted((data / 'images/100k' / split).glob('*.jpg'))
            maps = sorted(
                (data / 'labels' / task / 'masks' / split).glob('*.png'))
            assert [p.stem for p in images] == [p.stem for p in maps]
            assert len(images) == count
            for index, path in enumerate(maps):
                scene = make_road_scene(image_rng(SEED, split, index),
                                        HEIGHT, WIDTH)
                assert (read_map(path) == getattr(scene, attribute)).all()


def test_mmdet_voc_dataset(data):
    pytest.importorskip('mmdet')
    from mmdet.datasets import VOCDataset

    def load(year: str, part: str):
        return VOCDataset(
            data_root=str(data / 'VOCdevkit'),
            ann_file=f'{year}/ImageSets/Main/{part}.txt',
            data_prefix=dict(sub_data_root=f'{year}/'),
            metainfo=dict(classes=CLASSES), test_mode=True, pipeline=[])

    parts = {(y, p): load(y, p) for y in ('VOC2007', 'VOC2012')
             for p in ('train', 'val', 'trainval')}
    for year in ('VOC2007', 'VOC2012'):
        together = {d['img_id'] for p in ('train', 'val')
                    for d in parts[year, p]}
        assert {d['img_id'] for d in parts[year, 'trainval']} == together
        assert len(together) == TRAIN // 2
    test = load('VOC2007', 'test')
    assert len(test) == VAL
    for index in range(VAL):
        scene, got = scene_of('val', index), test[index]
        assert Path(got['img_path']).is_file()
        # VOCDataset subtracts 1 and keeps the inclusive corner
        assert [i['bbox'] for i in got['instances']] == [
            [x, y, x + w - 1, y + h - 1]
            for x, y, w, h in (o.box for o in scene.objects)]
        assert [i['bbox_label'] for i in got['instances']] == [
            o.class_id for o in scene.objects]


def test_mmseg_voc_maps(data):
    root = data / 'VOCdevkit/VOC2007'
    dataset = seg_dataset(
        'BaseSegDataset', data_root=str(root),
        ann_file='ImageSets/Segmentation/test.txt',
        data_prefix=dict(img_path='JPEGImages',
                         seg_map_path='SegmentationClass'),
        metainfo=dict(classes=('background', *CLASSES)))
    assert len(dataset) == VAL
    for index in range(VAL):
        expected = semantic(scene_of('val', index), range(1, 7), [0] * 3, 0)
        assert (dataset[index]['gt_seg_map'] == expected).all()
    picture = Image.open(dataset[0]['seg_map_path'])
    assert picture.mode == 'P'
    assert picture.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]


def test_mmpretrain_imagenet_folders(data):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import CustomDataset, ImageNet

    for split, count in (('train', TRAIN), ('val', VAL)):
        dataset = CustomDataset(data_root=str(data), data_prefix=split)
        assert len(dataset) == count
        assert set(dataset.CLASSES) <= set(SHAPES)
        for sample in dataset:
            name = Path(sample['img_path']).parent.name
            assert dataset.CLASSES[sample['gt_label']] == name
    classes = sorted(p.name for p in (data / 'train').iterdir())
    assert len(ImageNet(data_root=str(data), split='train',
                        metainfo=dict(classes=classes))) == TRAIN


def test_imagenet_has_ten_balanced_classes(tmp_path):
    meta = write_dataset(tmp_path, 'imagenet', train=30, val=10, size=64)
    assert meta['layouts']['imagenet']['classes'] == sorted(SHAPES)
    for split, each in (('train', 3), ('val', 1)):
        counts = {p.name: len(list(p.iterdir()))
                  for p in (tmp_path / split).iterdir()}
        assert counts == dict.fromkeys(SHAPES, each)
