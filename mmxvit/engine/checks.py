# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Mistakes in a config that are better found before a run than in it."""
import os
import os.path as osp
import re
from collections.abc import Iterator, Sequence

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmxvit.models.backbones.base import PyramidBackbone

from .check_annotations import (
    check_coco,
    check_masks,
    check_panoptic,
    check_voc,
    class_names,
    metainfo,
)
from .command import UserError, shipped, tool_command, type_name

# Dataset type -> layout of tools/dataset_tools/make_shapes.py
_LAYOUTS = (
    ('panoptic', 'coco_panoptic'),
    ('coco', 'coco'),
    ('cityscapes', 'cityscapes'),
    ('ade', 'ade20k'),
    ('bdd', 'bdd100k'),
    ('voc', 'voc'),
    ('imagenet|custom', 'imagenet'),
)
_LOOK_INTO = {
    'CocoDataset': check_coco,
    'CocoPanopticDataset': check_panoptic,
    'VOCDataset': check_voc,
}
_LOOK_INTO_MASKS = ('mmxvit.SegDataset', 'mmxvit.ADE20KDataset',
                    'mmxvit.CityscapesDataset', 'mmxvit.BDD100KDataset')
_OF_SEGMENTORS = ('model.decode_head', 'model.auxiliary_head')
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
# They fetch their files by themselves.
_DOWNLOADED = ('CIFAR', 'MNIST')


def check_data(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Check that what a run reads exists; of many data sets what is in it.

    Looks at data sets and evaluators of ``splits`` (``'train'``, ``'val'``,
    ``'test'``), inside wrappers such as ``RepeatDataset`` too. Data on remote
    storage is not checked. Of several processes only the first looks into
    files.

    Returns:
        list[str]: What of the data will not be used.

    Raises:
        UserError: Something is missing; lists all of it with the keys of the
            config and the command that makes toy data. Or
            :mod:`.check_annotations` found a mistake.
    """
    missing, roots, absent_sets = [], [], []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, dataset in _datasets(
                loader.get('dataset'), f'{split}_dataloader.dataset'):
            absent = [
                f'  {kind} {path}  ({key}.{name})'
                for kind, path, name in _expected(dataset)
                if not osp.exists(path)
            ]
            if not absent:
                continue
            missing += absent
            absent_sets.append(dataset)
            root = dataset.get('data_root')
            if root is not None:
                roots.append(f'{key}.data_root is {root!r}' +
                             ('' if osp.isdir(root) else ', no such folder'))
        missing += _absent_for_evaluation(cfg, split)
    if not missing:
        return _look_into_files(cfg, splits)
    change = 'data_root=FOLDER' if 'data_root' in cfg else 'KEY=VALUE'
    lines = [
        'data not found:', *missing, *roots,
        f'Correct the config, or use --cfg-options {change}; relative paths '
        'count from the current folder.'
    ]
    lines += _toy_data(absent_sets)
    raise UserError('\n'.join(lines))


def _toy_data(datasets: Sequence[dict]) -> list[str]:
    """The commands that make toy data for the first of these data sets."""
    dataset = next(filter(_layout, datasets), None)
    if dataset is None:
        return []
    make, layout = tool_command('dataset_tools/make_shapes.py'), _layout(
        dataset)
    if layout != 'coco':
        return [
            'Toy data in this layout, for a config with its classes '
            '(docs/user_guides/toy_data.md):',
            f'  {make} data/toy --layout {layout}'
        ]
    root = dataset.get('data_root')
    if (root and not osp.exists(root) and _kind(dataset) == 'CocoDataset'
            and 'classes' not in (dataset.get('metainfo') or {})
            and str(dataset.get('ann_file')).startswith(
                'annotations/instances_')):
        return [
            "Without data, this config can be tried on toy data under COCO's "
            'class names:',
            f'  {make} {osp.join(root, "")} --coco-names'
        ]
    return [
        'Without data, a detector can be tried on toy data:',
        f'  {make} data/shapes --layout coco',
        f'  {tool_command("train.py")} ' + shipped(
            'configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py')
    ]


def _look_into_files(cfg: Config, splits: Sequence[str]) -> list[str]:
    notes, seen = [], []
    if any(os.environ.get(rank, '0') != '0' for rank in _RANKS):
        return notes
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, dataset in _datasets(
                loader.get('dataset'), f'{split}_dataloader.dataset'):
            files = [dataset.get(k) for k in (
                'data_root', 'ann_file', 'data_prefix', 'metainfo')]
            look = dataset.get('ann_file') and _LOOK_INTO.get(_kind(dataset))
            if type_name(dataset) in _LOOK_INTO_MASKS:
                look = check_masks
                check = _check_tasks if _kind(
                    dataset) == 'BDD100KDataset' else _check_classes
                check(cfg.get('model') or {}, dataset, key)
            if look and any(_expected(dataset)) and files not in seen:
                seen.append(files)  # such as of a test on the validation set
                notes += look(dataset, key)
    return notes


def _check_classes(model: dict, dataset: dict, key: str) -> None:
    """Segmentors' heads have as many classes as the data, or a label is out
    of bounds in the loss, and classes beyond those of the data have no name.
    """
    count = len(class_names(dataset))
    for name, head in _heads(model):
        given = head.get('num_classes', count)
        if name.startswith(_OF_SEGMENTORS) and given != count:
            raise UserError(
                f'{name}.num_classes is {given}, but {key} has {count} '
                f'classes: set {name}.num_classes={count}, or correct '
                f'metainfo.classes of the data set')


def _check_tasks(model: dict, dataset: dict, key: str) -> None:
    """The same for several tasks; heads are in the order of the tasks."""
    heads = model.get('decode_head') or {}
    tasks = metainfo(dataset)['tasks']
    if not isinstance(heads, dict) or 'type' in heads:  # not by task
        return
    if list(heads) != list(tasks):
        raise UserError(
            f'model.decode_head has {", ".join(heads)}, but the tasks of '
            f'{key} are {", ".join(tasks)}: name the same, in the same order, '
            'in model.decode_head and metainfo.tasks')
    for task, classes in tasks.items():
        given = heads[task].get('num_classes')
        if given is not None and given != len(classes):
            raise UserError(
                f'model.decode_head.{task}.num_classes is {given}, but '
                f'metainfo.tasks.{task} of {key} has {len(classes)} classes '
                f'({", ".join(classes)}): set it to {len(classes)}, or '
                'correct metainfo.tasks, in the data sets of all splits')


def _absent_for_evaluation(cfg: Config, split: str) -> list[str]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    if isinstance(evaluators, dict):
        evaluators = [evaluators]
    return [
        f'  {kind} {evaluator[name]}  ({split}_evaluator.{name})'
        for evaluator in evaluators
        for kind, name in (('file  ', 'ann_file'), ('folder', 'seg_prefix'))
        if _is_local(evaluator.get(name)) and not osp.exists(evaluator[name])
    ]


def _datasets(dataset: dict | None, key: str) -> Iterator[tuple[str, dict]]:
    """Data sets without their wrappers, with their keys in the config."""
    if not isinstance(dataset, dict):
        return
    if isinstance(dataset.get('dataset'), dict):
        yield from _datasets(dataset['dataset'], f'{key}.dataset')
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for i, part in enumerate(dataset['datasets']):
            yield from _datasets(part, f'{key}.datasets.{i}')
    else:
        yield key, dataset


def _is_local(path: object) -> bool:
    return isinstance(path, str) and path != '' and '://' not in path


def _expected(dataset: dict) -> Iterator[tuple[str, str, str]]:
    """(kind, path, key) of what a data set reads."""
    root = dataset.get('data_root') or ''
    if (dataset.get('backend_args') or dataset.get('file_client_args')
            or '://' in root
            or any(name in _kind(dataset) for name in _DOWNLOADED)):
        return
    ann_file = dataset.get('ann_file')
    if _is_local(ann_file):
        yield 'file  ', osp.join(root, ann_file), 'ann_file'
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):  # mmpretrain
        prefixes = dict(data_prefix=prefixes)
    else:
        prefixes = {f'data_prefix.{k}': v for k, v in prefixes.items()}
    if not any(prefixes.values()) and dataset.get('split') and not ann_file:
        if _kind(dataset) in ('ImageNet', 'ImageNet21k'):
            prefixes = dict(split=dataset['split'])
        else:  # such as CUB: where a split is in the root is not known here
            prefixes = dict(data_root='')
    labels_read = any('Annotations' in type_name(step)
                      for step in dataset.get('pipeline') or [])
    for name, prefix in prefixes.items():
        if 'seg' in name and not labels_read:
            continue
        if _is_local(prefix) or (root and prefix == ''):
            yield 'folder', osp.join(root, prefix), name


def _layout(dataset: dict) -> str | None:
    kind = _kind(dataset).lower()
    return next((layout for pattern, layout in _LAYOUTS
                 if re.search(pattern, kind)), None)


def check_channels(cfg: Config) -> None:
    """Check neck and heads of ``cfg.model`` against the backbone's maps.

    Done for backbones of this package and subclasses of theirs; others do
    not tell their channels, and are not built here. Necks and heads of
    unknown kind are only refused when they expect a number of channels that
    no map has.

    Raises:
        UserError: They do not match, the message has the right ones; or the
            backbone refuses its own arguments.
    """
    model = cfg.model
    backbone_cfg = model.get('backbone')
    if not isinstance(backbone_cfg, dict):
        return
    with DefaultScope.overwrite_default_scope(
            cfg.get('default_scope', 'mmengine')):
        backbone = _build_backbone(backbone_cfg)
        if backbone is None:
            return
        maps = _Maps(backbone_cfg, backbone)
        neck = model.get('neck')
        if isinstance(neck, (list, tuple)):
            neck = neck[0] if neck else None
        if neck is None or _kind(neck) == 'GlobalAveragePooling':
            _check_heads(model, maps)
        else:
            _check_neck(model, neck, maps)


def _kind(cfg: dict) -> str:
    return type_name(cfg).rpartition('.')[2]


def _build_backbone(cfg: dict, **changes: object) -> nn.Module | None:
    """The backbone without its weights, if it is one of ours."""
    kind = cfg.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, PyramidBackbone)):
        return None
    cfg = {**cfg, 'init_cfg': None, **changes}
    try:
        return MODELS.build(cfg)
    except (TypeError, ValueError) as error:
        hint = ('; if it is left from a backbone that the config inherits, '
                'write _delete_=True into model.backbone'
                if 'unexpected keyword' in str(error) else '')
        raise UserError(f'model.backbone: {error}{hint}') from error


class _Maps:
    """What a backbone puts out."""

    def __init__(self, cfg: dict, backbone: nn.Module) -> None:
        self.cfg = cfg
        self.channels = list(backbone.out_channels)
        self.strides = list(backbone.out_strides)
        self.indices = tuple(backbone.out_indices)

    def __str__(self) -> str:
        return (f'backbone {type_name(self.cfg)} gives maps of '
                f'{_join(self.channels)} channels (strides '
                f'{_join(self.strides)}; out_indices={self.indices})')

    def last(self, count: int) -> '_Maps':
        """The last ``count`` maps that this backbone can give."""
        if count == len(self.channels):
            return self
        every = _build_backbone(self.cfg, out_indices=None)
        wanted = tuple(every.out_indices)[-count:]
        return _Maps(self.cfg, _build_backbone(self.cfg, out_indices=wanted))


def _join(values: Sequence[object]) -> str:
    return ', '.join(map(str, values))


def _refuse(key: str, value: object, maps: _Maps, remedy: str) -> None:
    raise UserError(f'{key} is {value}, but {maps}: set {remedy}')


# Necks whose in_channels are those of all maps, in order.
_ONE_INPUT_PER_MAP = {
    'ChannelMapper', 'CSPNeXtPAFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'HRFPN',
    'JPU', 'MLANeck', 'MultiLevelNeck', 'NASFCOS_FPN', 'NASFPN', 'PAFPN',
    'SSDNeck', 'SSH', 'YOLOPAN', 'YOLOV3Neck', 'YOLOXPAFPN'
}


def _check_neck(model: dict, neck: dict, maps: _Maps) -> None:
    key = 'model.neck.in_channels'
    given = neck.get('in_channels')
    if given is None:
        return
    if isinstance(given, int) or _kind(neck) not in _ONE_INPUT_PER_MAP:
        values = [given] if isinstance(given, int) else given
        if not set(values) <= set(maps.channels):
            _refuse(key, given, maps, f'{key} to the channels of these maps')
        return
    given = list(given)
    fitting = maps.last(len(given))
    right = fitting.channels
    if _kind(neck) == 'YOLOV3Neck':  # starts from the last map
        right = right[::-1]
    # The number of maps is that of the levels of neck and head: it stays.
    changes = {'model.backbone.out_indices': (maps.indices, fitting.indices),
               key: (given, right)}
    if _kind(neck) == 'SSDNeck':  # the maps themselves, then extra layers
        outs = right + list(neck.get('out_channels', ()))[len(given):]
        head = model.get('bbox_head') or {}
        changes['model.neck.out_channels'] = (
            list(neck.get('out_channels', ())), outs)
        changes['model.bbox_head.in_channels'] = (
            list(head.get('in_channels', outs)), outs)
    wrong = {k: v for k, v in changes.items() if v[0] != v[1]}
    if wrong:
        name = key if key in wrong else next(iter(wrong))
        _refuse(name, wrong[name][0], maps,
                ' and '.join(f'{k}={v[1]}' for k, v in wrong.items()))


def _check_heads(model: dict, maps: _Maps) -> None:
    """Check heads that take the maps of the backbone themselves."""
    for key, head in _heads(model):
        given = head.get('in_channels')
        if given is None:
            continue
        in_key = f'{key}.in_channels'
        if key in ('model.rpn_head', 'model.bbox_head'):
            values = [given] if isinstance(given, int) else given
            if not set(values) <= set(maps.channels):
                _refuse(in_key, given, maps,
                        f'{in_key} to the channels of these maps')
            continue
        # mmseg's in_index; mmpretrain's heads take the last map
        one = isinstance(given, int)
        index = head.get('in_index', -1 if one else None)
        count = len(maps.channels)
        picked = (list(range(count)) if index is None else
                  [index] if isinstance(index, int) else list(index))
        if any(not -count <= i < count for i in picked):
            raise UserError(
                f'{key}.in_index is {index}, but {maps}: set {key}.in_index '
                f'to positions in that list, 0 to {count - 1}, and {in_key} '
                'to their channels')
        right = [maps.channels[i] for i in picked]
        if ([given] if one else list(given)) != right:
            at = '' if 'in_index' not in head else f' (in_index={index})'
            _refuse(in_key, given, maps,
                    f'{in_key}={right[0] if one else right}{at}')


def _heads(model: dict) -> Iterator[tuple[str, dict]]:
    for name in ('decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head',
                 'head'):
        head = model.get(name)
        if isinstance(head, dict) and 'type' not in head:  # one for each task
            yield from ((f'model.{name}.{task}', part)
                        for task, part in head.items())
            continue
        for i, part in enumerate(
                head if isinstance(head, (list, tuple)) else [head]):
            if isinstance(part, dict):
                yield (f'model.{name}' if part is head else
                       f'model.{name}.{i}'), part
