# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Mistakes in annotations that mmdet passes over in silence."""
import glob
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

from .command import UserError, type_name

MANY_IMAGES = 20_000
"""Of more images than these only names and sizes are looked at."""
SOME_MASKS = 100
"""Of so many masks at most the values are looked at before a run."""

_PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_ENDS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND'}  # JPEG, PNG


def check_coco(dataset: dict, key: str) -> list[str]:
    """Check annotations and images of a ``CocoDataset``.

    mmdet leaves out objects of classes that the config does not name and
    boxes outside their image, gives wrong labels where the file lacks a class
    of the config, and reads what is there of a truncated image.

    Args:
        dataset: Config of the data set.
        key: Where it is in the whole config.

    Returns:
        list[str]: What is left out or cut, and what to do against it.

    Raises:
        UserError: The file cannot be used with this config, or an image is
            missing or damaged.
    """
    root = dataset.get('data_root') or ''
    path = os.path.join(root, dataset['ann_file'])
    content = _read(path)
    tested = dataset.get('test_mode', False)
    if tested and isinstance(content, dict):  # a test set without truth
        content.setdefault('annotations', [])
    _check_format(path, content, tested)
    notes = _check_categories(path, content, class_names(dataset), key)
    notes += _check_boxes(path, content)
    _check_images(path, _folder(dataset), content['images'], key)
    return notes


def check_panoptic(dataset: dict, key: str) -> list[str]:
    """Check the images and the boxes of things of a ``CocoPanopticDataset``.

    All else is checked where it is loaded, by ``mmxvit.CocoPanopticDataset``.
    Arguments and results as for :func:`check_coco`.
    """
    path = os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    content = _read(path)
    images = content.get('images') if isinstance(content, dict) else None
    if not isinstance(images, list) or any(
            not isinstance(i, dict) or not {'id', 'file_name'} <= i.keys()
            for i in images):
        return []  # another format, as the data set will say
    _check_images(path, _folder(dataset), images, key)
    try:
        sizes = {i['id']: i['height'] * i['width'] for i in images}
        things = {c['id'] for c in content['categories'] if c['isthing']}
        boxes = [
            dict(id=s['id'], image_id=a['image_id'], bbox=s['bbox'],
                 area=s['area'])
            for a in content.get('annotations', ())
            for s in a['segments_info']
            if s['category_id'] in things and a['image_id'] in sizes
        ]
    except (KeyError, TypeError):
        return []  # likewise
    return _check_boxes(path, dict(images=images, annotations=boxes))


def check_masks(dataset: dict, key: str) -> list[str]:
    """Check that masks are there, have one channel, and the images' sizes.

    For mmxvit's data sets for mmseg. What values they have is checked of
    ``SOME_MASKS`` (see :func:`_check_values`), and of all where they are
    loaded. Of more than ``MANY_IMAGES`` nothing else is looked at. Arguments
    and results as for :func:`check_coco`; images of another suffix are left
    out.
    """
    from mmxvit.datasets.label_masks import check_bands, other_size
    built = DATASETS.build({**dataset, 'pipeline': []})
    data = built.load_data_list()
    for info in data if len(data) <= MANY_IMAGES else []:
        if 'seg_map_paths' in info:  # several tasks
            masks = list(info['seg_map_paths'].values())
        elif 'seg_map_path' in info:
            masks = [info['seg_map_path']]
        else:
            continue
        size, _ = _head(info['img_path'], key)
        for path in masks:
            mask_size, bands = _head(path, key)
            check_bands(path, bands)
            # photographs may say that they are to be turned by 90 degrees
            if sorted(size) != sorted(mask_size):
                raise other_size(path, mask_size, info['img_path'], size)
    notes = _note_left_out(dataset, data)
    steps = {type_name(step) for step in dataset.get('pipeline') or ()}
    some = data[::-(-len(data) // SOME_MASKS) or 1]
    if 'mmxvit.LoadMultiTaskAnnotations' in steps:
        for task, classes in built.metainfo['tasks'].items():
            notes += _check_values(
                [d['seg_map_paths'][task] for d in some], classes,
                built.label_values[task], built.values_remedy[task], dataset,
                key)
    if 'mmxvit.LoadSegAnnotations' in steps:
        notes += _check_values(
            [d['seg_map_path'] for d in some if 'seg_map_path' in d],
            built.metainfo['classes'], built.label_values,
            built.values_remedy, dataset, key)
    return notes


def _check_values(masks: list[str], classes: Sequence[str],
                  values: Mapping[int, int], remedy: str, dataset: dict,
                  key: str) -> list[str]:
    """Read masks: labels that are all the same are a mistake."""
    from mmxvit.datasets.label_masks import IGNORED, labels_of_mask
    counts, ignored = np.zeros(IGNORED + 1, np.int64), []
    for path in masks:
        of_mask = np.bincount(
            labels_of_mask(path, values, remedy).ravel(),
            minlength=len(counts))
        counts += of_mask
        if not of_mask[:IGNORED].any():
            ignored.append(path)
    there = [name for name, n in zip(classes, counts, strict=False) if n]
    if masks and len(there) < min(2, len(classes)):
        text = (f'{key}: of {len(masks)} masks that were looked at, such as '
                f'{masks[0]}, ' +
                (f'no pixel is of another class than {there[0]}' if there else
                 'all pixels are ignored') + '; correct the masks')
        if type_name(dataset) == 'mmxvit.SegDataset':
            text += (', or ignore_index, which says what their values are '
                     '({0: 0, 255: 1} of masks with 0 and 255)')
        if not there and not dataset.get('test_mode'):
            raise UserError(text)
        return [text]
    return [
        f'{key}: {len(ignored)} of {len(masks)} masks that were looked at are '
        'ignored as a whole, nothing is learned from them; correct them, or '
        f'remove them and their images: {_some(ignored)}'
    ] if ignored else []


def _head(path: str, key: str) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Size, width first, and bands of a picture that is whole."""
    try:
        with Image.open(path) as file:  # reads the head only
            head = file.size, file.getbands()
    except OSError as error:
        raise _damaged(path, key) from error
    if not _complete(path):
        raise _damaged(path, key)
    return head


def _note_left_out(dataset: dict, data: list[dict]) -> list[str]:
    """Pictures in the folder of the images that have another suffix."""
    folder = _folder(dataset, 'img_path')
    if dataset.get('ann_file') or dataset.get('indices') is not None:
        return []
    used = {os.path.normpath(path) for info in data for path in (
        info['img_path'], info.get('seg_map_path', ''))}
    left = sorted(
        os.path.relpath(path, folder) for path in map(
            os.path.normpath, glob.iglob(f'{glob.escape(folder)}/**/*.*',
                                         recursive=True))
        if path not in used and path.lower().endswith(_PICTURES))
    return [
        f'{folder}: {len(left)} pictures are left out: {_some(left)}. Their '
        'names do not end as img_suffix of the data set says; to use them '
        'rename or convert them'
    ] if left else []


def _damaged(path: str, key: str) -> UserError:
    return UserError(f'{path} ({key}): is no image, or damaged; write it '
                     'again, or remove it')


def check_voc(dataset: dict, key: str) -> list[str]:
    """Check annotations and images of a ``VOCDataset``, as :func:`check_coco`.

    Of more than ``MANY_IMAGES`` only the names are looked at.
    """
    root = dataset.get('data_root') or ''
    path = os.path.join(root, dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    folder = os.path.join(root, prefix.get('sub_data_root', ''))
    names = Path(path).read_text().split()
    images = [dict(id=n, file_name=f'JPEGImages/{n}.jpg') for n in names]
    _check_images(path, folder, images, f'{key}.data_prefix.sub_data_root')
    if len(names) > MANY_IMAGES:
        return []
    objects, known = [], class_names(dataset)
    for image in images:
        file = os.path.join(folder, 'Annotations', f'{image["id"]}.xml')
        objects += _voc_objects(file, image)
    content = dict(images=images, annotations=objects)
    unknown = Counter(
        o['name'] for o in objects if o['name'] not in known)
    return _note_unknown(folder, objects, unknown, known,
                         key) + _check_boxes(folder, content)


def _voc_objects(file: str, image: dict) -> list[dict]:
    """Objects in an XML file; the size of the image goes to ``image``."""
    try:
        xml = ElementTree.parse(file).getroot()
        image.update({side: int(xml.find(f'size/{side}').text)
                      for side in ('width', 'height')})
        found = []
        for i, node in enumerate(xml.iter('object')):
            box = node.find('bndbox')
            left, top, right, bottom = (
                float(box.find(side).text)
                for side in ('xmin', 'ymin', 'xmax', 'ymax'))
            # VOC counts from 1, and the last pixel is part of the box
            size = right - left + 1, bottom - top + 1
            found.append(
                dict(
                    id=f'{image["id"]}.xml, object {i}',
                    image_id=image['id'],
                    name=node.find('name').text,
                    bbox=[left - 1, top - 1, *size],
                    area=size[0] * size[1]))
        return found
    except FileNotFoundError:
        raise UserError(
            f'{file}: is missing; add it, or take {image["id"]} from the '
            'list of images') from None
    except (ElementTree.ParseError, AttributeError, TypeError,
            ValueError) as error:
        raise UserError(
            f'{file}: is not in the format of PASCAL VOC ({error}): it has '
            'size (width, height) and objects of name and bndbox (xmin, '
            'ymin, xmax, ymax); write it again') from error


def _read(path: str) -> dict:
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # of JSON, or of the encoding
        raise UserError(
            f'{path}: is damaged or no JSON file ({error}); write it again, '
            'or name another one in ann_file') from error


def _folder(dataset: dict, prefix: str = 'img') -> str:
    return os.path.join(
        dataset.get('data_root') or '',
        (dataset.get('data_prefix') or {}).get(prefix, ''))


def _check_format(path: str, content: object, tested: bool) -> None:
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or any(
            not isinstance(content.get(name), list) for name in lists):
        raise UserError(
            f'{path}: is not in the format of COCO, an object with the lists '
            f'{", ".join(lists)}; convert the annotations to it')
    wanted = dict(
        images=('id', 'file_name', 'height', 'width'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area') +
        ('iscrowd', ) * tested,  # the evaluation asks for it
        categories=('id', 'name'))
    numbers = ('height', 'width', 'area')
    for name, keys in wanted.items():
        for i, entry in enumerate(content[name]):
            if not isinstance(entry, dict):
                raise UserError(f'{path}: {name}[{i}] is {entry!r}, expected '
                                f'an object with {", ".join(keys)}')
            absent = [k for k in keys if k not in entry]
            if absent:
                raise UserError(
                    f'{path}: {name}[{i}] has no {", ".join(absent)}; add '
                    f'{"it" if len(absent) == 1 else "them"}')
            for key in numbers:
                if key in keys and not _is_number(entry[key]):
                    raise UserError(f'{path}: {key} of {name}[{i}] is '
                                    f'{entry[key]!r}, expected a number')


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def class_names(dataset: dict) -> tuple[str, ...]:
    """Classes of the config of a data set, or else of its type."""
    # may name a file with one class per line
    return tuple(metainfo(dataset)['classes'])


def metainfo(dataset: dict) -> dict:
    """That of the config of a data set, and what its type adds."""
    kind = dataset['type']
    if not isinstance(kind, type):  # as in pure Python configs
        with DATASETS.switch_scope_and_registry('mmdet') as registry:
            kind = registry.get(kind)
    return kind._load_metainfo(dataset.get('metainfo'))


def _check_categories(path: str, content: dict, classes: tuple[str, ...],
                      key: str) -> list[str]:
    names = {c['id']: c['name'] for c in content['categories']}
    known = tuple(names.values())
    images = {i['id'] for i in content['images']}
    for annotation in content['annotations']:
        category, image = annotation['category_id'], annotation['image_id']
        if category not in names:
            raise UserError(
                f'{path}: annotation {annotation["id"]} has category_id '
                f'{category}, which is not in `categories` of the file '
                f'({_some(known)}): add it there, or correct the annotation')
        if image not in images:
            raise UserError(
                f'{path}: annotation {annotation["id"]} has image_id {image}, '
                'which is not in `images` of the file: add it there, or '
                'remove the annotation')
    twice = [n for n, count in Counter(known).items() if count > 1]
    if twice:
        raise UserError(f'{path}: has several categories {_some(twice)}: give '
                        'each another name')
    absent = [c for c in classes if c not in known]
    if absent:
        raise UserError(
            f'{path}: has no category {_some(absent)}, but the config has '
            f'such classes: {_set_classes(known, key)}')
    order = tuple(n for n in known if n in classes)
    if order != classes:
        raise UserError(
            f'{path}: lists its categories in the order {_some(order)}, and '
            'mmdet numbers the classes by it, but the config has '
            f'{_some(classes)}: {_set_classes(order, key)}')
    unknown = Counter(
        names[a['category_id']] for a in content['annotations']
        if names[a['category_id']] not in classes)
    return _note_unknown(path, content['annotations'], unknown, known, key)


def _set_classes(names: tuple[str, ...], key: str) -> str:
    listed = (f'({", ".join(map(repr, names))},)' if len(names) <= 20 else
              'the names in the order of the file')
    return (f'set {key}.metainfo.classes to {listed}, also for the other '
            'splits, and num_classes of the heads to their number')


def _note_unknown(path: str, annotations: list[dict], unknown: Counter,
                  known: tuple[str, ...], key: str) -> list[str]:
    """That objects are left out, as their classes are not in the config."""
    if not unknown:
        return []
    every = dict.fromkeys((*known, *unknown))
    return [
        f'{path}: {sum(unknown.values())} of {len(annotations)} annotations '
        'are of categories that the config does not know, '
        f'{_some(list(unknown))}; they are left out. To use them '
        f'{_set_classes(tuple(every), key)}'
    ]


def box_is_outside(box: Sequence[float], image: dict) -> bool:
    """Whether no part of [x, y, width, height] is inside the image.

    Args:
        box: In pixels.
        image: With ``height`` and ``width``.
    """
    x, y, width, height = box
    return (min(x + width, image['width']) <= max(x, 0)
            or min(y + height, image['height']) <= max(y, 0))


def _check_boxes(path: str, content: dict) -> list[str]:
    images = {i['id']: i for i in content['images']}
    outside, reaching = [], []
    for annotation in content['annotations']:
        box = annotation['bbox']
        if (not isinstance(box, list) or len(box) != 4 or not all(
                _is_number(v) for v in box)):
            raise UserError(
                f'{path}: bbox of annotation {annotation["id"]} is {box}, '
                'expected [x, y, width, height] in pixels: correct it')
        image = images[annotation['image_id']]
        x, y, width, height = box
        right, bottom = x + width, y + height
        if (box_is_outside(box, image) or min(width, height) < 1
                or annotation['area'] <= 0):
            outside.append(annotation)
        elif (min(x, y) < -1 or right > image['width'] + 1
              or bottom > image['height'] + 1):
            reaching.append(annotation)

    def say(annotations: list[dict], what: str) -> str:
        first = annotations[0]
        image = images[first['image_id']]
        return (
            f'{path}: {len(annotations)} of {len(content["annotations"])} '
            f'boxes {what}; the first is annotation {first["id"]}, bbox '
            f'{first["bbox"]}, in {image["file_name"]} of {image["width"]} x '
            f'{image["height"]} pixels')

    remedy = ('a box is [x, y, width, height] in pixels, and width and height '
              'of the image are as in `images`: correct what is not')
    if outside and len(outside) == len(content['annotations']):
        raise UserError(
            f'{say(outside, "lie outside their image or are empty")}: '
            f'{remedy}')
    notes = []
    if outside:
        notes.append(
            f'{say(outside, "lie outside their image or are empty")}. They '
            f'are left out; {remedy}')
    if reaching:
        notes.append(
            f'{say(reaching, "reach over the edge of their image")}. They '
            f'are cut there; {remedy}')
    return notes


def _check_images(path: str, folder: str, images: list[dict],
                  key: str) -> None:
    names = [os.path.normpath(i['file_name']) for i in images]
    there = set(_names(folder, {os.path.dirname(n) for n in names}))
    absent = [n for n in names if n not in there]
    if absent:
        raise UserError(
            f'{path}: {len(absent)} of {len(names)} images are not in '
            f'{folder or "."}: {_some(absent)}. Add them, correct '
            f'data_prefix of {key}, or remove them from the file')
    whole = _complete if len(names) <= MANY_IMAGES else os.path.getsize
    damaged = [n for n in names if not whole(os.path.join(folder, n))]
    if damaged:
        raise UserError(
            f'{path}: {len(damaged)} of {len(names)} images in '
            f'{folder or "."} are truncated or no images: {_some(damaged)}. '
            'Copy them again, or remove them from the file')


def _names(folder: str, subfolders: Iterable[str]) -> Iterator[str]:
    for sub in subfolders:
        try:
            with os.scandir(os.path.join(folder, sub) or '.') as entries:
                yield from (os.path.join(sub, e.name) for e in entries)
        except OSError:
            pass  # all that should be in it is absent


def _complete(path: str) -> bool:
    """Whether a JPEG or PNG is whole; only if in doubt it is decoded."""
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(-min(os.path.getsize(path), 64), os.SEEK_END)
        tail = file.read()
    if any(start.startswith(s) and end in tail for s, end in _ENDS.items()):
        return True
    if not path.lower().endswith(('.jpg', '.jpeg', '.png')):
        return start != b''
    try:
        with Image.open(path) as image:
            image.load()
    except Image.DecompressionBombError:  # huge, no more is known
        return True
    except (OSError, SyntaxError, ValueError):  # as PIL reports damage
        return False
    return True


def _some(names: Sequence[str], count: int = 5) -> str:
    return ', '.join(map(repr, names[:count])) + ', ...' * (
        len(names) > count)
