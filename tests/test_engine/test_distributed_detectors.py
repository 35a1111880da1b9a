# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Two-stage detectors with two processes on the CPU (gloo).

Both processes, started once, do one step and one evaluation of each detector.
"""
import copy
import json
import os
import pickle
import runpy
import socket
import zlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from pycocotools import mask

from mmxvit.datasets.shapes import SHAPES, STUFF_CLASSES, write_dataset
from mmxvit.engine.command import load_config

from ..gloo import leave_group

pytest.importorskip('mmdet')

ROOT = Path(__file__).parents[2]
CONFIGS = {
    'mask-rcnn':
    'fcaformer/mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco.py',
    'panoptic-fpn': 'lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco.py',
}
every_detector = pytest.mark.parametrize('name', CONFIGS)
THINGS = SHAPES[:2]
SIZE = 64
VAL = 3  # odd: the processes share it with one image twice


def toy_config(name, root):
    """A shipped config on toy data: BN in eval mode, no drop path."""
    cfg = load_config(
        str(ROOT / 'configs' / CONFIGS[name]), dict(data_root=f'{root}/'))
    model = cfg.model
    model.backbone.update(drop_path_rate=0., norm_eval=True)
    for head in ('bbox_head', 'mask_head'):
        model.roi_head[head].num_classes = len(THINGS)
    model.roi_head.bbox_head.fc_out_channels = 32  # most of the weights
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.max_per_img = 50
    model.train_cfg.rcnn.sampler.num = 32
    classes = dict(classes=THINGS)
    if name == 'panoptic-fpn':
        classes = dict(
            classes=(*THINGS, *STUFF_CLASSES),
            thing_classes=THINGS,
            stuff_classes=STUFF_CLASSES)
        for head in ('semantic_head', 'panoptic_fusion_head'):
            model[head].update(
                num_things_classes=len(THINGS),
                num_stuff_classes=len(STUFF_CLASSES))
        model.test_cfg.panoptic.stuff_area_limit = 1
    else:
        model.test_cfg.rcnn.score_thr = 0.
    for split in ('train', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.metainfo = classes
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (SIZE, SIZE)
    # not augmented: what is random is not the same in other processes
    load, annotations, *_, pack = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [load, annotations, pack]
    return cfg


def build(cfg, seed=0):
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


def half_batch(cfg, half):
    """Two of the four training images."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return pseudo_collate([dataset[2 * half], dataset[2 * half + 1]])


def seed_samplers(monkeypatch):
    """The samplers of RPN and RoI head draw boxes for each image; let a draw
    depend on the true boxes of its image alone, in whichever process."""
    from mmdet.models.task_modules import RandomSampler
    sample = RandomSampler.sample

    def seeded(self, assigned, predictions, truth, **kwargs):
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(truth.bboxes.numpy().tobytes()))
            return sample(self, assigned, predictions, truth, **kwargs)

    monkeypatch.setattr(RandomSampler, 'sample', seeded)


def gradients(model, data, wrapped=None):
    """Of one step in training mode; with what the model is wrapped in."""
    model.train()
    losses = (wrapped or model)(
        **model.data_preprocessor(data, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def train(cfg, rank):
    """Gradients of a step by two processes, and the weights after it."""
    model = build(cfg, seed=rank)  # all start from those of the first
    wrapped = MMDistributedDataParallel(
        model, broadcast_buffers=False, find_unused_parameters=False)
    optimizer = build_optim_wrapper(wrapped, cfg.optim_wrapper).optimizer
    data = half_batch(cfg, rank)
    first = gradients(model, data, wrapped)
    optimizer.step()
    weights = copy.deepcopy(model.state_dict())
    # a parameter that the first step has not used fails the second
    gradients(model, data, wrapped)
    return first, weights


def evaluate(name, *options):
    """Run tools/test.py, in a folder beside the config."""
    runpy.run_path(str(ROOT / 'tools/test.py'))['main']([
        f'../{name}.py', f'../{name}.pth', '--work-dir', name, '--out',
        f'{name}.pkl', *options
    ])


def evaluate_alone(rank, folder):
    os.chdir(folder)
    evaluate('mask-rcnn')


def run_rank(rank, folder, root, port):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo')
    os.chdir(folder / 'two')
    with pytest.MonkeyPatch.context() as monkeypatch:
        seed_samplers(monkeypatch)
        for name in CONFIGS:
            torch.save(train(toy_config(name, root), rank), f'{name}{rank}.pt')
    for name in CONFIGS:
        evaluate(name, '--launcher', 'pytorch')
    leave_group()


def predictions_as_truth(folder, root, cfg):
    """Let every third of a detector's predictions be what is to be found.

    Random weights find nothing of the true objects, and a figure of 0 would be
    the same for any predictions.
    """
    (folder / 'truth').mkdir()
    # in a process of its own: a runner leaves its scope behind
    mp.spawn(evaluate_alone, (folder / 'truth', ), nprocs=1)
    path = root / 'annotations/instances_val2017.json'
    truth = json.loads(path.read_text())
    truth['annotations'] = []
    for image in pickle.loads(
            (folder / 'truth/mask-rcnn.pkl').read_bytes()):
        found = image['pred_instances']
        for i in range(0, len(found['labels']), 3):
            (left, top, right, bottom), rle = (
                found['bboxes'][i].tolist(), found['masks'][i])
            if not mask.area(rle):
                continue
            truth['annotations'].append(
                dict(
                    id=len(truth['annotations']) + 1,
                    image_id=image['img_id'],
                    category_id=truth['categories'][found['labels'][i]]['id'],
                    bbox=[left, top, right - left, bottom - top],
                    area=int(mask.area(rle)),
                    iscrowd=0,
                    segmentation=dict(rle, counts=rle['counts'].decode())))
    path = path.with_name('predicted.json')
    path.write_text(json.dumps(truth))
    cfg.test_dataloader.dataset.ann_file = f'annotations/{path.name}'
    cfg.test_evaluator.ann_file = str(path)
    cfg.dump(str(folder / 'mask-rcnn.py'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """What two processes have left, in ``two``."""
    root = tmp_path_factory.mktemp('toy')
    write_dataset(root, ('coco', 'coco_panoptic'), train=4, val=VAL, size=SIZE,
                  classes=len(THINGS))
    folder = tmp_path_factory.mktemp('run')
    for name in CONFIGS:
        cfg = toy_config(name, root)
        cfg.dump(str(folder / f'{name}.py'))
        model = build(cfg)
        if name == 'panoptic-fpn':  # stripes everywhere: found in one image
            nn.init.zeros_(model.semantic_head.conv_logits.weight)
            model.semantic_head.conv_logits.bias.data[1] = 1.
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
        if name == 'mask-rcnn':
            predictions_as_truth(folder, root, cfg)
    for count in ('one', 'two'):
        (folder / count).mkdir()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(run_rank, (folder, root, port), nprocs=2)
    return folder


@every_detector
def test_gradients_are_the_mean_of_one_process(folder, name, monkeypatch):
    seed_samplers(monkeypatch)
    cfg = Config.fromfile(folder / f'{name}.py')
    model = build(cfg)
    halves = [gradients(model, half_batch(cfg, half)) for half in range(2)]
    ranks = [torch.load(folder / f'two/{name}{rank}.pt', weights_only=True)
             for rank in range(2)]
    for result in zip(*ranks, strict=True):
        first, second = result
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key
    (result, weights), _ = ranks
    assert result.keys() == halves[0].keys()
    for key, gradient in result.items():
        expected = (halves[0][key] + halves[1][key]) / 2
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(halves[0][key], halves[1][key]), key
    before = model.state_dict()
    assert any(not torch.equal(before[k], weights[k]) for k in before)


def same(a, b):
    """Equality of nested results but for what rounding does.

    The last bits of a network's maps may differ between processes, and masks
    of random weights are near the threshold everywhere.
    """
    if isinstance(a, dict) and 'counts' in a:  # run lengths of a mask
        return (mask.decode(a) != mask.decode(b)).mean() < 0.01
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and a.is_floating_point():
        return torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@every_detector
def test_evaluation_equals_that_of_one_process(folder, name, monkeypatch):
    """Of three images: one process of two predicts an image again."""
    monkeypatch.chdir(folder / 'one')
    evaluate(name)
    metrics, predictions = [], []
    for count in ('one', 'two'):
        (scores, ) = folder.glob(f'{count}/{name}/*/*.json')
        metrics.append(json.loads(scores.read_text()))
        predictions.append(
            pickle.loads((folder / count / f'{name}.pkl').read_bytes()))
    for result in metrics:
        for key in ('data_time', 'time'):
            result.pop(key)
    assert metrics[0] == metrics[1]
    assert same(*predictions)
    assert len({p['img_id'] for p in predictions[0]}) == VAL
    if name == 'panoptic-fpn':
        assert 0 < metrics[0]['coco_panoptic/PQ_st'] < 100
    else:
        assert 0.01 < metrics[0]['coco/segm_mAP'] < 0.99
        assert 0.01 < metrics[0]['coco/bbox_mAP'] < 0.99
