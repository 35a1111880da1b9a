# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The inferencers of the mm* packages, with configs of this one.

Each must predict what ``demo/image_demo.py`` does.
"""
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmxvit.engine.predict import build_model, predict


@pytest.fixture
def image(data):
    return str(data / 'val/0.png')


def expected(path, weights, image):
    cfg = Config.fromfile(path)
    return predict(build_model(cfg, weights, 'cpu'), cfg, image)


@pytest.mark.filterwarnings('ignore')
def test_det_inferencer(config, checkpoint, image):
    from mmdet.apis import DetInferencer
    path = config('det')
    weights = checkpoint(path)
    inferencer = DetInferencer(
        path, weights, device='cpu', show_progress=False)
    (result, ) = inferencer(image)['predictions']
    objects = expected(path, weights, image).pred_instances
    assert len(objects) > 0
    for key in ('bboxes', 'scores', 'labels'):
        np.testing.assert_allclose(result[key], objects[key], rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_seg_inferencer(config, checkpoint, image):
    """With the step that loads masks in the test pipeline."""
    from mmseg.apis import MMSegInferencer
    path = config(
        'seg',
        model__backbone=dict(_delete_=True, type='mmxvit.LOLViT', arch='s'),
        model__decode_head__in_channels=128,
        visualizer=dict(type='SegLocalVisualizer'))
    cfg = Config.fromfile(path)
    pipeline = cfg.test_dataloader.dataset.pipeline
    assert pipeline[2].type == 'LoadAnnotations'
    pipeline[2].type = 'mmxvit.LoadSegAnnotations'
    cfg.dump(path)
    weights = checkpoint(path)
    inferencer = MMSegInferencer(path, weights, device='cpu')
    labels = inferencer(image)['predictions']
    assert labels.shape == (72, 64)
    sample = expected(path, weights, image)
    assert (labels == sample.pred_sem_seg.data[0].numpy()).all()


def test_cls_inferencer_and_features(config, checkpoint, image):
    from mmpretrain import FeatureExtractor, ImageClassificationInferencer
    path = config(
        'cls',
        model__backbone=dict(_delete_=True, type='mmxvit.LVT', arch='lvt'),
        model__head__in_channels=256)
    weights = checkpoint(path)
    infer = ImageClassificationInferencer(path, weights, device='cpu')
    (result, ) = infer(image)
    sample = expected(path, weights, image)
    np.testing.assert_allclose(
        result['pred_scores'], sample.pred_score, rtol=1e-5)

    (maps, ) = FeatureExtractor(path, weights, device='cpu')(
        image, stage='backbone')
    assert [m.shape[0] for m in maps] == [64, 64, 160, 256]
    (pooled, ) = FeatureExtractor(path, weights, device='cpu')(
        image, stage='neck')
    torch.testing.assert_close(pooled[-1], maps[-1].mean((1, 2)))
