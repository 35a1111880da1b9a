# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Fit a shipped config to toy data: data, size, classes, length, no more."""
import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmxvit.datasets.shapes import CLASSES, SHAPES, STUFF_CLASSES

LAYOUTS = {
    'CocoDataset': 'coco',
    'CocoPanopticDataset': 'coco_panoptic',
    'VOCDataset': 'voc',
    'ImageNet': 'imagenet',
    'ADE20KDataset': 'ade20k',
    'CityscapesDataset': 'cityscapes',
    'BDD100KDataset': 'bdd100k',
}
"""Toy layout that stands for a type of data set."""

# names of ADE20K for the values 1, 2, ... of its masks
_ADE20K = ('wall', 'building', 'sky', 'floor', 'tree', 'ceiling', 'road',
           'bed ')
_METAINFO = dict(
    coco=dict(classes=CLASSES),
    coco_panoptic=dict(
        classes=(*CLASSES, *STUFF_CLASSES),
        thing_classes=CLASSES,
        stuff_classes=STUFF_CLASSES),
    voc=dict(classes=CLASSES),
    imagenet=dict(classes=tuple(sorted(SHAPES))),
    ade20k=dict(classes=_ADE20K),
    # shapes stand for classes of the real data
    cityscapes={},
    bdd100k={})
_OBJECTS = dict(
    num_classes=len(CLASSES),
    num_things_classes=len(CLASSES),
    num_stuff_classes=len(STUFF_CLASSES))
_COUNTS = dict(
    imagenet=dict(num_classes=len(SHAPES)),
    ade20k=dict(num_classes=len(_ADE20K)),
    cityscapes={},
    bdd100k={})
# arguments of transforms that are sizes in pixels
_SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'border', 'input_size')
# the same below the model: those of segmentors
_MODEL_SIZES = ('size', 'crop_size', 'stride')


def _dicts(node: Any) -> Iterator[dict]:
    """All dicts below a part of a config, itself included."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _dicts(child)


def _map(node: Any, change: Callable[[Any], Any]) -> Any:
    """A nested value with its leaves changed."""
    if isinstance(node, dict):
        return {k: _map(v, change) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_map(v, change) for v in node)
    return change(node)


def _kind(part: dict) -> str:
    return str(part.get('type', '')).rpartition('.')[2]


def layout(cfg: Config) -> str:
    """Toy layout of the data that a config is for."""
    (name, ) = {
        LAYOUTS[_kind(part)]
        for part in _dicts(cfg.to_dict()['train_dataloader'])
        if _kind(part) in LAYOUTS
    }
    return name


def _shrink(part: dict, keys: Iterable[str], factor: float) -> None:
    for key in keys:
        if key in part:  # a scale of floats is a ratio
            part[key] = _map(
                part[key], lambda v: round(v * factor)
                if isinstance(v, int) else v)


def _shrink_pipelines(pipelines: Any, factor: float) -> None:
    for transform in _dicts(pipelines):
        if 'type' in transform:
            _shrink(transform, _SIZES, factor)


def fit(cfg: Config, data: Path, size: int, batch_size: int,
        length: int) -> Config:
    """Bring a shipped config to toy data.

    Args:
        cfg: The config; it stays as it is.
        data: Folder of toy data in the layout that :func:`layout` names.
        size: The short side, in pixels, to which images are resized for
            testing; all other sizes of the pipelines, and of the windows of a
            segmentor, shrink with it.
        batch_size: Of training and testing.
        length: Of the training: epochs, or iterations where the config counts
            these. Schedules stay as they are.

    Returns:
        Config: The fitted config.
    """
    name = layout(cfg)
    new = copy.deepcopy(cfg).to_dict()
    tested = [
        t for t in _dicts(new['test_dataloader'])
        if t.get('type') in ('Resize', 'CenterCrop', 'ResizeEdge')
    ]
    test_size = tested[-1].get('scale', tested[-1].get('crop_size'))
    factor = size / (min(test_size) if isinstance(test_size, (
        list, tuple)) else test_size)
    root = new['data_root']
    folder = data / 'VOCdevkit' if name == 'voc' else data

    def move(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(root):
            return str(folder / value[len(root):].lstrip('/'))
        return value

    for split in ('train', 'val', 'test'):
        loader = new[f'{split}_dataloader']
        folders = 'train2017' if split == 'train' else 'val2017'
        for part in _dicts(loader):
            if _kind(part) in LAYOUTS:
                part['metainfo'] = _METAINFO[name]
            if _kind(part) == 'CocoDataset':  # also one of other names
                part['ann_file'] = f'annotations/instances_{folders}.json'
                part['data_prefix'] = dict(img=f'{folders}/')
            if part.get('type') == 'RepeatDataset':
                part['times'] = 1
        _shrink_pipelines(loader, factor)
        loader = _map(loader, move)
        loader.update(
            batch_size=batch_size, num_workers=0, persistent_workers=False)
        new[f'{split}_dataloader'] = loader
    for split in ('val', 'test'):
        new[f'{split}_evaluator'] = _map(new[f'{split}_evaluator'], move)
        new[f'{split}_evaluator'].pop('topk', None)
        if name == 'coco':
            new[f'{split}_evaluator']['ann_file'] = str(
                folder / 'annotations/instances_val2017.json')
    counts = _COUNTS.get(name, _OBJECTS)
    for part in _dicts([new['model'], new.get('data_preprocessor', {})]):
        part.update({k: v for k, v in counts.items() if k in part})
    _shrink_pipelines(new.get('tta_pipeline'), factor)
    for key in ('data_preprocessor', 'test_cfg'):
        if new['default_scope'] == 'mmseg':
            _shrink(new['model'][key], _MODEL_SIZES, factor)
    unit = 'iters' if 'max_iters' in new['train_cfg'] else 'epochs'
    new['train_cfg'].update({f'max_{unit}': length, 'val_interval': length})
    new['auto_scale_lr']['base_batch_size'] = batch_size
    new['default_hooks']['logger']['interval'] = 1
    return Config(new)
