# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""BDD100K's codes, and two label maps through mmseg's transforms."""
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from mmxvit.datasets.shapes import (
    LANE_CATEGORIES,
    LANE_STYLES,
    lane_code,
    write_dataset,
)
from mmxvit.engine.checks import check_data
from mmxvit.engine.command import UserError

pytest.importorskip('mmseg')

LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='mmxvit.LoadMultiTaskAnnotations')
]
PACK = dict(type='mmxvit.PackMultiTaskSegInputs')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def write(drivable, lane, size=(2, 4)):
    for folder in ('images', 'drivable', 'lane'):
        Path('bdd', folder).mkdir(parents=True, exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    Image.fromarray(image).save('bdd/images/a.jpg')
    for task, mask in (('drivable', drivable), ('lane', lane)):
        Image.fromarray(np.uint8(mask)).save(f'bdd/{task}/a.png')


def build(**kwargs):
    options = dict(
        type='mmxvit.BDD100KDataset',
        data_root='bdd',
        data_prefix=dict(img_path='images', drivable='drivable', lane='lane'),
        pipeline=[*LOAD, PACK])
    return DATASETS.build({**options, **kwargs})


def maps(**kwargs):
    return build(**kwargs)[0]['data_samples'].gt_sem_seg.data.tolist()


DRIVABLE = [[0, 1, 2, 2], [2, 1, 0, 0]]
LANE = [[255, lane_code('road curb'),
         lane_code('single white', style='dashed'), 255],
        [255, 255, lane_code('crosswalk', 'vertical'), 255]]


def test_published_codes():
    """bdd100k/label/to_mask.py: style in bit 4, direction in bit 5."""
    assert LANE == [[255, 4, 6 | 16, 255], [255, 255, 32, 255]]


def test_two_binary_tasks_by_default():
    write(DRIVABLE, LANE)
    dataset = build()
    sample = dataset[0]['data_samples']
    assert sample.tasks == ('drivable', 'lane')
    assert sample.gt_sem_seg.data.tolist() == [[[1, 1, 0, 0], [0, 1, 1, 1]],
                                               [[0, 1, 1, 0], [0, 0, 1, 0]]]
    assert dataset.metainfo['classes'] == ('background', 'drivable', 'lane')
    assert len(dataset.metainfo['palette']) == 3


def test_older_maps():
    """drivable_maps/labels: other values, and other names."""
    write([[1, 2, 0, 0], [0, 2, 1, 1]], LANE)
    with pytest.raises(UserError, match='_drivable_id.png, it has 1 ..png: .*'
                       'data_prefix.drivable or seg_map_suffix.drivable'):
        build(drivable_maps=True)
    assert maps(drivable_maps=True, seg_map_suffix=dict(drivable='.png'))[
        0] == [[1, 1, 0, 0], [0, 1, 1, 1]]
    Path('bdd/drivable/a.png').rename('bdd/drivable/a_drivable_id.png')
    assert maps(drivable_maps=True)[0] == [[1, 1, 0, 0], [0, 1, 1, 1]]
    tasks = dict(drivable=('background', 'direct', 'alternative'))
    assert maps(drivable_maps=True, metainfo=dict(tasks=tasks)) == [
        [[1, 2, 0, 0], [0, 2, 1, 1]]]


def test_all_classes():
    write(DRIVABLE, LANE)
    tasks = dict(
        drivable=('background', 'direct', 'alternative'),
        lane=('background', *LANE_CATEGORIES))
    dataset = build(metainfo=dict(tasks=tasks))
    assert dataset[0]['data_samples'].gt_sem_seg.data.tolist() == [
        [[1, 2, 0, 0], [0, 2, 1, 1]], [[0, 5, 7, 0], [0, 0, 1, 0]]]
    assert len(dataset.metainfo['classes']) == 11
    assert len(dataset.metainfo['palette']) == 11
    styles = dict(lane=('background', *LANE_STYLES))
    assert maps(metainfo=dict(tasks=styles)) == [[[0, 1, 2, 0], [0, 0, 1, 0]]]


def test_classes_that_are_left_out_are_ignored():
    write(DRIVABLE, LANE)
    tasks = dict(drivable=('background', 'direct'))
    assert maps(metainfo=dict(tasks=tasks)) == [[[1, 255, 0, 0],
                                                 [0, 255, 1, 1]]]


@pytest.mark.parametrize('tasks, message', [
    (dict(lanes=('background', 'lane')), "'lanes', but BDD100K has"),
    (dict(lane=('lane', 'background')), "two classes or more, the first"),
    (dict(lane=('background', 'line')), 'lane has line; known are'),
    (dict(lane=('background', 'lane', 'solid')), 'lane and solid overlap'),
])
def test_wrong_tasks(tasks, message):
    write(DRIVABLE, LANE)
    with pytest.raises(UserError, match=message):
        build(metainfo=dict(tasks=tasks), data_prefix=dict(
            img_path='images', lane='lane', lanes='lane'))


def test_other_values_are_errors():
    for value in (8, 64, 254):
        write(DRIVABLE, [[value] * 4] * 2)
        with pytest.raises(UserError, match=f'^bdd/lane/a.png: has the value '
                           f'{value} .*task lane.*data_prefix.lane'):
            maps()
    write([[3] * 4] * 2, LANE)
    with pytest.raises(UserError, match='^bdd/drivable/a.png: has the value 3'
                       ' .8 pixels.: .* 0, 1, 2;'):
        maps()
    write(DRIVABLE, np.transpose(LANE))
    with pytest.raises(UserError, match='^bdd/lane/a.png: is of 2 x 4'):
        maps()


def test_missing_files():
    write(DRIVABLE, LANE)
    Path('bdd/lane/a.png').rename('bdd/lane/b.png')
    with pytest.raises(UserError, match=r'^bdd/lane: 1 of 1 files are not '
                       r'there: a.png.*data_prefix.lane'):
        build()
    for suffix in ('.png', dict(lanes='.png')):
        with pytest.raises(UserError, match='seg_map_suffix of the data set is'
                           '.*by task'):
            build(seg_map_suffix=suffix)
    with pytest.raises(UserError, match='^data_prefix.lane: '):
        build(data_prefix=dict(img_path='images', drivable='drivable'))


def test_first_and_last_images():
    write(DRIVABLE, LANE)
    for name in 'bcd':
        for folder, suffix in (('images', 'jpg'), ('lane', 'png'),
                               ('drivable', 'png')):
            shutil.copy(f'bdd/{folder}/a.{suffix}',
                        f'bdd/{folder}/{name}.{suffix}')
    Path('bdd/lane/b.png').unlink()  # not asked for
    for indices, names in ((1, 'a'), (-2, 'cd')):
        dataset = build(indices=indices)
        assert [Path(dataset.get_data_info(i)['img_path']).stem
                for i in range(len(dataset))] == list(names)


def test_heads_and_masks_are_looked_at_before_a_run():
    write(DRIVABLE, LANE, size=(2, 4))
    dataset = dict(
        type='mmxvit.BDD100KDataset', data_root='bdd',
        data_prefix=dict(img_path='images', drivable='drivable', lane='lane'),
        pipeline=LOAD)
    cfg = Config(
        dict(
            model=dict(
                decode_head=dict(
                    drivable=dict(type='FPNHead', num_classes=2),
                    lane=dict(type='FPNHead', num_classes=9))),
            train_dataloader=dict(dataset=dataset)))
    with pytest.raises(UserError, match='model.decode_head.lane.num_classes is'
                       ' 9, but metainfo.tasks.lane of train_dataloader.datas'
                       'et has 2 classes .background, lane.: set it to 2'):
        check_data(cfg, ['train'])
    heads = cfg.model.decode_head
    heads.lane.num_classes = 2
    assert check_data(cfg, ['train']) == []
    heads.drivable = heads.pop('drivable')  # behind the other
    with pytest.raises(UserError, match='decode_head has lane, drivable, but '
                       'the tasks of .* are drivable, lane: name the same'):
        check_data(cfg, ['train'])
    heads.lane = heads.pop('lane')
    Image.new('RGB', (4, 2)).save('bdd/lane/a.png')
    with pytest.raises(UserError, match='^bdd/lane/a.png: is a picture with '
                       'the channels RGB'):
        check_data(cfg, ['train'])


def test_too_many_combinations():
    results = dict(tasks=dict(a=15, b=15), seg_fields=[])
    load = TRANSFORMS.build(dict(type='mmxvit.LoadMultiTaskAnnotations'))
    with pytest.raises(UserError, match='16 x 16 combinations'):
        load(results)


@pytest.mark.parametrize('steps', [
    [dict(type='Resize', scale=(150, 70), keep_ratio=False)],
    [dict(type='RandomFlip', prob=1.)],
    [dict(type='RandomFlip', prob=1., direction='vertical')],
    [dict(type='RandomCrop', crop_size=(40, 56), cat_max_ratio=0.75)],
    [dict(type='RandomResize', scale=(96, 80), ratio_range=(0.5, 2.)),
     dict(type='RandomCrop', crop_size=(32, 32)),
     dict(type='PhotoMetricDistortion')],
    [dict(type='Pad', size=(120, 130),
          pad_val=dict(img=0, seg=255))],
    [dict(type='RandomRotate', prob=1., degree=40)],
    [dict(type='RandomCutOut', prob=1., n_holes=2, cutout_shape=(9, 9),
          seg_fill_in=255)],
], ids=lambda steps: steps[0]['type'])
def test_stock_transforms_move_both_maps_with_the_image(steps):
    """The image is painted in the colours of the labels."""
    write_dataset('toy', 'bdd100k', train=1, val=1, size=96)
    prefix = dict(img_path='images/100k/train',
                  drivable='labels/drivable/masks/train',
                  lane='labels/lane/masks/train')
    tasks = dict(
        drivable=('background', 'direct', 'alternative'),
        lane=('background', *LANE_CATEGORIES))
    dataset = build(
        data_root='toy', data_prefix=prefix, metainfo=dict(tasks=tasks))
    info = dataset.get_data_info(0)
    before = Compose([*LOAD, PACK])(dict(info))['data_samples']
    labels = before.gt_sem_seg.data.numpy()
    assert len(np.unique(labels[0])) > 1 and len(np.unique(labels[1])) > 1
    info['seg_fields'] = []
    loaded = Compose(LOAD)(dict(info))
    # nearest neighbours for the image, too
    codes = loaded['gt_seg_map']
    moved = Compose(steps)(dict(
        loaded, img=np.repeat(codes[..., None], 3, 2)))
    after = Compose([PACK])(moved)['data_samples'].gt_sem_seg.data.numpy()
    assert after.shape == (2, *moved['gt_seg_map'].shape)
    by_code = {int(c): labels[:, codes == c][:, 0] for c in np.unique(codes)}
    by_code[255] = np.array([255, 255])
    for code in np.unique(moved['gt_seg_map']):
        here = after[:, moved['gt_seg_map'] == code]
        assert (here == by_code[int(code)][:, None]).all()
    if steps[0]['type'] in ('RandomFlip', 'RandomCrop'):
        assert (moved['img'][..., 0] == moved['gt_seg_map']).all()
    if steps[0]['type'] in ('Pad', 'RandomRotate', 'RandomCutOut'):
        assert ((after == 255).all(0) == (after == 255).any(0)).all()
        assert (after == 255).any()
