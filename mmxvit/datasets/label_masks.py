# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Masks of class indices: reading, and checking what is in them."""
import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine import fileio
from PIL import Image

from mmxvit.engine.command import UserError

IGNORED = 255
"""Label of pixels that count neither in losses nor in scores, as in mmseg."""


def read_mask(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Integers (H, W) of a file with one channel; palettes are not applied.

    Raises:
        UserError: The file is damaged or has several channels.
        FileNotFoundError: It is not there.
    """
    content = io.BytesIO(fileio.get(path, backend_args))
    try:
        with Image.open(content) as image:
            bands, mask = image.getbands(), np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # as PIL has it
        raise UserError(f'{path}: is no image, or damaged; write it again, or '
                        'remove it and its image') from error
    check_bands(path, 'F' if mask.dtype.kind == 'f' else bands)
    return mask.astype(np.uint8) if mask.dtype == bool else mask


def check_bands(path: str, bands: Sequence[str]) -> None:
    """Raise a UserError if a mask is not one channel of integers."""
    if len(bands) > 1 or 'F' in bands:
        raise UserError(
            f'{path}: is a picture with the channels {"".join(bands)}, but a '
            'mask has one, whose values are class indices: write the indices '
            'to an 8-bit PNG with one channel, grey or with a palette')


def other_size(path: str, size: Sequence[int], image_path: str,
               image_size: Sequence[int]) -> UserError:
    """The error of a mask of another size; sizes are width and height."""
    return UserError(
        f'{path}: is of {size[0]} x {size[1]} pixels, its image {image_path} '
        f'of {image_size[0]} x {image_size[1]}; they must be of one size: '
        'write the mask again at that of the image')


def read_labels(path: str,
                image_path: str,
                shape: tuple[int, int],
                values: Mapping[int, int],
                remedy: str,
                backend_args: dict | None = None) -> np.ndarray:
    """Labels, uint8 (H, W), of a mask.

    Args:
        path: Of the mask.
        image_path: Of its image.
        shape: Height and width of the image.
        values: Label of each value that may occur.
        remedy: What to do about another value.
        backend_args: Of MMEngine's file backend.

    Raises:
        UserError: See :func:`read_mask`; or the mask is not of the size of
            its image or has another value.
    """
    labels = labels_of_mask(path, values, remedy, backend_args)
    if labels.shape != tuple(shape[:2]):
        raise other_size(path, labels.shape[::-1], image_path, shape[1::-1])
    if (labels == IGNORED).all():
        warnings.warn(
            f'{path}: all of its pixels are ignored, so nothing is learned '
            'from it; remove it and its image, or correct it (or ignore_index '
            'of mmxvit.SegDataset)',
            stacklevel=2)
    return labels


def labels_of_mask(path: str, values: Mapping[int, int], remedy: str,
                   backend_args: dict | None = None) -> np.ndarray:
    """As :func:`read_labels`, without a look at the image."""
    mask = read_mask(path, backend_args)
    if mask.dtype == np.uint8:
        table = np.array([values.get(v, -1) for v in range(256)], np.int16)
        labels = table[mask]
    else:
        found, inverse = np.unique(mask, return_inverse=True)
        table = np.array([values.get(v, -1) for v in found.tolist()], np.int16)
        labels = table[inverse].reshape(mask.shape)
    wrong = labels < 0
    if wrong.any():
        found = np.unique(mask[wrong]).tolist()
        raise UserError(
            f'{path}: has the value{"s" * (len(found) > 1)} '
            f'{", ".join(map(str, found[:5]))}{", ..." * (len(found) > 5)} '
            f'({int(wrong.sum())} pixels): {remedy}')
    return labels.astype(np.uint8)


def _all_integers(value: object) -> bool:
    if isinstance(value, Mapping):
        return _all_integers([*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(_is_integer, value))
    return _is_integer(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def label_values(ignore_index: int | Sequence[int] | Mapping[int, int],
                 num_classes: int) -> dict[int, int]:
    """Label of each value that a mask may have.

    Args:
        ignore_index: Value or values that are ignored, all others being
            class indices; or a label (255: ignored) for each value that
            occurs.
        num_classes: Number of classes.

    Raises:
        UserError: Of another type, a value is negative, a label neither a
            class nor 255, a map is empty, or there are over 255 classes.
    """
    if num_classes > IGNORED:
        raise UserError(
            f'metainfo.classes of the data set has {num_classes} names: at '
            f'most {IGNORED} are possible, as labels have 8 bits and '
            f'{IGNORED} is for what is ignored; join classes')
    if not _all_integers(ignore_index) or ignore_index == {}:
        raise UserError(
            f'ignore_index of the data set is {ignore_index!r}: give a value, '
            'a list of values, or {value: label}, all of them integers')
    if isinstance(ignore_index, Mapping):
        values = dict(ignore_index)
    else:
        ignored = ([ignore_index] if isinstance(ignore_index, int) else
                   ignore_index)
        values = {i: i for i in range(num_classes)} | dict.fromkeys(
            ignored, IGNORED)
    wrong = {k: v for k, v in values.items()
             if k < 0 or not (0 <= v < num_classes or v == IGNORED)}
    if wrong:
        raise UserError(
            f'ignore_index of the data set has the entries {wrong} (value: '
            f'label), but there are {num_classes} classes: values are 0 or '
            f'more, labels 0 to {num_classes - 1}, and {IGNORED} for pixels '
            'to ignore')
    return values
