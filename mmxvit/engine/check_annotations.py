# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Mistakes in COCO annotations that mmdet passes over in silence."""
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.registry import DATASETS
from PIL import Image

from .command import UserError

MANY_IMAGES = 20_000
"""Of more images than these only the names are looked at."""

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
    _check_format(path, content)
    classes = _classes(dataset)
    notes = _check_categories(path, content, classes, key)
    notes += _check_boxes(path, content)
    folder = os.path.join(root, (dataset.get('data_prefix') or {}).get(
        'img', ''))
    _check_images(
        path, folder, [i['file_name'] for i in content['images']], key)
    return notes


def _read(path: str) -> dict:
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # of JSON, or of the encoding
        raise UserError(
            f'{path}: is damaged or no JSON file ({error}); write it again, '
            'or name another one in ann_file') from error


def _check_format(path: str, content: object) -> None:
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or any(
            not isinstance(content.get(name), list) for name in lists):
        raise UserError(
            f'{path}: is not in the format of COCO, an object with the lists '
            f'{", ".join(lists)}; convert the annotations to it')
    wanted = dict(
        images=('id', 'file_name', 'height', 'width'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
        categories=('id', 'name'))
    for name, keys in wanted.items():
        for i, entry in enumerate(content[name]):
            absent = [k for k in keys if k not in entry]
            if absent:
                raise UserError(
                    f'{path}: {name}[{i}] has no {", ".join(absent)}; add '
                    f'{"it" if len(absent) == 1 else "them"}')


def _classes(dataset: dict) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        kind = registry.get(dataset['type'])
    # may name a file with one class per line
    return tuple(kind._load_metainfo(dataset.get('metainfo'))['classes'])


def _check_categories(path: str, content: dict, classes: tuple[str, ...],
                      key: str) -> list[str]:
    names = {c['id']: c['name'] for c in content['categories']}
    known = ', '.join(map(repr, names.values()))
    remedy = (f'set {key}.metainfo=dict(classes=({known},)), also for the '
              'other splits, and num_classes of the heads to their number')
    images = {i['id'] for i in content['images']}
    for annotation in content['annotations']:
        category, image = annotation['category_id'], annotation['image_id']
        if category not in names:
            raise UserError(
                f'{path}: annotation {annotation["id"]} has category_id '
                f'{category}, which is not in `categories` of the file '
                f'({known}): add it there, or correct the annotation')
        if image not in images:
            raise UserError(
                f'{path}: annotation {annotation["id"]} has image_id {image}, '
                'which is not in `images` of the file: add it there, or '
                'remove the annotation')
    absent = [c for c in classes if c not in names.values()]
    if absent:
        raise UserError(
            f'{path}: has no category {_some(absent)}, but the config has '
            f'such classes: {remedy}')
    unknown = Counter(
        names[a['category_id']] for a in content['annotations']
        if names[a['category_id']] not in classes)
    return [
        f'{path}: {count} of {len(content["annotations"])} annotations are '
        f'of category {name!r}, which the config does not know; they are '
        f'left out. To use them {remedy}'
        for name, count in unknown.items()
    ]


def _check_boxes(path: str, content: dict) -> list[str]:
    images = {i['id']: i for i in content['images']}
    outside, reaching = [], []
    for annotation in content['annotations']:
        box = annotation['bbox']
        if (not isinstance(box, list) or len(box) != 4 or not all(
                isinstance(v, (int, float)) and math.isfinite(v)
                for v in box)):
            raise UserError(
                f'{path}: bbox of annotation {annotation["id"]} is {box}, '
                'expected [x, y, width, height] in pixels: correct it')
        image = images[annotation['image_id']]
        x, y, width, height = box
        right, bottom = x + width, y + height
        if (min(right, image['width']) <= max(x, 0)
                or min(bottom, image['height']) <= max(y, 0)
                or width < 1 or height < 1):
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


def _check_images(path: str, folder: str, names: list[str], key: str) -> None:
    there = set(_names(folder, {os.path.dirname(n) for n in names}))
    absent = [n for n in names if n not in there]
    if absent:
        raise UserError(
            f'{path}: {len(absent)} of {len(names)} images are not in '
            f'{folder or "."}: {_some(absent)}. Add them, correct '
            f'{key}.data_prefix.img, or remove them from the file')
    if len(names) > MANY_IMAGES:
        return
    damaged = [n for n in names if not _complete(os.path.join(folder, n))]
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
    """Whether an image ends as it should; only if in doubt it is decoded."""
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(-min(os.path.getsize(path), 64), os.SEEK_END)
        tail = file.read()
    if any(start.startswith(s) and end in tail for s, end in _ENDS.items()):
        return True
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # as PIL reports damage
        return False
    return True


def _some(names: list[str], count: int = 5) -> str:
    return ', '.join(map(repr, names[:count])) + ', ...' * (
        len(names) > count)
