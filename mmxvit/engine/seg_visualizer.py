# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from typing import Any

import numpy as np
from mmengine.structures import PixelData
from mmseg.visualization import SegLocalVisualizer

from mmxvit.registry import VISUALIZERS


@VISUALIZERS.register_module()
class MultiTaskSegLocalVisualizer(SegLocalVisualizer):
    """mmseg's visualizer for label maps of several tasks.

    Later tasks are drawn over earlier ones. The background of all tasks is
    the image itself. Without names of classes: lines are too thin for them.
    """

    def _draw_sem_seg(self, image: np.ndarray, sem_seg: PixelData,
                      classes: list[str], palette: list, *args: Any,
                      **kwargs: Any) -> np.ndarray:
        """Draw label maps (tasks, H, W) in the colours of their classes."""
        maps = np.asarray(sem_seg.cpu().data)
        merged = np.zeros_like(maps[:1])
        first = 0  # classes before those of a task, but for the background
        for labels, names in zip(
                maps, self.dataset_meta['tasks'].values(), strict=True):
            shown = (labels > 0) & (labels < len(names))
            merged[0, shown] = labels[shown] + first
            first += len(names) - 1
        drawn = super()._draw_sem_seg(
            image, PixelData(data=merged), classes, palette, False)
        drawn = np.where((merged[0] == 0)[..., None], image, drawn)
        self.set_image(drawn)
        return drawn
