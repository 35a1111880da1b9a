# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric

from mmxvit.registry import METRICS


@METRICS.register_module()
class MultiTaskIoUMetric(BaseMetric):
    """mmseg's IoUMetric for each task, as in ``drivable/mIoU``.

    Means are over all classes of a task, 'background' among them, as in
    LOLViT's Table 8.

    Args:
        output_dir: Folder for predictions, one folder in it for each task.
        collect_device: As in MMEngine's BaseMetric.
        kwargs: As in IoUMetric, for all tasks.
    """
    default_prefix = ''  # keys have that of their task

    def __init__(self,
                 output_dir: str | None = None,
                 collect_device: str = 'cpu',
                 **kwargs: Any) -> None:
        super().__init__(collect_device=collect_device)
        self.output_dir = output_dir
        self.options = dict(kwargs, collect_device=collect_device)
        self.of_task: dict[str, IoUMetric] = {}

    @property
    def dataset_meta(self) -> dict | None:
        """Of the data set, with ``tasks``: the classes by task."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self._dataset_meta = meta
        for task, classes in meta['tasks'].items():
            folder = self.output_dir and osp.join(self.output_dir, task)
            metric = IoUMetric(
                prefix=task, output_dir=folder, **self.options)
            metric.dataset_meta = dict(classes=classes)
            self.of_task[task] = metric

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take the predictions of a batch.

        Args:
            data_batch: Not used.
            data_samples: With ``pred_sem_seg`` and ``gt_sem_seg``,
                (tasks, H, W).
        """
        for i, metric in enumerate(self.of_task.values()):
            metric.process(data_batch, [
                dict(
                    sample, **{
                        key: dict(data=sample[key]['data'][i:i + 1])
                        for key in ('pred_sem_seg', 'gt_sem_seg')
                        if key in sample
                    }) for sample in data_samples
            ])

    def compute_metrics(self, results: list) -> dict:
        """Not used: see :meth:`evaluate`."""
        raise NotImplementedError

    def evaluate(self, size: int) -> dict[str, float]:
        """Scores of all tasks.

        Args:
            size: Number of images.
        """
        scores = {}
        for task, metric in self.of_task.items():
            print_log(f'task {task}:', logger='current')
            scores.update(metric.evaluate(size))
        return scores
