# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Every family in every kind of stock model: a loss and a prediction."""
import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmxvit.analysis.drop_in import HOSTS, drop_in
from mmxvit.engine.checks import check_channels
from mmxvit.models import backbones

FAMILIES = [('XFormer', 'xformer'), ('LVT', 'lvt'), ('FcaFormer', 'l2'),
            ('CabViT', 'h-l1'), ('LOLViT', 's')]


def stock_config(name):
    """``mmseg::`` does not resolve with every build of mmsegmentation."""
    package, path = name.split('::')
    module = pytest.importorskip(package)
    return Config.fromfile(
        Path(module.__path__[0]) / '.mim' / 'configs' / path)


def build(cfg):
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def detection_inputs(model):
    from mmdet.testing import demo_mm_inputs
    return demo_mm_inputs(
        2, [[3, 96, 128]] * 2, num_classes=80,
        with_mask=getattr(model, 'with_mask', False),
        with_semantic=getattr(model, 'with_semantic', False) or hasattr(
            model, 'semantic_head'))


def segmentation_inputs():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 96)))
        samples.append(sample)
    return dict(
        inputs=[
            torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
            for _ in range(2)
        ],
        data_samples=samples)


@pytest.mark.parametrize('family, arch', FAMILIES)
@pytest.mark.parametrize('host', HOSTS, ids=[h.name for h in HOSTS])
def test_drop_in(host, family, arch):
    cfg = stock_config(host.config)
    cfg.model.pop('init_cfg', None)
    drop_in(cfg.model, getattr(backbones, family), arch, host)
    check_channels(cfg)
    if cfg.default_scope == 'mmseg':
        # as in training by torchrun, but for one process
        cfg.model.data_preprocessor.size = (64, 96)
    model = build(cfg)
    if cfg.default_scope == 'mmseg':
        from mmengine.model import revert_sync_batchnorm
        model = revert_sync_batchnorm(model)
        data = segmentation_inputs()
    else:
        data = detection_inputs(model)
    model.train()
    losses = model.forward(
        **model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in model.backbone.parameters())
    model.eval()
    with torch.no_grad():
        results = model.forward(
            **model.data_preprocessor(data, False), mode='predict')
    assert len(results) == 2


@pytest.mark.parametrize('host', HOSTS, ids=[h.name for h in HOSTS])
def test_without_the_keys_of_neck_and_head_the_check_names_them(host):
    cfg = stock_config(host.config)
    wrong = copy.deepcopy(cfg.model)
    drop_in(cfg.model, backbones.XFormer, 'xformer', host)
    backbone = cfg.model.backbone
    cfg.model = wrong
    cfg.model.backbone = backbone
    from mmxvit.engine.command import UserError
    with pytest.raises(UserError, match='in_channels'):
        check_channels(cfg)
