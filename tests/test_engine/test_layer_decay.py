# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import importlib
import json

import pytest
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmxvit.converters import fcaformer

from ..golden import FOLDER

GOLDEN = json.loads((FOLDER / 'fcaformer_l2_layer_decay.json').read_text())
FAMILIES = ['XFormer', 'LVT', 'FcaFormer', 'CabViT', 'LOLViT']
# what each family computes one after the other
ORDERED = [('XFormer', 'xformer'), ('LVT', 'lvt'), ('LOLViT', 's'),
           ('FcaFormer', 'l0')]


class Detector(nn.Module):
    """A backbone with layers around it."""

    def __init__(self, backbone, **kwargs):
        super().__init__()
        self.backbone = MODELS.build(
            dict(type=f'mmxvit.{backbone}', **kwargs))
        self.neck = nn.Linear(2, 2)
        self.roi_head = nn.Linear(2, 2)
        self.decode_head = nn.Linear(2, 2)


def settings(model, lr=1e-4, weight_decay=0.05, **paramwise):
    """Per parameter: layer, lr, lr_scale and weight decay in the optimizer."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
            constructor='mmxvit.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise))
    inner = getattr(model, 'module', model)
    names = {p: name for name, p in inner.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        assert group['param_names'] == [names[p] for p in group['params']]
        for name in group['param_names']:
            assert name not in found
            found[name] = {
                key: group[key]
                for key in ('layer_id', 'lr', 'lr_scale', 'weight_decay')
            }
    return found


def our_name(name):
    own = name.removeprefix('backbone.')
    return fcaformer.rename(own, 'dense') if own != name else name


@pytest.mark.parametrize('recipe', GOLDEN['recipes'])
def test_equals_the_published_recipes(recipe):
    """Parameter by parameter, as the authors' constructors have it."""
    cfg = GOLDEN['recipes'][recipe]
    found = settings(
        Detector('FcaFormer', arch='l2'), **{
            key: cfg[key]
            for key in ('lr', 'weight_decay', 'decay_rate', 'decay_type')
        })
    expected = {}
    for name, row in GOLDEN['params'].items():
        layer, decayed = row[:2] if cfg['decay_type'] == 'layer_wise' else \
            row[2:]
        scale = cfg['lr_scale'][str(layer)]
        expected[our_name(name)] = dict(
            layer_id=layer,
            lr=cfg['lr'] * scale,
            lr_scale=scale,
            weight_decay=cfg['weight_decay'] * decayed)
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert found[name] == pytest.approx(row, rel=1e-12), name


def ids(found):
    return {name: row['layer_id'] for name, row in found.items()}


@pytest.mark.parametrize('family, arch', ORDERED)
@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_layers_rise_from_the_stem_to_the_heads(family, arch, decay_type):
    model = Detector(family, arch=arch)
    found = settings(
        model, lr=0.1, decay_rate=0.5, decay_type=decay_type)
    layers = list(ids(found).values())  # in the order of the groups
    assert layers == sorted(layers)
    in_order = [found[n]['layer_id'] for n, _ in model.named_parameters()]
    assert in_order == sorted(in_order) and in_order[0] == 0
    stages = model.backbone.stages
    count = len(stages) if decay_type == 'stage_wise' else sum(
        len(stage) for stage in stages)
    assert max(in_order) == count + 1
    for name, row in found.items():
        power = count + 1 - row['layer_id']
        assert row['lr'] == pytest.approx(0.1 * 0.5**power)
        assert power or not name.startswith('backbone.')
    if decay_type == 'stage_wise':
        assert all(found[f'backbone.stages.{i}.{n}']['layer_id'] == i + 1
                   for i, stage in enumerate(stages)
                   for n, _ in stage.named_parameters())


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_every_family(family, decay_type):
    model = Detector(family)
    found = settings(model, decay_rate=0.8, decay_type=decay_type)
    parameters = dict(model.named_parameters())
    assert found.keys() == parameters.keys()
    for name, row in found.items():
        assert (row['lr_scale'] == 1) == (not name.startswith('backbone.'))
        if name.endswith('.bias') or parameters[name].ndim < 2:
            decayed = name.endswith('.attn.scale')
            assert row['weight_decay'] == 0.05 * decayed, name
        elif not name.endswith('_bias'):
            assert row['weight_decay'] == 0.05, name


def test_stages_that_are_not_built_do_not_matter():
    short = settings(
        Detector('FcaFormer', out_indices=(1, ), out_dims=None),
        decay_rate=0.9)
    full = settings(Detector('FcaFormer', out_dims=None), decay_rate=0.9)
    assert short == {name: full[name] for name in short}


def test_frozen_parameters_are_left_out():
    model = Detector('FcaFormer', frozen_stages=1)
    found = settings(model, decay_rate=0.9)
    assert found.keys() == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert not any(n.startswith(('backbone.stem', 'backbone.stages.0'))
                   for n in found)


class Wrapped(nn.Module):
    """As DistributedDataParallel keeps a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_wrapped_for_distributed_training():
    model = Detector('LVT')
    assert settings(Wrapped(model), decay_rate=0.9) == settings(
        model, decay_rate=0.9)


CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=dict(type='mmxvit.LOLViT', out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=192))
SEGMENTOR = dict(
    type='EncoderDecoder',
    backbone=dict(type='mmxvit.LVT'),
    decode_head=dict(
        type='FCNHead', in_channels=256, channels=8, num_classes=3),
    test_cfg=dict(mode='whole'))
DETECTOR = dict(
    type='RetinaNet',
    backbone=dict(type='mmxvit.XFormer'),
    neck=dict(
        type='FPN', in_channels=[64, 96, 128, 160], out_channels=8,
        num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8))


@pytest.mark.parametrize('scope, cfg', [('mmpretrain', CLASSIFIER),
                                        ('mmseg', SEGMENTOR),
                                        ('mmdet', DETECTOR)])
def test_in_the_scope_of_each_task_package(scope, cfg):
    registry = pytest.importorskip(f'{scope}.registry').MODELS
    importlib.import_module(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.build(cfg)
        found = settings(model, decay_rate=0.7)
    assert found['backbone.stem.' + next(
        n for n, _ in model.backbone.stem.named_parameters())][
            'layer_id'] == 0
    heads = [row for n, row in found.items() if not n.startswith('backbone.')]
    assert heads and all(row['lr'] == 1e-4 for row in heads)
    assert len(found) == len(list(model.parameters()))


def test_foreign_backbone_with_layers():
    """mmpretrain's ConvNeXt has get_layer_depth: one of the papers' peers."""
    pytest.importorskip('mmpretrain')
    model = Detector('LVT')
    model.backbone = MODELS.build(
        dict(type='mmpretrain.ConvNeXt', arch='atto',
             gap_before_final_norm=False))
    layers = ids(settings(model, decay_rate=0.9))
    assert layers['backbone.downsample_layers.0.0.weight'] == 0
    assert layers['neck.weight'] == max(layers.values())
    assert len(set(layers.values())) > 4
    with pytest.raises(ValueError, match='ConvNeXt. has no method get_stage'):
        settings(model, decay_rate=0.9, decay_type='stage_wise')


def test_one_step():
    """The optimizer moves each parameter by its own learning rate."""
    model = Detector('LVT')
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=1.),
            constructor='mmxvit.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(decay_rate=0.5, decay_type='stage_wise')))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    sum(p.sum() for p in model.parameters()).backward()
    wrapper.optimizer.step()
    for name, step in (('backbone.stem.proj.weight', 0.5**5),
                       ('backbone.stages.0.0.attn.proj.weight', 0.5**4),
                       ('backbone.stages.3.0.proj.bias', 0.5),
                       ('neck.weight', 1.)):
        moved = before[name] - model.get_parameter(name)
        torch.testing.assert_close(moved, torch.full_like(moved, step))


@pytest.mark.parametrize('paramwise, message', [
    (dict(), 'with the keys decay_rate'),
    (dict(decay_type='stage_wise'), 'with the keys decay_rate'),
    (dict(decay_rate=0.9, num_layers=6), 'read off the backbone'),
    (dict(decay_rate=0.), r'decay_rate=0\.0 must be above 0'),
    (dict(decay_rate=1.1), 'at most 1'),
    (dict(decay_rate=0.9, decay_type='block_wise'),
     "'layer_wise', 'stage_wise'"),
])
def test_bad_arguments(paramwise, message):
    with pytest.raises(ValueError, match=message):
        settings(Detector('LVT'), **paramwise)


def test_bad_models_and_optimizers():
    with pytest.raises(ValueError, match='has no method get_layer_depth'):
        settings(nn.Linear(2, 2), decay_rate=0.9)
    with pytest.raises(ValueError, match="name the optimizer's lr"):
        settings(Detector('LVT'), lr=None, decay_rate=0.9)
