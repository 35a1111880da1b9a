# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Prediction on one image, and its picture, for any task."""
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor

from .checkpoints import check_checkpoint, check_weights
from .command import (
    UserError,
    check_operators,
    type_name,
    use_safe_loading,
)
from .run_options import use_own_visualizer

_VISUALIZERS = dict(
    mmdet='mmxvit.DetLocalVisualizer',
    mmseg='SegLocalVisualizer',
    mmpretrain='UniversalVisualizer')


def build_model(cfg: Config, checkpoint: str | None, device: str) -> nn.Module:
    """The model of a config, ready to predict.

    Args:
        cfg: Config whose ``default_scope`` tells the task package.
        checkpoint: File or URL; None leaves the weights random.
        device: Such as ``'cpu'`` or ``'cuda:0'``.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        UserError: It is one of another model, ``default_scope`` is not that
            of a task package, or see
            :func:`~mmxvit.engine.command.check_operators`.
    """
    scope = cfg.get('default_scope')
    if scope not in _VISUALIZERS:
        raise UserError(f'default_scope is {scope!r}, expected one of '
                        f'{", ".join(_VISUALIZERS)}')
    check_operators(cfg, device)
    init_default_scope(scope)
    use_safe_loading()
    if checkpoint:
        check_checkpoint(checkpoint)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if checkpoint:
        check_weights(model, checkpoint, strict=True)
    try:
        model.to(device)
    except RuntimeError as error:
        raise UserError(f'--device {device}: {error}') from error
    model.eval()
    return model


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8, RGB.

    Raises:
        UserError: There is no such file, or it is no image.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such image file')
    try:
        image = mmcv.imread(path)
    except cv2.error:  # of an empty file
        image = None
    if image is None:
        raise UserError(f'{path}: cannot be read as an image; give a JPEG, '
                        'PNG, BMP, TIFF or WebP file')
    return mmcv.bgr2rgb(image)


def predict(model: nn.Module, cfg: Config, path: str) -> BaseDataElement:
    """Prediction for the image file ``path`` by the config's test pipeline."""
    steps = [
        step for step in _test_dataset(cfg).pipeline
        if 'Annotations' not in type_name(step)
    ]
    return predict_data(model, Compose(steps)(dict(img_path=path, img_id=0)))


def predict_data(model: nn.Module, data: dict) -> BaseDataElement:
    """Prediction for an item of a data set, its ground truth kept."""
    with torch.no_grad():
        return model.test_step(pseudo_collate([data]))[0].cpu()


def preprocess(model: nn.Module, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8, RGB -> (1, 3, H, W), as the model gets it in tests."""
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    return model.data_preprocessor(dict(inputs=[bgr]), False)['inputs']


def draw(cfg: Config, image: np.ndarray, sample: BaseDataElement,
         out_file: str, score_thr: float, truth: bool = False) -> None:
    """Write the picture of a prediction.

    Args:
        cfg: Config that the prediction was made with.
        image: (H, W, 3), RGB.
        sample: From :func:`predict` or :func:`predict_data`.
        out_file: Picture to write.
        score_thr: Objects below this score are left out.
        truth: Draw the ground truth instead. A classifier's picture has both.
    """
    scope = cfg.default_scope
    use_own_visualizer(cfg)
    visualizer = VISUALIZERS.build({
        'type': _VISUALIZERS[scope],
        **(cfg.get('visualizer') or {}), 'name': 'image_demo',
        'vis_backends': None
    })
    meta = _names_and_colours(cfg, sample)
    if scope == 'mmpretrain':
        visualizer.visualize_cls(
            image,
            sample,
            classes=meta['classes'],
            resize=480 if min(image.shape[:2]) < 224 else None,
            out_file=out_file)
        return
    visualizer.dataset_meta = meta
    options = dict(pred_score_thr=score_thr) if scope == 'mmdet' else {}
    visualizer.add_datasample(
        'prediction',
        image,
        sample,
        draw_gt=truth,
        draw_pred=not truth,
        out_file=out_file,
        **options)


def _test_dataset(cfg: Config) -> dict:
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset.get('dataset') or dataset.datasets[0]
    return dataset


def _names_and_colours(cfg: Config, sample: BaseDataElement) -> dict:
    """What the config's data set tells of itself; class names and colours at
    least as many as the prediction has labels."""
    dataset = _test_dataset(cfg)
    kind = dataset.type
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    meta = kind._load_metainfo(dataset.get('metainfo'))
    classes = list(dataset.get('classes') or meta.get('classes') or ())
    palette = [tuple(colour) for colour in meta.get('palette') or ()]
    count = max(len(classes), 1 + _highest_label(sample))
    classes += [f'class {i}' for i in range(len(classes), count)]
    if len(palette) < count:
        rng = np.random.RandomState(42)
        palette = [tuple(c) for c in rng.randint(0, 256, (count, 3)).tolist()]
    return {**meta, 'classes': classes, 'palette': palette}


def _highest_label(sample: BaseDataElement) -> int:
    """Highest class index in a prediction of any task, -1 if there is none."""
    highest = -1
    for key, get in (('pred_instances', 'labels'), ('pred_sem_seg', 'data'),
                     ('pred_label', None)):
        if key in sample:
            labels = sample.get(key)
            labels = getattr(labels, get) if get else labels
            if labels.numel():
                highest = max(highest, int(labels.max()))
    return highest
