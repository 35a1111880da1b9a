# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from mmxvit.engine.command import UserError
from mmxvit.registry import DATASETS

from .label_masks import label_values


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
                suffix_key: str, backend_args: dict | None = None) -> None:
    """Check that files of a data set are in their folder.

    Args:
        paths: Of the files, with the folder.
        folder: As in :func:`list_files`, like the other arguments.
        suffix: As well.
        key: As well.
        suffix_key: As well.
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
            f'{", ".join(absent[:5])}{", ..." * (len(absent) > 5)}. Each '
            'image needs a mask of its name: add the files, remove the images '
            f'without, or correct {key} or {suffix_key} of the data set')


@DATASETS.register_module()
class SegDataset(BaseSegDataset):
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
        UserError: Classes are missing, a folder has no images, or an image
            has no mask.
    """

    def __init__(self,
                 ignore_index: int | Sequence[int] | Mapping[int, int] = 255,
                 **kwargs: Any) -> None:
        if not (kwargs.get('metainfo') or {}).get('classes'):
            raise UserError('SegDataset: set metainfo=dict(classes=(...)) to '
                            'the names of the classes, in the order of their '
                            'indices')
        if kwargs.get('reduce_zero_label'):
            raise UserError('SegDataset: instead of reduce_zero_label set '
                            'ignore_index={0: 255, 1: 0, 2: 1, ...}')
        super().__init__(**kwargs)
        self.label_values = label_values(ignore_index,
                                         len(self.metainfo['classes']))

    def load_data_list(self) -> list[dict]:
        """As in BaseSegDataset, and check that the files are there."""
        parts = [(self.data_prefix[key], getattr(self, suffix),
                  f'data_prefix.{key}', suffix)
                 for key, suffix in (('img_path', 'img_suffix'),
                                     ('seg_map_path', 'seg_map_suffix'))
                 if self.data_prefix.get(key) is not None]
        for part in parts:  # mmseg would have an empty list of a wrong one
            list_files(*part, self.backend_args)
        data_list = super().load_data_list()
        for (folder, suffix, key, suffix_key) in parts:
            check_files([info[key.partition('.')[2]] for info in data_list],
                        folder, suffix, key, suffix_key, self.backend_args)
        return data_list

    def get_data_info(self, idx: int) -> dict:
        """As in BaseSegDataset, with the labels of values in the mask."""
        info = super().get_data_info(idx)
        info['label_values'] = self.label_values
        return info
