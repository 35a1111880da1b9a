# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import numpy as np
from mmdet.datasets import transforms
from mmdet.structures.mask import BitmapMasks

from mmxvit.engine.command import UserError
from mmxvit.registry import TRANSFORMS

from .coco_panoptic import read_ids

IGNORED = 255
"""Label of void pixels, as in mmdet."""


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(transforms.LoadPanopticAnnotations):
    """mmdet's transform of this name, without panopticapi.

    A PNG that does not fit the annotation file or the image ends in an error
    that names it.

    Args:
        with_bbox: Load boxes.
        with_label: Load labels.
        with_mask: Load the masks of things that are no crowd.
        with_seg: Load the map of labels, 255 where there is none.
        box_type: As in mmdet's LoadAnnotations.
        backend_args: Of MMEngine's file backend.
    """

    def __init__(self,
                 with_bbox: bool = True,
                 with_label: bool = True,
                 with_mask: bool = True,
                 with_seg: bool = True,
                 box_type: str = 'hbox',
                 backend_args: dict | None = None) -> None:
        # mmdet's own constructor is what asks for panopticapi
        transforms.LoadAnnotations.__init__(
            self,
            with_bbox=with_bbox,
            with_label=with_label,
            with_mask=with_mask,
            with_seg=with_seg,
            box_type=box_type,
            backend_args=backend_args)

    def _load_masks_and_semantic_segs(self, results: dict) -> None:
        """Add ``gt_masks`` and ``gt_seg_map`` from ``seg_map_path``.

        Without that, as of a test set, nothing is added.
        """
        path = results.get('seg_map_path')
        if path is None:
            return
        segments = results['segments_info']
        ids = read_ids(
            path, [*segments, *results.get('unused_segments', ())],
            backend_args=self.backend_args)
        if ids.shape != tuple(results['ori_shape']):
            raise UserError(
                f'{path}: is of {ids.shape[::-1]} pixels, its image '
                f'{results["img_path"]} of {results["ori_shape"][::-1]}; they '
                'must be of one size: write the PNG again at that of the '
                'image')
        masks, labels = [], np.full(ids.shape, IGNORED, np.int32)
        for segment in segments:
            mask = ids == segment['id']
            labels[mask] = segment['category']
            if segment['is_thing']:
                masks.append(mask.astype(np.uint8))
        if self.with_mask:
            results['gt_masks'] = BitmapMasks(masks, *ids.shape)
        if self.with_seg:
            results['gt_seg_map'] = labels
