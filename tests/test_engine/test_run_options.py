# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper

from mmxvit.engine import run_options
from mmxvit.engine.command import UserError


def config(scope='mmdet', **more):
    return Config(
        dict(
            default_scope=scope,
            model=dict(type='Model'),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict()),
            test_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    dataset=dict(
                        type='A',
                        pipeline=[
                            dict(type='LoadImageFromFile'),
                            dict(type='Pack')
                        ]))),
            test_evaluator=dict(type='Metric'),
            **more))


def test_amp(monkeypatch):
    cfg = config()
    monkeypatch.setattr(run_options, 'get_device', lambda: 'cuda')
    run_options.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    cfg.optim_wrapper.loss_scale = 512.
    run_options.use_amp(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.
    cfg.optim_wrapper.type = OptimWrapper
    run_options.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    cfg.optim_wrapper.type = 'DeepSpeedOptimWrapper'
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper'):
        run_options.use_amp(cfg)


@pytest.mark.parametrize('given', [
    dict(type='OptimWrapper'), {},
    dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16',
         use_fsdp=True)])
def test_amp_on_a_cpu(monkeypatch, given):
    monkeypatch.setattr(run_options, 'get_device', lambda: 'cpu')
    cfg = config()
    cfg.optim_wrapper = dict(optimizer=dict(), accumulative_counts=2, **given)
    for _ in range(2):  # as one writes it into a config, too
        run_options.use_amp(cfg)
        assert cfg.optim_wrapper == dict(
            type='mmxvit.CPUAmpOptimWrapper', optimizer=dict(),
            accumulative_counts=2)


def test_amp_on_other_devices(monkeypatch):
    monkeypatch.setattr(run_options, 'get_device', lambda: 'mps')
    with pytest.raises(UserError, match="no mixed precision on 'mps'"):
        run_options.use_amp(config())


def test_auto_scale_lr():
    with pytest.raises(UserError, match='base_batch_size'):
        run_options.use_auto_scale_lr(config())
    cfg = config(auto_scale_lr=dict(base_batch_size=64))
    run_options.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=64, enable=True)
    # a step of two batches is one of twice the size
    cfg = config(auto_scale_lr=dict(base_batch_size=64))
    cfg.optim_wrapper.accumulative_counts = 2
    run_options.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=32, enable=True)


@pytest.mark.parametrize('hooks', [
    {}, dict(default_hooks=dict(timer=dict(type='IterTimerHook'))),
    *(dict(default_hooks=dict(
        checkpoint=dict(type=kind), logger=dict(type='LoggerHook')))
      for kind in ('CheckpointHook', 'mmengine.CheckpointHook',
                   CheckpointHook))
])
def test_own_hooks(hooks):
    cfg = config(**hooks)
    run_options.use_own_hooks(cfg)
    assert cfg.default_hooks.checkpoint.type == 'mmxvit.AtomicCheckpointHook'
    assert cfg.default_hooks.logger.type == 'mmxvit.LoggerHook'


def test_hooks_of_the_user_stay():
    namesake = type('CheckpointHook', (CheckpointHook, ), {})
    for kind in ('MyHook', namesake):
        own = dict(checkpoint=dict(type=kind, a=1), logger=None)
        cfg = config(default_hooks=dict(own))
        run_options.use_own_hooks(cfg)
        assert cfg.default_hooks == own


def test_nothing_to_resume_keeps_load_from(tmp_path):
    cfg = config(work_dir=str(tmp_path), load_from='coco.pth')
    notes = run_options.use_resume(cfg, 'auto')
    assert (cfg.load_from, cfg.resume) == ('coco.pth', False)
    assert 'starts from the beginning' in notes[0]


def test_tta_of_the_config():
    cfg = config('mmseg', tta_model=dict(type='TTA'),
                 tta_pipeline=[dict(type='Load')])
    run_options.use_tta(cfg)
    assert cfg.model == dict(type='TTA', module=dict(type='Model'))
    assert cfg.test_dataloader.dataset.dataset.pipeline == [dict(type='Load')]


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
def test_tta_by_flipping(scope):
    cfg = config(scope)
    run_options.use_tta(cfg)
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    assert [flip.prob for flip in augment.transforms[0]] == [1., 0.]
    assert cfg.model.module.type == 'Model'


@pytest.mark.parametrize('model, merge', [
    ('EncoderDecoder', 'SegTTAModel'),
    ('mmxvit.MultiTaskSegmentor', 'mmxvit.MultiTaskSegTTAModel'),
])
def test_tta_of_segmentors_by_flipping(model, merge):
    """Labels are not flipped, and what follows them still does."""
    cfg = config('mmseg')
    cfg.model.type = model
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='mmxvit.LoadSegAnnotations'),
        dict(type='Recode'),
        dict(type='PackSegInputs', meta_keys=('ori_shape', ))
    ]
    cfg.test_dataloader.dataset.dataset.pipeline = steps
    run_options.use_tta(cfg)
    assert cfg.model == dict(type=merge, module=dict(type=model))
    *before, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert before == steps[:2]
    flips, *after, (pack, ) = augment.transforms
    assert [(flip.type, flip.prob) for flip in flips] == [
        ('RandomFlip', 1.), ('RandomFlip', 0.)]
    assert after == [[step] for step in steps[2:4]]
    assert pack == dict(
        type='PackSegInputs',
        meta_keys=('ori_shape', 'flip', 'flip_direction'))


def test_tta_of_segmentors_without_labels():
    cfg = config('mmseg')
    run_options.use_tta(cfg)
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    assert [[step.type for step in views] for views in augment.transforms
            ] == [['RandomFlip'] * 2, ['Pack']]


@pytest.mark.parametrize('given, lacking', [
    ({}, 'tta_model and tta_pipeline'),
    (dict(tta_model=dict(type='TTA')), 'tta_pipeline'),
])
def test_tta_lacking_in_other_scopes(given, lacking):
    with pytest.raises(UserError, match=f'--tta without {lacking} in'):
        run_options.use_tta(config('mine', **given))


def test_out():
    cfg = config()
    run_options.use_out(cfg, 'pred.pkl')
    assert cfg.test_evaluator == [
        dict(type='Metric'),
        dict(type='DumpDetResults', out_file_path='pred.pkl')
    ]
    cfg = config('mmpretrain')
    run_options.use_out(cfg, 'pred.pkl')
    assert cfg.test_evaluator[1].type == 'DumpResults'
    cfg = config('mmseg')
    run_options.use_out(cfg, 'maps')
    assert cfg.test_evaluator == [dict(type='Metric', output_dir='maps')]


@pytest.mark.parametrize('scope, out, message', [
    ('mmdet', 'pred.json', r'named \*\.pkl'),
    ('mmseg', 'pred.pkl', 'must be a folder'),
    ('mine', 'pred.pkl', "default_scope = 'mine'"),
    ('mmdet', 'old.pkl', 'exists already'),
    ('mmseg', 'maps', 'exists already'),
])
def test_out_is_refused(tmp_path, scope, out, message):
    (tmp_path / 'old.pkl').write_text('mine')
    (tmp_path / 'maps').mkdir()
    (tmp_path / 'maps/0.png').write_text('mine')
    with pytest.raises(UserError, match=message):
        run_options.use_out(config(scope), out)


def test_show_dir_counts_from_here_and_is_new(tmp_path):
    cfg = config(default_hooks=dict(
        visualization=dict(type='DetVisualizationHook', score_thr=0.1)))
    run_options.use_show_dir(cfg, 'pics')
    assert cfg.default_hooks.visualization == dict(
        type='DetVisualizationHook', score_thr=0.1, draw=True,
        test_out_dir=str(tmp_path / 'pics'))
    (tmp_path / 'pics').mkdir()
    (tmp_path / 'pics/0.png').write_text('mine')
    with pytest.raises(UserError, match='exists already'):
        run_options.use_show_dir(config(), 'pics')
