# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Two heads on one backbone."""
import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

pytest.importorskip('mmseg')

CLASSES = dict(drivable=2, lane=3)


def head(classes, **kwargs):
    return dict(
        type='SegformerHead', in_channels=[48, 64, 96, 128],
        in_index=[0, 1, 2, 3], channels=8, num_classes=classes,
        norm_cfg=dict(type='BN'), dropout_ratio=0., **kwargs)


def build(**kwargs):
    init_default_scope('mmseg')
    heads = {task: head(n) for task, n in CLASSES.items()}
    return MODELS.build({
        **dict(
            type='mmxvit.MultiTaskSegmentor',
            data_preprocessor=dict(
                type='SegDataPreProcessor', size=(64, 96), seg_pad_val=255),
            backbone=dict(type='mmxvit.LOLViT', arch='s'),
            decode_head=heads,
            test_cfg=ConfigDict(mode='whole')),
        **kwargs
    })


def samples(count=2, size=(64, 96), fill=None, tasks=tuple(CLASSES)):
    from mmseg.structures import SegDataSample
    result = []
    for _ in range(count):
        labels = torch.stack([
            torch.randint(0, n, size) if fill is None else torch.full(
                size, fill) for n in CLASSES.values()
        ])
        result.append(
            SegDataSample(
                metainfo=dict(
                    tasks=tasks, img_shape=size, ori_shape=(70, 50)),
                gt_sem_seg=PixelData(data=labels)))
    return result


def test_each_head_has_its_own_labels():
    """Its loss is that of the head alone, on its channel."""
    from mmseg.structures import SegDataSample
    model = build()
    inputs, truth = torch.rand(2, 3, 64, 96), samples()
    losses = model.loss(inputs, truth)
    assert set(losses) == {
        'drivable.loss_ce', 'drivable.acc_seg', 'lane.loss_ce',
        'lane.acc_seg'}
    maps = model.extract_feat(inputs)
    for i, task in enumerate(CLASSES):
        alone = [
            SegDataSample(
                gt_sem_seg=PixelData(data=s.gt_sem_seg.data[i:i + 1]))
            for s in truth
        ]
        expected = model.decode_head[task].loss(maps, alone, None)
        assert torch.equal(losses[f'{task}.loss_ce'], expected['loss_ce'])
    assert truth[0].gt_sem_seg.data.shape == (2, 64, 96)  # as it was


def test_all_parameters_have_gradients():
    model = build()
    losses = model.loss(torch.rand(2, 3, 64, 96), samples())
    model.parse_losses(losses)[0].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_heads_are_initialised():
    model = build()
    model.init_weights()
    for part in model.decode_head.values():
        assert part.conv_seg.weight.std() < 0.02  # Normal, std 0.01
        assert (part.conv_seg.bias == 0).all()


@pytest.mark.parametrize('test_cfg', [
    ConfigDict(mode='whole'),
    ConfigDict(mode='slide', crop_size=(64, 64), stride=(40, 40)),
], ids=lambda cfg: cfg['mode'])
def test_prediction_in_the_size_of_the_file(test_cfg):
    model = build(test_cfg=test_cfg).eval()
    inputs = torch.rand(2, 3, 83, 101)
    with torch.no_grad():
        results = model.predict(inputs, samples(size=(83, 101)))
    for sample in results:
        assert sample.pred_sem_seg.data.shape == (2, 70, 50)
        logits = sample.seg_logits.data.split([2, 3])
        for part, labels in zip(logits, sample.pred_sem_seg.data,
                                strict=True):
            assert torch.equal(part.argmax(0), labels)


def test_whole_is_what_the_heads_predict():
    model = build().eval()
    inputs = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        (sample, ) = model.predict(inputs)
        raw = model(inputs)
    assert [tuple(r.shape[1:]) for r in raw] == [(2, 16, 24), (3, 16, 24)]
    for labels, logits in zip(sample.pred_sem_seg.data, raw, strict=True):
        full = torch.nn.functional.interpolate(
            logits, (64, 96), mode='bilinear')
        assert torch.equal(full.argmax(1)[0], labels)


def test_preprocessing_pads_all_maps():
    model = build()
    truth = samples(size=(50, 60))
    data = model.data_preprocessor(
        dict(inputs=[torch.zeros(3, 50, 60)] * 2, data_samples=truth), True)
    labels = data['data_samples'][0].gt_sem_seg.data
    assert labels.shape == (2, 64, 96)
    assert (labels[:, 50:] == 255).all() and (labels[:, :, 60:] == 255).all()
    assert (labels[:, :50, :60] < 3).all()


def test_views_are_merged_task_by_task():
    """The mean of probabilities, not of logits, nor over all classes."""
    model = MODELS.build(
        dict(type='mmxvit.MultiTaskSegTTAModel', module=build()))
    (first, second) = samples()
    second.gt_sem_seg = PixelData(data=first.gt_sem_seg.data.flip(-1))
    logits = 5 * torch.randn(2, 5, 64, 96)
    logits[1, :2] += 20  # no matter for the lanes
    for sample, scores in zip((first, second), logits, strict=True):
        sample.seg_logits = PixelData(data=scores)
    truth = first.gt_sem_seg.data.clone()
    (merged, ) = model.merge_preds([[first, second]])
    drivable = (logits[:, :2].softmax(1)[0] + logits[:, :2].softmax(1)[1])
    lane = (logits[:, 2:].softmax(1)[0] + logits[:, 2:].softmax(1)[1])
    expected = torch.stack([drivable.argmax(0), lane.argmax(0)])
    assert torch.equal(merged.pred_sem_seg.data, expected)
    assert not torch.equal(
        expected[1], (logits[0, 2:] + logits[1, 2:]).argmax(0))
    assert torch.equal(merged.gt_sem_seg.data, truth)
    assert 'seg_logits' not in merged


def test_nothing_labelled():
    model = build(
        decode_head={
            task: head(
                n,
                loss_decode=[
                    dict(type='CrossEntropyLoss'),
                    dict(type='TverskyLoss')
                ])
            for task, n in CLASSES.items()
        })
    total, _ = model.parse_losses(
        model.loss(torch.rand(2, 3, 64, 96), samples(fill=255)))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_other_tasks_are_refused():
    model = build()
    truth = samples(tasks=('lane', 'drivable'))
    with pytest.raises(ValueError, match='has the tasks drivable, lane, the '
                       'data set lane, drivable'):
        model.loss(torch.rand(2, 3, 64, 96), truth)
    with pytest.raises(ValueError, match='data set lane, drivable'):
        model.eval().predict(torch.rand(2, 3, 64, 96), truth)


@pytest.mark.parametrize('change, message', [
    (dict(decode_head=head(2)), 'a head for each task'),
    (dict(auxiliary_head=head(2)), 'auxiliary_head'),
    (dict(decode_head=dict(a=head(2, out_channels=1, threshold=0.3))),
     'decode_head.a.out_channels is 1'),
    (dict(decode_head=dict(a=head(2), b=head(2, align_corners=True))),
     'align_corners must be the same'),
])
def test_heads_that_cannot_be_used(change, message):
    with pytest.raises(ValueError, match=message):
        build(**copy.deepcopy(change))


def test_wrong_channels_are_told_before_a_run():
    from mmengine.config import Config

    from mmxvit.engine.checks import check_channels
    from mmxvit.engine.command import UserError
    heads = dict(a=head(2), b=dict(head(2), in_channels=[48, 64, 96, 99]))
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(
                backbone=dict(type='mmxvit.LOLViT', arch='s'),
                decode_head=heads)))
    with pytest.raises(UserError, match='model.decode_head.b.in_channels'):
        check_channels(cfg)
