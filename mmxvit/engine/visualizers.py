# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import numpy as np
from mmdet import visualization
from mmengine.structures import PixelData

from mmxvit.registry import VISUALIZERS


@VISUALIZERS.register_module()
class DetLocalVisualizer(visualization.DetLocalVisualizer):
    """mmdet's visualizer, also for panoptic predictions without a segment.

    mmdet's fails on them. They are usual in small images: its
    HeuristicFusionHead drops stuff below 4096 pixels.
    """

    def _draw_panoptic_seg(self, image: np.ndarray, panoptic_seg: PixelData,
                           classes: list[str],
                           palette: list | None) -> np.ndarray:
        if (np.asarray(panoptic_seg.sem_seg) == len(classes)).all():
            self.set_image(image)
            return self.get_image()
        return super()._draw_panoptic_seg(image, panoptic_seg, classes,
                                          palette)
