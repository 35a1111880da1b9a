# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs

from mmxvit.engine.command import UserError
from mmxvit.registry import TRANSFORMS

from .label_masks import IGNORED, read_labels


def _joint_sizes(tasks: dict[str, int]) -> tuple[int, ...]:
    """Classes of each task, and one for ignored pixels."""
    return tuple(count + 1 for count in tasks.values())


@TRANSFORMS.register_module()
class LoadSegAnnotations(BaseTransform):
    """Masks of class indices, for data sets that say what their values are.

    In the place of mmseg's LoadAnnotations, which takes what it finds: it
    reads pictures with three channels as well, and a value that is no class
    ends in an error without a name, on a GPU in the loss. For training it
    goes before what resizes the image, for testing after it, so that scores
    are those of the original size. An image without a data set, which mmseg's
    inferencer feeds to the test pipeline, goes through as it is.

    Args:
        backend_args: Of MMEngine's file backend.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 (H, W), 255 where pixels are ignored.

        Raises:
            UserError: The mask cannot be used; names it.
        """
        if 'seg_fields' not in results:  # every data set of mmseg makes it
            return results
        if 'label_values' not in results:
            raise UserError(
                'mmxvit.LoadSegAnnotations: the data set does not say what '
                'the values of its masks are; use mmxvit.SegDataset, '
                "mmxvit.ADE20KDataset or mmxvit.CityscapesDataset, or mmseg's "
                'LoadAnnotations')
        if 'seg_map_path' not in results:
            raise UserError(
                'mmxvit.LoadSegAnnotations: the data set has no masks; name '
                'their folder in data_prefix.seg_map_path, or leave the step '
                'out')
        results['gt_seg_map'] = read_labels(
            results['seg_map_path'],
            results['img_path'],
            results['ori_shape'],
            results['label_values'],
            results['values_remedy'],
            self.backend_args)
        results['seg_fields'].append('gt_seg_map')
        return results


@TRANSFORMS.register_module()
class LoadMultiTaskAnnotations(BaseTransform):
    """Masks of all tasks of an image, as one label map.

    The map has a code for each combination of labels, so that any transform
    for one label map does for all tasks, those that pad (with 255: ignored
    by all tasks) or look at classes too. ``mmxvit.PackMultiTaskSegInputs``
    takes it apart. As LoadSegAnnotations, for testing after Resize.

    Args:
        backend_args: Of MMEngine's file backend.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 (H, W).

        Needs ``seg_map_paths``, ``label_values`` and ``values_remedy`` by
        task, and ``tasks``, the number of classes by task.

        Raises:
            UserError: A mask cannot be used; names it. Or there are too many
                combinations.
        """
        sizes = _joint_sizes(results['tasks'])
        if np.prod(sizes) > IGNORED:
            raise UserError(
                f'metainfo.tasks: {" x ".join(map(str, sizes))} combinations '
                'of labels, each with ignored, are more than 255; merge '
                'classes')
        labels = []
        for task, count in results['tasks'].items():
            mask = read_labels(
                results['seg_map_paths'][task],
                results['img_path'],
                results['ori_shape'],
                results['label_values'][task],
                results['values_remedy'][task],
                self.backend_args)
            labels.append(np.where(mask == IGNORED, count, mask))
        results['gt_seg_map'] = np.ravel_multi_index(labels, sizes).astype(
            np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


@TRANSFORMS.register_module()
class PackMultiTaskSegInputs(PackSegInputs):
    """mmseg's PackSegInputs; ``gt_sem_seg`` is (tasks, H, W).

    Args:
        meta_keys: As in PackSegInputs; ``tasks``, their names, is added.
    """

    def transform(self, results: dict) -> dict:
        """Pack, after taking apart what LoadMultiTaskAnnotations made."""
        packed = super().transform(results)
        if 'gt_seg_map' in results:
            tasks = results['tasks']
            codes = results['gt_seg_map']
            sizes = _joint_sizes(tasks)
            padded = codes == IGNORED
            labels = np.stack(
                np.unravel_index(np.where(padded, 0, codes), sizes))
            counts = np.array(list(tasks.values()))[:, None, None]
            labels[(labels == counts) | padded] = IGNORED
            sample = packed['data_samples']
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
            sample.set_metainfo(dict(tasks=tuple(tasks)))
        return packed
