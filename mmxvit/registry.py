# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Child registries of MMEngine's roots, scope ``mmxvit``.

MMEngine imports every location of a registry at its first look-up, so no
location may import mmdet, mmseg or mmpretrain. What builds on their classes
is listed under ``lazy`` and imported when its name is asked for.
"""
from importlib import import_module
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry

from . import dependencies


class LazyRegistry(Registry):
    """Registry that imports some modules only for the names they hold.

    Args:
        lazy: Module that registers a name, by that name.
        kwargs: As in MMEngine's Registry.
    """

    def __init__(self,
                 name: str,
                 *,
                 lazy: dict[str, str] | None = None,
                 **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.lazy = lazy or {}

    def get(self, key: str) -> type | None:
        """What is registered as ``key``, ``'X'`` or ``'mmxvit.X'``.

        Raises:
            RuntimeError: The task package that ``key`` builds on is not
                installed, or cannot be imported.
        """
        name = key.removeprefix(f'{self.scope}.')
        if name in self.lazy and name not in self.module_dict:
            try:
                import_module(self.lazy[name])
            except ImportError as error:
                # MMEngine would only say that it is not in the registry
                raise RuntimeError(
                    f'{self.scope}.{name}: {_explain(error)}') from error
        return super().get(key)


def _explain(error: ImportError) -> str:
    """Which package is missing or broken, and what to do."""
    package = dependencies.missing_package(error)
    if package not in dependencies.DEPENDENCIES:
        return ('a package that it needs cannot be imported: '
                f'{dependencies.explain_import_error(error)}')
    return (f'needs {package}, which is not installed; '
            f'{dependencies.how_to_install(package)}')


MODELS = LazyRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmxvit',
    locations=['mmxvit.models'],
    lazy={
        'FWAMobileViT': 'mmxvit.models.backbones.fwa_mobilevit',
        'LayerNormClsHead': 'mmxvit.models.heads.layer_norm_head',
        'LVTClassifier': 'mmxvit.models.heads.lvt_head',
        'LVTClsHead': 'mmxvit.models.heads.lvt_head',
        'MultiTaskSegTTAModel': 'mmxvit.models.segmentors.multi_task',
        'MultiTaskSegmentor': 'mmxvit.models.segmentors.multi_task',
        'SSDHead': 'mmxvit.models.heads.ssd_head',
        'YOLODFLHead': 'mmxvit.models.heads.yolo_head',
    })
DATASETS = LazyRegistry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmxvit',
    locations=['mmxvit.datasets'],
    lazy={
        'ADE20KDataset': 'mmxvit.datasets.seg_dataset',
        'BDD100KDataset': 'mmxvit.datasets.bdd100k',
        'CityscapesDataset': 'mmxvit.datasets.seg_dataset',
        'CocoPanopticDataset': 'mmxvit.datasets.coco_panoptic_dataset',
        'SegDataset': 'mmxvit.datasets.seg_dataset',
    })
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmxvit',
    locations=['mmxvit.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmxvit',
    locations=['mmxvit.engine'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmxvit',
    locations=['mmxvit.engine'])
METRICS = LazyRegistry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmxvit',
    locations=['mmxvit.evaluation'],
    lazy={
        'CocoPanopticMetric': 'mmxvit.evaluation.coco_panoptic_metric',
        'MultiTaskIoUMetric': 'mmxvit.evaluation.multi_task_iou_metric',
    })
STRATEGIES = Registry(
    'strategy',
    parent=MMENGINE_STRATEGIES,
    scope='mmxvit',
    locations=['mmxvit.engine.strategies'])
TRANSFORMS = LazyRegistry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmxvit',
    locations=['mmxvit.datasets'],
    lazy={
        'LoadMultiTaskAnnotations': 'mmxvit.datasets.seg_transforms',
        'LoadPanopticAnnotations': 'mmxvit.datasets.transforms',
        'LoadSegAnnotations': 'mmxvit.datasets.seg_transforms',
        'PackMultiTaskSegInputs': 'mmxvit.datasets.seg_transforms',
    })
VISUALIZERS = LazyRegistry(
    'visualizer',
    parent=MMENGINE_VISUALIZERS,
    scope='mmxvit',
    locations=['mmxvit.engine'],
    lazy={
        'DetLocalVisualizer': 'mmxvit.engine.visualizers',
        'MultiTaskSegLocalVisualizer': 'mmxvit.engine.seg_visualizer',
    })

__all__ = [
    'DATASETS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS', 'STRATEGIES', 'TRANSFORMS', 'VISUALIZERS'
]
