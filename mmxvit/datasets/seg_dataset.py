# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmseg.datasets
from mmengine import fileio

from mmxvit.engine.command import UserError, type_name
from mmxvit.registry import DATASETS

from .label_masks import IGNORED, label_values


def list_files(folder: str, suffix: str, key: str, suffix_key: str,
               backend_args: dict | None = None) -> list[str]:
    """Files in a folder and below it, sorted, relative to it.

    Args:
        folder: The folder.
        suffix: How their names end.
        key: Of the folder in the config of the data set.
        suffix_key: Of the suffix.
        backend_args: Of MMEngine's file backend.

    Raises:
        UserError: There is none.
    """
    names = list(
        fileio.list_dir_or_file(
            folder, list_dir=False, recursive=True, backend_args=backend_args)
    ) if fileio.isdir(folder, backend_args) else []
    found = sorted(n for n in names if n.endswith(suffix))
    if not found:
        endings = Counter(os.path.splitext(n)[1] for n in names)
        there = ' and '.join(
            f'{count} *{ending}' for ending, count in endings.most_common(3))
        raise UserError(
            f'{folder}: has no file *{suffix}, it '
            f'{f"has {there}" if there else "is empty or missing"}: put the '
            f'files there, or correct {key} or {suffix_key} of the data set')
    return found


def check_files(paths: Sequence[str], folder: str, suffix: str, key: str,
                suffix_key: str, remedy: str,
                backend_args: dict | None = None) -> None:
    """Check that files of a data set are in their folder.

    Args:
        paths: Of the files, with the folder.
        folder: As in :func:`list_files`, like the other arguments.
        suffix: As well.
        key: As well.
        suffix_key: As well.
        remedy: What to do if one is not there.
        backend_args: As well.

    Raises:
        UserError: One is not there.
    """
    there = {
        os.path.join(folder, name)
        for name in list_files(folder, suffix, key, suffix_key, backend_args)
    }
    absent = [os.path.relpath(p, folder) for p in paths if p not in there]
    if absent:
        raise UserError(
            f'{folder}: {len(absent)} of {len(paths)} files are not there: '
            f'{", ".join(absent[:5])}{", ..." * (len(absent) > 5)}. {remedy}, '
            f'or correct {key} or {suffix_key} of the data set')


def image_folder(data_prefix: Mapping[str, str]) -> str:
    """``img_path`` of ``data_prefix``, or a UserError if it has none."""
    if data_prefix.get('img_path') is None:
        raise UserError('data_prefix.img_path of the data set: name the '
                        'folder of the images')
    return data_prefix['img_path']


MASKS_REMEDY = ('Each image needs a mask of its name: add the files, remove '
                'the images without')


def refuse_other_labels(dataset: str, kwargs: Mapping[str, Any],
                        reduce_zero_label: bool = False) -> None:
    """Arguments of mmseg that would change nothing, for published masks.

    Args:
        dataset: Name for the message.
        kwargs: Its arguments.
        reduce_zero_label: What it is of these masks.

    Raises:
        UserError: One has another value than that of these masks.
    """
    for name, value in (('ignore_index', IGNORED),
                        ('reduce_zero_label', reduce_zero_label)):
        if kwargs.get(name, value) != value:
            raise UserError(
                f'{dataset}: {name}={kwargs[name]!r} would have no effect, '
                'its masks are read as they are published; take it out, or, '
                'for masks of your own, use mmxvit.SegDataset, whose '
                'ignore_index may be a list or {value: label}')


class _CheckedMasks:
    """Mistakes in folders and masks are named; before a BaseSegDataset.

    Attributes:
        label_values: Label of each value that a mask may have, for
            ``mmxvit.LoadSegAnnotations``.
        values_remedy: What to do about another value.
    """
    label_values: dict[int, int]
    values_remedy: str

    def load_data_list(self) -> list[dict]:
        """Images and their masks: all in the folders, or those of a list.

        Raises:
            UserError: A folder or the list is empty, or a file is missing.
        """
        images = image_folder(self.data_prefix)
        of_images = (self.img_suffix, 'data_prefix.img_path', 'img_suffix')
        if self.ann_file:
            names = self._listed()
            check_files(
                [os.path.join(images, n + self.img_suffix) for n in names],
                images, *of_images, f'{self.ann_file} names them: correct it',
                self.backend_args)
        else:
            names = [n.removesuffix(self.img_suffix) for n in list_files(
                images, *of_images, self.backend_args)]
        data_list = [
            dict(
                img_path=os.path.join(images, name + self.img_suffix),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[]) for name in names
        ]
        folder = self.data_prefix.get('seg_map_path')
        if folder is not None:  # None: images to predict
            paths = [os.path.join(folder, name + self.seg_map_suffix)
                     for name in names]
            check_files(paths, folder, self.seg_map_suffix,
                        'data_prefix.seg_map_path', 'seg_map_suffix',
                        MASKS_REMEDY, self.backend_args)
            for info, path in zip(data_list, paths, strict=True):
                info['seg_map_path'] = path
        return data_list

    def _listed(self) -> list[str]:
        """Names in ``ann_file``, without suffix."""
        if not fileio.isfile(self.ann_file, self.backend_args):
            raise UserError(f'{self.ann_file}: no such file; correct ann_file '
                            'of the data set')
        text = fileio.get_text(
            self.ann_file, backend_args=self.backend_args)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        wrong = [line for line in lines if len(line.split()) > 1]
        if wrong or not lines:
            found = f'has the line {wrong[0]!r}' if wrong else 'is empty'
            raise UserError(
                f'{self.ann_file}: {found}; ann_file has the name of one '
                'image in each line, without folder and suffix')
        return [line.removesuffix(self.img_suffix) for line in lines]

    def get_data_info(self, idx: int) -> dict:
        """With what ``mmxvit.LoadSegAnnotations`` needs."""
        info = super().get_data_info(idx)
        info['label_values'] = self.label_values
        info['values_remedy'] = self.values_remedy
        return info

    def _published(self, values: dict[int, int], known: str) -> None:
        """Take the values of published masks, by index of METAINFO's class;
        ``metainfo.classes`` may name some of these only."""
        to = self.label_map or {}
        self.label_values = {v: to.get(i, i) for v, i in values.items()}
        self.values_remedy = (
            f'those of {type(self).__name__} have {known}; for masks of your '
            'own use mmxvit.SegDataset')


@DATASETS.register_module()
class SegDataset(_CheckedMasks, mmseg.datasets.BaseSegDataset):
    """A folder of images and one of masks, with named mistakes.

    mmseg's BaseSegDataset for data of one's own. Which values of the masks
    are ignored is said here, in one place; ``mmxvit.LoadSegAnnotations``
    applies it. Colours of the classes (``metainfo.palette``) may be left
    out.

    Args:
        ignore_index: What values of the masks are: 255, or another one, if
            that is ignored and all others are class indices; a list if
            several are; or ``{value: label}`` with all values that occur,
            label 255 for those to ignore.
        kwargs: As in BaseSegDataset; ``metainfo.classes`` is needed.

    Raises:
        UserError: Classes are missing, a folder has no images, an image has
            no mask, or the pipeline would not apply ``ignore_index``.
    """

    def __init__(self,
                 ignore_index: int | Sequence[int] | Mapping[int, int] = 255,
                 **kwargs: Any) -> None:
        if kwargs.get('reduce_zero_label'):
            raise UserError('SegDataset: instead of reduce_zero_label set '
                            'ignore_index={0: 255, 1: 0, 2: 1, ...}')
        if any(name == 'LoadAnnotations' for name in _steps(
                kwargs.get('pipeline') or [])):
            raise UserError(
                "SegDataset: mmseg's LoadAnnotations in the pipeline takes no "
                'notice of ignore_index; write mmxvit.LoadSegAnnotations')
        metainfo = self._load_metainfo(kwargs.get('metainfo'))
        classes = metainfo.get('classes')  # of a file, if it names one
        if not classes:
            raise UserError('SegDataset: set metainfo=dict(classes=(...)) to '
                            'the names of the classes, in the order of their '
                            'indices')
        if isinstance(classes, str):
            raise UserError(
                f'SegDataset: metainfo.classes is {classes!r}, which is no '
                'file: write the names as (\'name\', ...), or name a file '
                'with one in each line')
        count = len(classes)
        if count < 2:
            raise UserError(
                f'SegDataset: metainfo.classes is {list(classes)}; heads '
                "choose between classes, so name two or more, 'background' as "
                'well')
        twice = [name for name, n in Counter(classes).items() if n > 1]
        if twice:
            raise UserError(
                f'SegDataset: metainfo.classes has {", ".join(twice)} more '
                'than once; to join values of masks under one class give '
                'ignore_index={value: label}')
        palette = metainfo.get('palette') or []
        if palette and len(palette) != count:
            raise UserError(
                f'SegDataset: metainfo.palette has {len(palette)} colours for '
                f'{count} classes; give each class one, or leave palette out')
        if any(len(colour) != 3 or isinstance(colour, str)
               for colour in palette):
            raise UserError(
                f'SegDataset: metainfo.palette is {palette!r}; a colour is '
                'three numbers, [red, green, blue] from 0 to 255')
        super().__init__(**kwargs)
        self.label_values = label_values(ignore_index, count)
        ignored = ignore_index if isinstance(ignore_index, int) else (
            ', '.join(map(str, ignore_index)))
        shift = f'{{0: 255, **{{i + 1: i for i in range({count})}}}}'
        self.values_remedy = (
            f'ignore_index of the data set is a map, which has a label for '
            f'each value that occurs: {dict(ignore_index)!r}; add the label, '
            f'{IGNORED} if it is to be ignored, or correct the mask'
            if isinstance(ignore_index, Mapping) else
            f'values are the indices 0 to {count - 1} of metainfo.classes, as '
            f'far as ignore_index of the data set, {ignore_index!r}, does not '
            'say otherwise; correct the mask, add a class, or change '
            f'ignore_index (to [{ignored}, VALUE] if VALUE is to be ignored, '
            f'to {shift} if classes count from 1)')
        absent = [name for i, name in enumerate(classes)
                  if i not in self.label_values.values()]
        if absent:
            warnings.warn(
                f'with ignore_index={ignore_index!r} no value of a mask is '
                f'the class {", ".join(absent)}; if classes count from 1 and '
                f'0 is to be ignored, set ignore_index={shift}',
                stacklevel=2)


def _steps(pipeline: Any) -> Iterator[str]:
    """Names of transforms, those inside others too."""
    if isinstance(pipeline, Mapping):
        yield type_name(pipeline)
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from _steps(step)


@DATASETS.register_module()
class ADE20KDataset(_CheckedMasks, mmseg.datasets.ADE20KDataset):
    """mmseg's ADE20KDataset, with named mistakes.

    Masks have 0 for what is ignored, 1 to 150 for the classes.

    Args:
        kwargs: As in mmseg's.

    Raises:
        UserError: As for SegDataset, and :func:`refuse_other_labels`.
    """

    def __init__(self, **kwargs: Any) -> None:
        refuse_other_labels('ADE20KDataset', kwargs, reduce_zero_label=True)
        super().__init__(**kwargs)
        self._published({0: IGNORED} | {
            i + 1: i for i in range(150)}, '0 to 150')


# train id of each id that has one
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27,
                   28, 31, 32, 33)


@DATASETS.register_module()
class CityscapesDataset(_CheckedMasks, mmseg.datasets.CityscapesDataset):
    """mmseg's CityscapesDataset, with named mistakes.

    Masks are those of train ids, 0 to 18 and 255, which the data set's own
    tools write; or, with ``seg_map_suffix='_gtFine_labelIds.png'``, those that
    are published, with ids 0 to 33.

    Args:
        kwargs: As in mmseg's.

    Raises:
        UserError: As for SegDataset, and :func:`refuse_other_labels`.
    """

    def __init__(self, **kwargs: Any) -> None:
        refuse_other_labels('CityscapesDataset', kwargs)
        super().__init__(**kwargs)
        if self.seg_map_suffix.endswith('labelIds.png'):
            # 255: licence plates, whose id is -1
            values = dict.fromkeys((*range(34), 255), IGNORED) | {
                v: i for i, v in enumerate(_CITYSCAPES_IDS)}
            self._published(values, '0 to 33')
        else:
            values = {i: i for i in range(19)} | {IGNORED: IGNORED}
            self._published(values, '0 to 18 and 255')

    def load_data_list(self) -> list[dict]:
        """As of all, with the way to read masks as they are published."""
        try:
            return super().load_data_list()
        except UserError as error:
            if 'seg_map_suffix' not in str(error):
                raise
            raise UserError(
                f"{error}; seg_map_suffix='_gtFine_labelIds.png' reads masks "
                'as they are published') from None
