# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Every shipped config: name, self-containedness, a step of its model."""
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmxvit.analysis.complexity import complexity
from mmxvit.analysis.paper_tables import load_counts
from mmxvit.engine.checkpoints import check_checkpoint, pretrained_weights
from mmxvit.engine.checks import check_channels
from mmxvit.engine.command import load_config
from mmxvit.utils.checkpoint import CheckpointError

from .shipped import CONFIGS, ROOT, few_proposals, marked, small_crops

every_config = pytest.mark.parametrize('path', marked(slow=set()))
# seconds each, and their like is tested
SLOW = {p.stem for p in CONFIGS
        if p.stem.startswith('cascade') and '-l1' not in p.stem}

# <head>_<backbone>[_<neck>]_<gpus>xb<batch>[-amp][-<size>]-<schedule>_<data>,
# classifiers <backbone>_<gpus>xb<batch>_in1k
NAME = re.compile(
    r'([a-z0-9-]+_){2,3}(\d+)xb(\d+)(-amp)?(-ms)?(-crop)?(-\d+(x\d+)?)?'
    r'-\d+(e|k|x)_[a-z0-9-]+'
    r'|[a-z0-9-]+_(\d+)xb(\d+)_in1k')


def build(cfg):
    if 'data_preprocessor' in cfg:  # as the Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def test_there_are_configs():
    assert len(CONFIGS) >= 40


@every_config
def test_name_says_the_batch(path):
    assert NAME.fullmatch(path.stem), path.stem
    gpus, batch = map(int, re.search(r'(\d+)xb(\d+)', path.stem).groups())
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == gpus * batch
    assert cfg.auto_scale_lr.get('enable', False) is False


@every_config
def test_self_contained_with_one_slot_for_weights(path, tmp_path):
    text = path.read_text()
    assert not re.search(r"['\"]\w+::", text)
    assert 'custom_imports' not in text
    cfg = Config.fromfile(path)
    assert cfg.pretrained is None and not cfg.model.backbone.get('init_cfg')
    filled = tmp_path / path.name
    filled.write_text(
        text.replace('pretrained = None', "pretrained = 'weights.pth'")
        .replace("'./", f"'{path.parent}/").replace(
            "'../_base_", f"'{ROOT}/_base_"))
    if 'pretrained = None' in text:
        backbone = Config.fromfile(filled).model.backbone
        # published as backbones, not as parts of classifiers
        bare = backbone.type in ('PyramidVisionTransformerV2', 'HRNet',
                                 'MixVisionTransformer')
        prefix = {} if bare else dict(prefix='backbone.')
        assert backbone.init_cfg == dict(
            type='Pretrained', checkpoint='weights.pth', **prefix)
        # also by --cfg-options
        given = load_config(str(path), dict(pretrained='weights.pth'))
        assert given.model.backbone == backbone


@pytest.mark.parametrize('name', [
    'xformer/fcn_hrnet-w18-small_4xb2-160k_cityscapes-1024x1024',
    'lvt/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'lvt/panoptic-fpn_pvtv2-b0_8xb8-ms-3x_coco',
])
def test_bare_weights_are_told_from_others(name, tmp_path):
    path = str(tmp_path / 'weights.pth')
    cfg = load_config(str(ROOT / f'{name}.py'), dict(pretrained=path))
    state = build(cfg).backbone.state_dict()
    torch.save(dict(state_dict=state), path)
    found = pretrained_weights(cfg)
    check_checkpoint(path, found['prefix'])
    for other in ({f'backbone.{k}': v for k, v in state.items()},
                  dict(weight=torch.ones(1))):
        torch.save(dict(state_dict=other), path)
        with pytest.raises(CheckpointError, match='no weights with the pref'):
            check_checkpoint(path, found['prefix'])


@pytest.mark.parametrize('name', [
    'segformer_lvt', 'segformer_xformer', 'segformer_fcaformer-l1',
    'segformer_cabvit-h-l1', 'segformer_lolvit-x', 'upernet_lvt',
    'upernet_xformer', 'upernet_fcaformer-l1', 'upernet_cabvit-h-l1',
    'upernet_lolvit-x',
])
def test_drop_path_is_that_of_the_family(name):
    family = name.partition('_')[2].partition('-')[0]
    rates = [
        Config.fromfile(p).model.backbone.drop_path_rate for p in CONFIGS
        if p.stem.startswith(f'{name}_')
    ]
    papers = dict(lvt=0.1, fcaformer=0.1, cabvit=0.1, xformer=0., lolvit=0.)
    assert rates == [papers[family]] * 2


@pytest.mark.parametrize('name, kept', [
    ('fcaformer/segformer_fcaformer-l1', ('position_bias', 'depth_bias')),
    ('lvt/segformer_mit-b0', ()),
])
def test_weight_decay_of_segformer(name, kept):
    """None for norms of the backbone and tables of positions."""
    cfg = Config.fromfile(ROOT / f'{name}_8xb2-160k_ade20k-512x512.py')
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(g['params'][0]): g for g in optimizer.param_groups}
    norms = tuple(
        n for n, m in model.backbone.named_modules(prefix='backbone')
        if isinstance(m, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)))
    assert norms
    for key, param in model.named_parameters():
        group = groups[id(param)]
        still = key.rpartition('.')[0] in norms or key.endswith(kept or '?')
        assert group['weight_decay'] == (0. if still else 0.01), key
        assert group['lr'] == pytest.approx(
            6e-4 if key.startswith('decode_head') else 6e-5), key


def rates_of_stages(name):
    """Learning rates of the backbone by stage, lowest first; of the head."""
    cfg = Config.fromfile(ROOT / f'fcaformer/{name}_ade20k-512x512.py')
    model = build(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rates = {id(p): g['lr'] for g in optimizer.param_groups
             for p in g['params']}
    names = {n: rates[id(p)] for n, p in model.named_parameters()}
    of_backbone = {r for n, r in names.items() if n.startswith('backbone.')}
    (head, ) = {r for n, r in names.items() if 'head.' in n}
    return sorted(of_backbone - {head}), head  # mmseg's: norms of its maps


@pytest.mark.parametrize('name', [
    'upernet_fcaformer-l1_8xb2-160k', 'upernet_fcaformer-l2-native_8xb2-160k',
    'upernet_convnext-t_8xb2-160k'])
def test_learning_rates_of_upernet_fall_by_stage(name):
    """The paper's decay of 0.9."""
    stages, head = rates_of_stages(name)
    assert head == pytest.approx(1e-4)
    # the stem and four stages, as by mmseg, which counts two more and a head
    assert stages == pytest.approx([1e-4 * 0.9**i for i in (7, 6, 5, 4, 3)])


@pytest.mark.parametrize('path', [
    pytest.param(p, id=p.stem) for p in CONFIGS
    if p.stem.endswith('cityscapes-1024x1024')])
def test_cityscapes_is_tested_by_windows(path):
    cfg = Config.fromfile(path)
    assert cfg.model.test_cfg == dict(
        mode='slide', crop_size=(1024, 1024), stride=(768, 768))
    assert cfg.model.data_preprocessor.size == (1024, 1024)


def test_numbers_of_images_of_bdd100k():
    """9000 and 2000, as in LOLViT's paper."""
    paths = [p for p in CONFIGS if p.stem.endswith('bdd100k')]
    assert paths
    for cfg in map(Config.fromfile, paths):
        assert cfg.train_dataloader.dataset.indices == 9000
        assert cfg.val_dataloader.dataset.indices == 2000
        assert cfg.test_dataloader.dataset.indices == 2000


@every_config
def test_builds_and_channels_match(path):
    cfg = Config.fromfile(path)
    check_channels(cfg)
    model = build(cfg)
    counts = load_counts().get(f'{path.parent.name}/{path.stem}')
    if counts:  # of the tables
        assert sum(p.numel() for p in model.parameters()) == counts.params


@pytest.mark.parametrize('path', marked(slow=SLOW))
def test_loss_and_prediction(path):
    cfg = Config.fromfile(path)
    few_proposals(cfg)
    small_crops(cfg)
    model = build(cfg)
    MessageHub.get_current_instance().update_info('iter', 0)  # for YOLOX
    data = TOY_INPUTS[cfg.default_scope](cfg)
    model.train()
    losses = model.forward(
        **model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused or cfg.get('find_unused_parameters'), unused
    model.eval()
    with torch.no_grad():
        results = model.forward(
            **model.data_preprocessor(data, False), mode='predict')
    assert len(results) == 2


@pytest.mark.parametrize('name', [
    'xformer/yolov3_xformer_8xb24-320-300e_coco',
    'lolvit/yolo_lolvit-s_8xb32-640-500e_coco',
    'lolvit/ssdlite_lolvit-x_8xb32-320-300e_coco',
    'lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco',
    'fcaformer/mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco',
    'fcaformer/cascade-mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco',
])
@pytest.mark.parametrize('num_items', [[0, 3], [0, 0]])
def test_images_without_objects(name, num_items):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    few_proposals(cfg)
    model = build(cfg).train()
    data = detection_inputs(cfg, num_items=num_items)
    losses = model.forward(
        **model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters()
               if p.grad is not None)


def detection_inputs(cfg, **kwargs):
    from mmdet.testing import demo_mm_inputs
    parts = cfg.model.get('roi_head', cfg.model)
    head = parts.bbox_head
    if isinstance(head, list):  # of a cascade
        head = head[0]
    return demo_mm_inputs(
        2, [[3, 64, 96]] * 2,
        num_classes=head.num_classes,
        with_mask='mask_head' in parts,
        with_semantic='semantic_head' in cfg.model,
        **kwargs)


def classification_inputs(cfg):
    from mmpretrain.structures import DataSample
    return dict(
        inputs=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i) for i in (1, 7)])


def segmentation_inputs(cfg):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    heads = cfg.model.decode_head
    heads = [heads] if 'type' in heads else heads.values()
    samples = []
    for _ in range(2):
        labels = torch.stack([
            torch.randint(head.num_classes, (64, 64)) for head in heads])
        labels[:, :8] = 255  # ignored
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(
            dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (64, 64)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2
    return dict(inputs=images, data_samples=samples)


TOY_INPUTS = dict(
    mmdet=detection_inputs,
    mmpretrain=classification_inputs,
    mmseg=segmentation_inputs)


def test_yolov3_xformer_has_the_papers_figures():
    """Table 4: 6.3 M; 3.8, 15.0 and 38.4 G at 320, 640 and 1024."""
    cfg = Config.fromfile(
        ROOT / 'xformer/yolov3_xformer_8xb24-320-300e_coco.py')
    model = build(cfg)
    for size, macs in ((320, 3.751e9), (640, 15.004e9)):
        counted = complexity(model, (3, size, size))
        assert counted.params == 6_310_835
        assert counted.paper == pytest.approx(macs, rel=1e-3)
        # scaling by area is exact but for SE, which is counted once
        at_1024 = counted.paper * (1024 / size)**2
        assert at_1024 == pytest.approx(38.409e9, rel=1e-3)


def test_classifier_has_the_papers_figures():
    """Table 3: 5.5 M, 1.7 G; at 256 pixels."""
    cfg = Config.fromfile(ROOT / 'xformer/xformer_8xb128_in1k.py')
    counted = complexity(build(cfg), (3, 256, 256))
    assert counted.params == 5_547_838
    assert counted.paper == pytest.approx(1.736e9, rel=1e-3)
    assert counted.executed <= counted.full


def test_segformer_has_the_inferred_figures():
    """Table 5 prints 5.3 M and 48.7 G at 1024; this structure has less."""
    cfg = Config.fromfile(
        ROOT / 'xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py')
    model = build(cfg)
    counted = complexity(model, (3, 512, 512))
    assert counted.params == 5_187_433
    assert counted.paper * 4 == pytest.approx(46.93e9, rel=1e-3)


def test_the_demo_changes_data_schedule_size_and_classes_only():
    folder = ROOT / 'xformer'
    coco = Config.fromfile(folder / 'yolov3_xformer_8xb24-320-300e_coco.py')
    demo = Config.fromfile(folder / 'yolov3_xformer_1xb4-256-16e_shapes.py')
    assert demo.model.bbox_head.pop('num_classes') == 5
    assert coco.model.bbox_head.pop('num_classes') == 80
    assert demo.model.to_dict() == coco.model.to_dict()

    def types(cfg):
        return [
            t['type'] for t in cfg.train_dataloader.dataset.dataset.pipeline
        ]

    assert types(demo) == types(coco)
    dataset = demo.test_dataloader.dataset
    assert dataset.data_root == 'data/shapes/'
    assert dataset.pipeline[1].scale == (256, 256)
