# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Masks of own data: what is read, and what ends in a named error."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from mmxvit.datasets.label_masks import label_values, read_mask
from mmxvit.engine.check_annotations import check_masks
from mmxvit.engine.checks import check_data
from mmxvit.engine.command import UserError

pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
MASK = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [0, 0, 255, 1]], np.uint8)


@pytest.fixture(autouse=True)
def folder():
    init_default_scope('mmseg')
    for name in ('images', 'masks'):
        Path('data', name).mkdir(parents=True)
    add('a', MASK)


def add(name, mask, mode=None, size=None):
    height, width = size or mask.shape[:2]
    image = np.zeros((height, width, 3), np.uint8)
    Image.fromarray(image).save(f'data/images/{name}.jpg')
    Image.fromarray(mask, mode).save(f'data/masks/{name}.png')


def build(classes=3, **kwargs):
    options = dict(
        type='mmxvit.SegDataset',
        data_root='data',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=tuple('abcdefgh'[:classes])),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmxvit.LoadSegAnnotations')
        ])
    return DATASETS.build({**options, **kwargs})


def labels(index=0, **kwargs):
    return build(**kwargs)[index]['gt_seg_map']


def test_indices_and_255():
    dataset = build()
    loaded = dataset[0]['gt_seg_map']
    assert loaded.dtype == np.uint8 and (loaded == MASK).all()
    assert len(dataset.metainfo['palette']) == 3  # made where left out


def test_ignored_values():
    mask = MASK.copy()
    mask[mask == 255] = 11
    add('a', mask)
    assert (labels(ignore_index=11) == MASK).all()
    mask[0, 0] = 12
    add('a', mask)
    assert labels(ignore_index=[11, 12])[0].tolist() == [255, 1, 2, 255]


def test_a_class_may_be_ignored_and_is_named():
    with pytest.warns(UserWarning, match='the class a; if classes count from '
                      r'1 .* i in range\(3\)}'):
        assert labels(ignore_index=[0, 255])[0].tolist() == [255, 1, 2, 255]
    with pytest.warns(UserWarning, match='the class b, c'):
        build(ignore_index={0: 0})


def test_classes_that_count_from_one():
    """The error has the line that is right, as it is to be written."""
    add('a', np.array([[0, 1], [2, 3]], np.uint8))
    with pytest.raises(UserError, match='has the value 3 ') as error, \
            pytest.warns(UserWarning):
        labels(ignore_index=0)
    line = re.search(r'to ({.*}) if classes count from 1', str(error.value))[1]
    assert labels(ignore_index=eval(line)).tolist() == [[255, 0], [1, 2]]


def test_map_of_values():
    values = {0: 255, 1: 0, 2: 1, 255: 1}
    assert labels(classes=2, ignore_index=values).tolist() == [
        [255, 0, 1, 1], [1, 1, 0, 255], [255, 255, 1, 0]]
    with pytest.raises(UserError, match='^data/masks/a.png: has the value 2 '):
        labels(classes=2, ignore_index={0: 0, 1: 1, 255: 255})
    with pytest.raises(UserError, match=r'entries \{1: 2\}.* 2 classes'):
        build(classes=2, ignore_index={0: 0, 1: 2})


@pytest.mark.parametrize('ignore_index', [255, [255]])
def test_sixteen_bits_and_palettes(ignore_index):
    Image.fromarray(MASK.astype(np.uint16)).save('data/masks/a.png')
    assert (labels(ignore_index=ignore_index) == MASK).all()
    image = Image.fromarray(MASK, 'P')
    image.putpalette([i for c in range(256) for i in (c, 255 - c, 0)])
    image.save('data/masks/a.png')
    assert (labels(ignore_index=ignore_index) == MASK).all()
    large = np.full(MASK.shape, 40000, np.uint16)
    Image.fromarray(large).save('data/masks/a.png')
    assert (labels(ignore_index=40000) == 255).all()
    bits = Image.fromarray(MASK == 1)
    bits.save('data/masks/a.png')
    assert (labels() == (MASK == 1)).all()


def test_values_without_a_meaning():
    with pytest.raises(UserError) as error:
        labels(classes=2)
    assert re.match(
        r'data/masks/a.png: has the value 2 \(3 pixels\): .* 0 to 1 of '
        r'metainfo.classes, .* ignore_index of the data set, 255, .* add a '
        r'class', str(error.value))
    with pytest.raises(UserError, match='values 2, 255 .5 pixels'):
        labels(classes=2, ignore_index=7)


@pytest.mark.parametrize('ignore_index', [255, [255, 9]])
def test_another_value_to_ignore(ignore_index):
    """The error has this line, too."""
    mask = MASK.copy()
    mask[0, 0] = 11
    add('a', mask)
    with pytest.raises(UserError, match='has the value 11 ') as error:
        labels(ignore_index=ignore_index)
    line = re.search(r'to (\[.*?\]) if VALUE', str(error.value))[1]
    assert labels(ignore_index=eval(line, dict(VALUE=11)))[0].tolist() == [
        255, 1, 2, 255]


def test_one_class_is_none():
    with pytest.raises(UserError, match="'background' as well"):
        build(classes=1)


def test_values_that_a_map_lacks():
    """Of a map every value counts, also those of classes."""
    with pytest.raises(UserError, match=r'values 1, 2, 255 .*is a map, which '
                       r'has a label for each value that occurs: \{0: 1\}; '
                       'add the label, 255 if it is to be ignored'):
        labels(ignore_index={0: 1})


def test_large_values_are_named():
    """Such as those of missing data in TIFF files."""
    mask = np.array([[0, 1, 2], [2**31 - 1, -5, 70000]], np.int32)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save('data/images/a.jpg')
    Path('data/masks/a.png').unlink()
    Image.fromarray(mask).save('data/masks/a.tif')
    with pytest.raises(UserError, match='^data/masks/a.tif: has the values '
                       '-5, 70000, 2147483647 .3 pixels.: values are'):
        labels(seg_map_suffix='.tif')
    known = {0: 0, 1: 1, 2: 2, 2**31 - 1: 255, 70000: 255}
    mask[1, 1] = 0
    Image.fromarray(mask).save('data/masks/a.tif')
    assert labels(seg_map_suffix='.tif', ignore_index=known).tolist() == [
        [0, 1, 2], [255, 0, 255]]


def test_pictures_in_the_place_of_masks():
    rgb = np.repeat(MASK[..., None], 3, 2)
    for mode in ('RGB', 'RGBA', 'LA'):
        Image.fromarray(rgb).convert(mode).save('data/masks/a.png')
        with pytest.raises(UserError, match='^data/masks/a.png: is a picture '
                           f'with the channels {mode}.* one channel'):
            labels()


def test_mask_of_another_size():
    add('a', MASK.T.copy(), size=(3, 4))
    with pytest.raises(UserError, match='^data/masks/a.png: is of 3 x 4 '
                       'pixels, its image data/images/a.jpg of 4 x 3'):
        labels()


def test_size_is_compared_with_the_file_after_resize():
    step = dict(type='Resize', scale=(8, 8), keep_ratio=False)
    dataset = build()
    steps = dataset.pipeline.transforms
    resized = Compose([steps[0], step, steps[1]])(dataset.get_data_info(0))
    assert resized['img_shape'] == (8, 8)
    assert (resized['gt_seg_map'] == MASK).all()


def test_damaged_and_missing_masks():
    whole = Path('data/masks/a.png').read_bytes()
    Path('data/masks/a.png').write_bytes(whole[:45])
    with pytest.raises(UserError, match='^data/masks/a.png: is no image'):
        labels()
    add('b', MASK)
    Path('data/masks/b.png').unlink()
    with pytest.raises(UserError, match=r'^data/masks: 1 of 2 files are not '
                       r'there: b.png\. .*data_prefix.seg_map_path'):
        build()
    Path('data/images/b.jpg').unlink()
    Path('list.txt').write_text('a\nc\n')
    with pytest.raises(UserError, match='^data/images: .* c.jpg'):
        build(ann_file=str(Path('list.txt').absolute()))


def test_empty_folders_and_other_suffixes():
    with pytest.raises(UserError, match=r'^data/images: has no file \*.png, '
                       r'it has 1 \*.jpg: .*img_suffix'):
        build(img_suffix='.png')
    Path('data/empty').mkdir()
    for name in ('empty', 'none'):
        with pytest.raises(UserError, match=f'^data/{name}: .* is empty or '
                           'missing: .*data_prefix.img_path'):
            build(data_prefix=dict(img_path=name, seg_map_path='masks'))


def test_suffixes_and_lists():
    add('b', MASK)
    Path('data/masks/b.png').rename('data/masks/b_mask.png')
    Path('list.txt').write_text('b\n')
    dataset = build(
        ann_file=str(Path('list.txt').absolute()), seg_map_suffix='_mask.png')
    assert len(dataset) == 1
    assert (dataset[0]['gt_seg_map'] == MASK).all()


def test_images_to_predict_need_no_masks():
    dataset = build(
        data_prefix=dict(img_path='images'),
        pipeline=[dict(type='LoadImageFromFile')])
    assert 'gt_seg_map' not in dataset[0]


def test_lists_of_names():
    add('b', MASK)
    path = Path('list.txt').absolute()
    for text in ('b', 'b.jpg\n\n', ' b \n'):
        path.write_text(text)
        (info, ) = build(ann_file=str(path)).load_data_list()
        assert info['img_path'] == 'data/images/b.jpg'
    for text, message in (('images/a.jpg masks/a.png', 'has the line .* name '
                           'of one image in each line'),
                          ('\n', 'is empty'), ('c', 'names them: correct it')):
        path.write_text(text)
        with pytest.raises(UserError, match=f'{path}:? {message}'):
            build(ann_file=str(path))
    path.unlink()
    with pytest.raises(UserError, match=f'{path}: no such file'):
        build(ann_file=str(path))


def test_pipelines_that_would_not_apply_ignore_index():
    stock = dict(type='LoadAnnotations')
    nested = dict(type='TestTimeAug', transforms=[[stock]])
    for step in (stock, nested):
        with pytest.raises(UserError, match='write mmxvit.LoadSegAnnotations'):
            build(pipeline=[dict(type='LoadImageFromFile'), step])
    own = [dict(type='LoadImageFromFile'),
           dict(type='mmxvit.LoadSegAnnotations')]
    other = build(type='BaseSegDataset', pipeline=own)
    with pytest.raises(UserError, match='use mmxvit.SegDataset'):
        other[0]
    with pytest.raises(UserError, match='data_prefix.seg_map_path'):
        build(data_prefix=dict(img_path='images'))[0]


@pytest.mark.parametrize('value', ['255', None, 11.0, [1, '2'], {0: '1'}, {},
                                   True, [0, False]])
def test_ignore_index_of_another_type(value):
    with pytest.raises(UserError, match=r'ignore_index of the data set is .*: '
                       'give a value, a list of values, or'):
        build(ignore_index=value)


def published(kind, mask, **kwargs):
    Path('data/images/a_leftImg8bit.png').write_bytes(
        Path('data/images/a.jpg').read_bytes())
    for end in ('', '_gtFine_labelTrainIds', '_gtFine_labelIds'):
        Image.fromarray(mask).save(f'data/masks/a{end}.png')
    return build(
        type=f'mmxvit.{kind}', **{'metainfo': None, **kwargs})


def test_masks_of_ade20k():
    mask = np.array([[0, 1, 2, 150]] * 3, np.uint8)
    assert published('ADE20KDataset', mask)[0]['gt_seg_map'][0].tolist() == [
        255, 0, 1, 149]
    few = published(
        'ADE20KDataset', mask, metainfo=dict(classes=('building', 'wall')))
    assert few[0]['gt_seg_map'][0].tolist() == [255, 1, 0, 255]
    mask[0, 0] = 151
    with pytest.raises(UserError, match='^data/masks/a.png: has the value 151 '
                       '.*have 0 to 150; for masks of your own use'):
        published('ADE20KDataset', mask)[0]


def test_masks_of_cityscapes():
    """Of train ids, and as they are published."""
    from mmseg.datasets import CityscapesDataset
    mask = np.array([[0, 18, 11, 255]] * 3, np.uint8)
    assert published('CityscapesDataset', mask)[0]['gt_seg_map'][
        0].tolist() == [0, 18, 11, 255]
    raw = np.array([[7, 33, 24, 4]] * 3, np.uint8)
    assert published(
        'CityscapesDataset', raw, seg_map_suffix='_gtFine_labelIds.png'
    )[0]['gt_seg_map'][0].tolist() == [0, 18, 11, 255]
    assert published('CityscapesDataset', mask).metainfo['classes'] == (
        CityscapesDataset.METAINFO['classes'])
    with pytest.raises(UserError, match='has the values 24, 33 .* have 0 '
                       'to 18 and 255'):
        published('CityscapesDataset', raw)[0]
    published('CityscapesDataset', mask)
    Path('data/masks/a_gtFine_labelTrainIds.png').unlink()
    with pytest.raises(UserError, match='labelIds.png. reads masks as they '):
        build(type='mmxvit.CityscapesDataset', metainfo=None)


def test_heads_of_masks_are_looked_at_before_a_run():
    from mmengine.config import Config

    from mmxvit.engine.checks import check_data
    dataset = dict(
        type='mmxvit.SegDataset', data_root='data',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=tuple('abc')),
        pipeline=[dict(type='mmxvit.LoadSegAnnotations')])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    assert check_data(cfg, ['train']) == []
    Path('data/images/more').mkdir()
    for name in ('c.png', 'more/d.JPG', 'notes.txt'):
        Path('data/images', name).touch()
    (note, ) = check_data(cfg, ['train'])
    assert note.startswith('data/images: 2 pictures are left out: '
                           "'c.png', 'more/d.JPG'. Their names do not end")
    add('b', MASK[:2].copy(), size=(3, 4))
    with pytest.raises(UserError, match='masks/b.png: is of 4 x 2 pixels, its '
                       'image data/images/b.jpg of 4 x 3'):
        check_data(cfg, ['train'])
    Image.fromarray(MASK).convert('RGB').save('data/masks/b.png')
    with pytest.raises(UserError, match='b.png: is a picture with the'):
        check_data(cfg, ['train'])
    Path('data/masks/b.png').write_text('no image')
    with pytest.raises(UserError, match='b.png .*: is no image'):
        check_data(cfg, ['train'])
    Path('data/masks/b.png').unlink()
    with pytest.raises(UserError, match='1 of 2 files are not there: b.png'):
        check_data(cfg, ['train'])
    add('b', MASK)
    image = Path('data/images/b.jpg')
    image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(UserError, match='b.jpg .*: is no image, or damaged'):
        check_data(cfg, ['train'])


@pytest.mark.parametrize('part', ['decode_head', 'auxiliary_head'])
def test_heads_have_the_classes_of_the_data(part):
    from mmengine.config import Config

    from mmxvit.engine.checks import check_data
    dataset = dict(
        type='mmxvit.SegDataset', data_root='data',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=tuple('abc')),
        pipeline=[dict(type='mmxvit.LoadSegAnnotations')])
    cfg = Config(dict(
        model={part: [dict(num_classes=3), dict(num_classes=19)]},
        train_dataloader=dict(dataset=dataset)))
    with pytest.raises(UserError, match=(
            rf'model.{part}.1.num_classes is 19, but train_dataloader.dataset '
            rf'has 3 classes: set model.{part}.1.num_classes=3')):
        check_data(cfg, ['train'])
    cfg.model[part][1].num_classes = 3
    check_data(cfg, ['train'])


def test_arguments():
    with pytest.raises(UserError, match='metainfo=dict.classes='):
        build(metainfo=None)
    with pytest.raises(UserError, match='palette has 2 colours for 3 classes'):
        build(metainfo=dict(classes=tuple('abc'),
                            palette=[[0, 0, 0], [1, 1, 1]]))
    with pytest.raises(UserError, match="classes is 'names.txt', which is no "
                       'file'):
        build(metainfo=dict(classes='names.txt'))
    Path('names.txt').write_text('a\nb\nc\n')
    assert build(metainfo=dict(classes='names.txt')).label_values == {
        0: 0, 1: 1, 2: 2, 255: 255}
    with pytest.raises(UserError, match='data_prefix.img_path of the data'):
        build(data_prefix=dict(seg_map_path='masks'))
    with pytest.raises(UserError, match='ignore_index='):
        build(reduce_zero_label=True)
    with pytest.raises(UserError, match=r'entries \{-1: 255\}'):
        label_values(-1, 2)
    assert label_values((3, 255), 2) == {0: 0, 1: 1, 3: 255, 255: 255}
    assert label_values([], 255) == {i: i for i in range(255)}
    with pytest.raises(UserError, match='has 256 names: at most 255'):
        label_values(65535, 256)


def test_masks_without_a_label_give_a_loss_of_zero():
    add('a', np.full((64, 64), 255, np.uint8))
    with pytest.warns(UserWarning, match='^data/masks/a.png: all of its '
                      'pixels are ignored.*ignore_index'):
        sample = labels()
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(type='mmxvit.LOLViT', arch='s'),
            decode_head=dict(
                type='SegformerHead', in_channels=[48, 64, 96, 128],
                in_index=[0, 1, 2, 3], channels=8, num_classes=3,
                norm_cfg=dict(type='BN'),
                loss_decode=dict(type='CrossEntropyLoss'))))
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    truth = SegDataSample(
        gt_sem_seg=PixelData(data=torch.from_numpy(sample[None]).long()))
    losses = model.loss(torch.rand(2, 3, 64, 64), [truth, truth])
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total == 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def look(masks, mode='train', **kwargs):
    """What is said of masks before a run."""
    for i, mask in enumerate(masks):
        add('abcdef'[i], np.full((4, 4), 0, np.uint8) + np.array(mask))
    dataset = dict(
        type='mmxvit.SegDataset', data_root='data', test_mode=mode == 'test',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=('street', 'car')),
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='mmxvit.LoadSegAnnotations')], **kwargs)
    return check_data(Config({
        'model': {}, f'{mode}_dataloader': dict(dataset=dataset)}), [mode])


TWO = np.array([0, 0, 1, 1], np.uint8)


def test_a_look_at_masks_before_a_run(recwarn):
    assert look([TWO, TWO * 0]) == []
    # foreground as 255, which is ignored
    (note, ) = look([TWO * 255, TWO * 0])
    assert 'of 2 masks' in note and 'no pixel is of another class than ' \
        'street; correct the masks, or ignore_index' in note
    assert look([TWO * 255, TWO * 0], ignore_index={0: 0, 255: 1}) == []
    (note, ) = look([TWO, TWO * 0 + 255])
    assert '1 of 2 masks' in note and "'data/masks/b.png'" in note
    with pytest.raises(UserError, match='b.png: has the value 9'):
        look([TWO, TWO * 9])
    assert not recwarn.list


def test_masks_of_which_nothing_counts():
    empty = [TWO * 0 + 255] * 2
    with pytest.raises(UserError, match='of 2 masks .* all pixels are ignor'):
        look(empty)
    (note, ) = look(empty, 'test')  # published for a server's tests
    assert 'all pixels are ignored' in note


def test_few_of_many_masks_are_read(monkeypatch):
    monkeypatch.setattr('mmxvit.engine.check_annotations.SOME_MASKS', 3)
    assert look([TWO, TWO * 9, TWO, TWO * 9, TWO, TWO * 9]) == []
    monkeypatch.setattr('mmxvit.engine.check_annotations.SOME_MASKS', 6)
    with pytest.raises(UserError, match='f.png: has the value 9'):
        look([TWO] * 5 + [TWO * 9])


def test_published_masks_have_no_ignore_index_to_correct():
    for name in 'ab':
        add(name, np.full((4, 4), 255, np.uint8))
    dataset = dict(
        type='mmxvit.CityscapesDataset', data_root='data',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.jpg', seg_map_suffix='.png',
        pipeline=[dict(type='mmxvit.LoadSegAnnotations')])
    with pytest.raises(UserError, match='are ignored; correct the masks$'):
        check_masks(dataset, 'train_dataloader.dataset')
    # as those of its test split, through the shipped config
    cfg = Config.fromfile(
        ROOT / 'configs/_base_/datasets/cityscapes_1024.py')
    shipped = {**cfg.test_dataloader.dataset, **dataset}
    (note, ) = check_masks(shipped, 'test_dataloader.dataset')
    assert 'all pixels are ignored' in note


@pytest.mark.parametrize('kind, wrong', [
    ('ADE20KDataset', dict(reduce_zero_label=False)),
    ('ADE20KDataset', dict(ignore_index=5)),
    ('CityscapesDataset', dict(reduce_zero_label=True)),
    ('BDD100KDataset', dict(ignore_index=[0, 255])),
])
def test_published_masks_are_read_as_published(kind, wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=f'{kind}: {name}=.* no effect.* mmxvit'
                       r'\.SegDataset'):
        build(type=f'mmxvit.{kind}', **wrong)


def test_the_values_that_published_masks_have_may_be_said():
    options = dict(img_suffix='.jpg', seg_map_suffix='.png', metainfo=None)
    build(type='mmxvit.ADE20KDataset', reduce_zero_label=True, **options)
    build(type='mmxvit.CityscapesDataset', reduce_zero_label=False,
          ignore_index=255, **options)


def test_names_and_colours_of_classes():
    with pytest.raises(UserError, match='has car more than once'):
        build(metainfo=dict(classes=('car', 'tree', 'car')))
    with pytest.raises(UserError, match='a colour is three numbers'):
        build(metainfo=dict(classes=('a', 'b'), palette=['red', 'blu']))


def test_read_mask_keeps_large_values():
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save('a.tif')
    assert (read_mask('a.tif') == 70000).all()
