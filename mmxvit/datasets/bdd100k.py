# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
from itertools import product
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmxvit.engine.command import UserError
from mmxvit.registry import DATASETS

from .label_masks import IGNORED
from .seg_dataset import (
    MASKS_REMEDY,
    check_files,
    image_folder,
    list_files,
    refuse_other_labels,
)
from .shapes import (
    DRIVABLE_CLASSES,
    LANE_BACKGROUND,
    LANE_CATEGORIES,
    LANE_DIRECTIONS,
    LANE_STYLES,
    lane_code,
)

BACKGROUND = 'background'

_DRIVABLE = {
    value: {name} if name == BACKGROUND else {'drivable', name}
    for value, name in enumerate(DRIVABLE_CLASSES)
}
_DRIVABLE_MAPS = {0: {BACKGROUND}, 1: _DRIVABLE[0], 2: _DRIVABLE[1]}
_LANE = {LANE_BACKGROUND: {BACKGROUND}} | {
    lane_code(*names): {'lane', *names}
    for names in product(LANE_CATEGORIES, LANE_DIRECTIONS, LANE_STYLES)
}

_COLOURS = dict(
    zip((BACKGROUND, 'drivable', 'direct', 'alternative', 'lane',
         *LANE_CATEGORIES, *LANE_DIRECTIONS, *LANE_STYLES),
        ((0, 0, 0), (0, 160, 80), (0, 160, 80), (0, 110, 220), (230, 40, 60),
         (250, 170, 30), (120, 120, 220), (255, 255, 255), (255, 220, 0),
         (190, 100, 60), (150, 60, 200), (230, 40, 60), (255, 140, 0),
         (230, 40, 60), (60, 200, 230), (230, 40, 60), (255, 220, 0)),
        strict=True))


@DATASETS.register_module()
class BDD100KDataset(BaseSegDataset):
    """Drivable area and lane lines of BDD100K, two label maps per image.

    ``metainfo.tasks`` has the classes of each task, 'background' first. What
    a mask's value is called decides its label: any class of the task that has
    one of its names; if there is none, the pixel is ignored.

    * ``drivable``: 'drivable', or 'direct' and 'alternative';
    * ``lane``: 'lane', or categories ('crosswalk', 'road curb', 'double
      white', ...), or 'parallel' and 'vertical', or 'solid' and 'dashed'.

    By default the two binary tasks of LOLViT's paper (section 5.3).

    Values of the masks as in the published data and its tools: drivable 0
    direct, 1 alternative, 2 background; lane 255 background, else category in
    bits 0-2, style in bit 4, direction in bit 5.

    Args:
        drivable_maps: The masks of drivable areas are those of the older
            ``drivable_maps``: 0 background, 1 direct, 2 alternative, and
            names ``<image>_drivable_id.png``.
        img_suffix: How names of images end.
        seg_map_suffix: How names of masks end, by task; '.png' for others.
        kwargs: As in BaseSegDataset; ``data_prefix`` has the folders
            ``img_path`` and, by its name, one for each task.

    Raises:
        UserError: A task or class is not known, a folder has no images, an
            image has no mask, or :func:`refuse_other_labels`.
    """

    METAINFO = dict(
        tasks=dict(
            drivable=(BACKGROUND, 'drivable'), lane=(BACKGROUND, 'lane')))

    def __init__(self,
                 drivable_maps: bool = False,
                 img_suffix: str = '.jpg',
                 seg_map_suffix: dict[str, str] | None = None,
                 **kwargs: Any) -> None:
        refuse_other_labels('BDD100KDataset', kwargs)
        self.values = dict(
            drivable=_DRIVABLE_MAPS if drivable_maps else _DRIVABLE,
            lane=_LANE)
        given = {} if seg_map_suffix is None else seg_map_suffix
        if not isinstance(given, dict) or not given.keys() <= self.values.keys(
        ):
            raise UserError(
                f'seg_map_suffix of the data set is {given!r}: give the ends '
                "of the masks' names by task, "
                f"{dict.fromkeys(self.values, '.png')}")
        self.suffixes = dict(
            drivable='_drivable_id.png' if drivable_maps else '.png') | given
        super().__init__(img_suffix=img_suffix, **kwargs)
        self.label_values = {
            task: self._label_values(task, classes)
            for task, classes in self.metainfo['tasks'].items()
        }
        self.values_remedy = {
            task: f'masks of the task {task} have '
            f'{", ".join(map(str, sorted(values)))}; name the folder of such '
            f'masks in data_prefix.{task} of the data set, or write them '
            'again'
            for task, values in self.label_values.items()
        }

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        """Add the classes of all tasks after one another, for pictures."""
        meta = super()._load_metainfo(metainfo)
        names = [BACKGROUND]
        for task, classes in meta['tasks'].items():
            if len(classes) < 2 or classes[0] != BACKGROUND:
                raise UserError(
                    f'metainfo.tasks.{task} is {classes}: name two classes '
                    f'or more, the first {BACKGROUND!r}')
            names += classes[1:]
        meta['classes'] = tuple(names)
        meta.setdefault('palette', [
            _COLOURS.get(name, _COLOURS['lane']) for name in names])
        return meta

    def _label_values(self, task: str,
                      classes: tuple[str, ...]) -> dict[int, int]:
        if task not in self.values:
            raise UserError(f'metainfo.tasks has {task!r}, but BDD100K has '
                            f'{" and ".join(self.values)}')
        values = self.values[task]
        known = set().union(*values.values())
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise UserError(
                f'metainfo.tasks.{task} has {", ".join(unknown)}; known are '
                f'{", ".join(sorted(known))}')
        labels = {}
        for value, names in values.items():
            fitting = [i for i, name in enumerate(classes) if name in names]
            if len(fitting) > 1:
                both = ' and '.join(classes[i] for i in fitting)
                raise UserError(f'metainfo.tasks.{task}: {both} overlap; '
                                'leave one of them out')
            labels[value] = fitting[0] if fitting else IGNORED
        return labels

    def load_data_list(self) -> list[dict]:
        """Images with their masks, which have the same names."""
        folder = image_folder(self.data_prefix)
        names = [
            name.removesuffix(self.img_suffix) for name in list_files(
                folder, self.img_suffix, 'data_prefix.img_path',
                'img_suffix', self.backend_args)
        ]
        if isinstance(self._indices, int):  # the others need no masks
            names = names[:self._indices] if self._indices >= 0 else names[
                self._indices:]
        masks = {}
        for task in self.metainfo['tasks']:
            prefix = self.data_prefix.get(task)
            if prefix is None:
                raise UserError(f'data_prefix.{task}: name the folder of the '
                                'masks')
            suffix = self.suffixes.get(task, '.png')
            masks[task] = [
                os.path.join(prefix, name + suffix) for name in names
            ]
            check_files(masks[task], prefix, suffix, f'data_prefix.{task}',
                        f'seg_map_suffix.{task}', MASKS_REMEDY,
                        self.backend_args)
        return [
            dict(
                img_path=os.path.join(folder, name + self.img_suffix),
                seg_map_paths=dict(zip(masks, paths, strict=True)),
                reduce_zero_label=False,
                seg_fields=[])
            for name, *paths in zip(names, *masks.values(), strict=True)
        ]

    def get_data_info(self, idx: int) -> dict:
        """With the labels of the masks' values, by task."""
        info = super().get_data_info(idx)
        info['label_values'] = self.label_values
        info['values_remedy'] = self.values_remedy
        info['tasks'] = {
            task: len(classes)
            for task, classes in self.metainfo['tasks'].items()
        }
        return info
