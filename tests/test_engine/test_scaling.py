# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What docs/user_guides/scaling.md sets, by configs and commands.

FSDP runs with two processes on the CPU (gloo).
"""
import os
import re
import runpy
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmxvit.engine.command import (
    UserError,
    build_runner,
    check_strategy,
    load_config,
)
from mmxvit.engine.run_options import use_resume

from ..gloo import leave_group
from ..test_tools.conftest import cls_config, data  # noqa: F401

ROOT = Path(__file__).parents[2]
STRATEGIES = ROOT / 'configs/_base_/strategies'
CLASSIFIER = ROOT / 'configs/lolvit/lolvit-s_8xb128_in1k.py'


def write_configs(folder, data):  # noqa: F811
    """The same training with and without FSDP."""
    cfg = Config(cls_config(data))
    cfg.model.backbone = dict(
        type='mmxvit.LOLViT', arch='s', out_indices=(3, ))
    cfg.model.head.in_channels = 128
    cfg.train_dataloader.batch_size = 1  # an epoch is two steps of two
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.5, momentum=0.9),
        clip_grad=dict(max_norm=0.1))  # far below the norm
    cfg.env_cfg = dict(dist_cfg=dict(backend='nccl'))
    cfg.dump(str(folder / 'ddp.py'))
    for name in ('fsdp', 'resumed'):
        (folder / f'{name}.py').write_text(
            f"_base_ = ['ddp.py', '{STRATEGIES}/fsdp.py']\n")
    (folder / 'deepspeed.py').write_text(f"""
_base_ = ['ddp.py', '{STRATEGIES}/deepspeed.py']
optim_wrapper = dict(
    _delete_=True,
    type='DeepSpeedOptimWrapper',
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
default_hooks = dict(checkpoint=dict(save_optimizer=False))
strategy = dict(
    gradient_clipping=0.1, config=dict(
        train_micro_batch_size_per_gpu=1, zero_allow_untested_optimizer=True))
""")


def train(name, work_dir, *options):
    runpy.run_path(str(ROOT / 'tools/train.py'))['main']([
        f'{name}.py', '--work-dir', work_dir, '--launcher', 'pytorch',
        *options
    ])


def join(rank, folder, port):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    os.chdir(folder)
    dist.init_process_group('gloo')


def run_rank(rank, folder, port):
    join(rank, folder, port)
    two_epochs = ('--cfg-options', 'train_cfg.max_epochs=2')
    train('ddp', 'ddp', *two_epochs)
    train('fsdp', 'fsdp')
    train('resumed', 'fsdp', '--resume', *two_epochs)
    leave_group()


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data):  # noqa: F811
    try:
        torch.cpu.Stream(priority=0)
    except TypeError:
        pytest.skip('FSDP of torch 2.1 does not run on CPUs')
    folder = tmp_path_factory.mktemp('fsdp')
    write_configs(folder, data)
    mp.spawn(run_rank, (folder, free_port()), nprocs=2)
    return folder


@pytest.mark.parametrize('epoch', [1, 2])
def test_fsdp_trains_and_resumes_like_ddp(folder, epoch):
    """Weights and momentum; the second epoch is a resumed training."""
    ddp, fsdp = (
        torch.load(folder / f'{name}/epoch_{epoch}.pth', weights_only=False)
        for name in ('ddp', 'fsdp'))
    assert ddp['meta']['iter'] == fsdp['meta']['iter'] == 2 * epoch
    assert ddp['state_dict'].keys() == fsdp['state_dict'].keys()
    for key, value in ddp['state_dict'].items():
        torch.testing.assert_close(
            fsdp['state_dict'][key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert len(fsdp['optimizer']['state']) == len(ddp['optimizer']['state'])


def test_its_checkpoint_is_tested_by_one_process(folder, monkeypatch):
    monkeypatch.chdir(folder)
    runpy.run_path(str(ROOT / 'tools/test.py'))['main'](
        ['fsdp.py', 'fsdp/epoch_2.pth', '--work-dir', 'tested'])
    assert list(Path('tested').glob('*/*.json'))


def run_deepspeed_rank(rank, folder, port):
    join(rank, folder, port)
    for name in ('ddp', 'deepspeed'):
        train(name, name)
    leave_group()


def test_deepspeed_trains_like_ddp(tmp_path, data, monkeypatch):  # noqa: F811
    pytest.importorskip('deepspeed.runtime.fp16.onebit')
    monkeypatch.setenv('DS_ACCELERATOR', 'cpu')
    write_configs(tmp_path, data)
    mp.spawn(run_deepspeed_rank, (tmp_path, free_port()), nprocs=2)
    ddp, deepspeed = (
        torch.load(tmp_path / f'{name}/epoch_1.pth', weights_only=False)
        for name in ('ddp', 'deepspeed'))
    assert ddp['state_dict'].keys() == deepspeed['state_dict'].keys()
    for key, value in ddp['state_dict'].items():
        # statistics of few values say rounding a hundred times louder
        torch.testing.assert_close(
            deepspeed['state_dict'][key], value, rtol=1e-4,
            atol=1e-3 if 'running_' in key else 1e-5, msg=key)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / 'tools/test.py'))['main'](
        ['deepspeed.py', 'deepspeed/epoch_1.pth', '--work-dir', 'tested'])
    assert list(Path('tested').glob('*/*.json'))


def strategy_config(name, **changes):
    cfg = Config.fromfile(STRATEGIES / f'{name}.py')
    cfg.merge_from_dict({
        'model': dict(type='A'), 'launcher': 'pytorch',
        'optim_wrapper': dict(type='OptimWrapper'), **changes
    })
    return cfg


def test_strategies_say_what_they_need(monkeypatch):
    check_strategy(Config())
    check_strategy(strategy_config('fsdp'))
    with pytest.raises(UserError, match='dist_train'):
        build_runner(strategy_config('fsdp', launcher='none'))
    with pytest.raises(UserError, match="set runner_type = 'FlexibleRunner'"):
        check_strategy(strategy_config('fsdp', runner_type='Runner'))
    with pytest.raises(UserError, match='EMAHook'):
        check_strategy(strategy_config(
            'fsdp', custom_hooks=[dict(type='EMAHook')]))
    layers = 'mmxvit.LayerDecayOptimWrapperConstructor'
    for changes in (dict(constructor=layers),
                    dict(paramwise_cfg=dict(flat_decay_mult=0.))):
        with pytest.raises(UserError, match='weight decay by the shape'):
            check_strategy(strategy_config('fsdp', optim_wrapper=changes))
    found = []
    monkeypatch.setattr('importlib.util.find_spec',
                        lambda name: name if name in found else None)
    for state in ('not installed', 'too new'):
        with pytest.raises(UserError, match=f'{state}.* install deepspeed=='):
            check_strategy(strategy_config('deepspeed'))
        found += ['deepspeed'] if not found else [
            'deepspeed.runtime.fp16.onebit']
    with pytest.raises(UserError, match=r"init_cfg to dict.*='a\.pth'"):
        check_strategy(strategy_config('deepspeed', load_from='a.pth'))
    with pytest.raises(UserError, match='are folders .*save_optimizer=False'):
        check_strategy(strategy_config(
            'deepspeed', default_hooks=dict(checkpoint=dict(interval=1))))
    with pytest.raises(UserError, match='are folders'):  # MMEngine's hook
        check_strategy(strategy_config('deepspeed'))
    weights_only = dict(checkpoint=dict(save_optimizer=False))
    with pytest.raises(UserError, match='--resume: DeepSpeedStrategy'):
        use_resume(strategy_config('deepspeed'), 'auto')
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper'):
        check_strategy(strategy_config(
            'deepspeed', default_hooks=weights_only))
    check_strategy(strategy_config(
        'deepspeed', default_hooks=weights_only,
        optim_wrapper=dict(type='DeepSpeedOptimWrapper')))


def classifier(**options):
    """A shipped classifier, changed by --cfg-options, and its optimizer."""
    cfg = load_config(
        str(CLASSIFIER),
        {key.replace('__', '.'): value for key, value in options.items()})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.train()
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


def images(count):
    from mmpretrain.structures import DataSample
    torch.manual_seed(1)
    return dict(
        inputs=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i) for i in range(count)])


def test_accumulated_gradients_step_like_a_large_batch():
    batch = images(4)
    weights = []
    for parts in (1, 2):
        model, wrapper = classifier(optim_wrapper__accumulative_counts=parts)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        start = [p.detach().clone() for p in model.parameters()]
        if parts > 1:
            wrapper.initialize_count_status(model, 0, parts)
        size = 4 // parts
        for i in range(parts):
            assert all(map(torch.equal, start, model.parameters()))
            model.train_step(
                {k: v[i * size:(i + 1) * size] for k, v in batch.items()},
                wrapper)
        weights.append(list(model.parameters()))
        assert not all(map(torch.equal, start, model.parameters()))
    for large, accumulated in zip(*weights, strict=True):
        torch.testing.assert_close(accumulated, large, rtol=0, atol=1e-5)


def test_checkpointing_by_config_changes_nothing_but_memory():
    results = []
    for with_cp in (False, True):
        model, wrapper = classifier(model__backbone__with_cp=with_cp)
        assert model.backbone.with_cp is with_cp
        log = model.train_step(images(2), wrapper)
        results.append([log['loss'], *model.state_dict().values()])
    for plain, saving in zip(*results, strict=True):
        torch.testing.assert_close(saving, plain)


def test_configs_of_the_page_are_read(tmp_path, monkeypatch):
    page = (ROOT / 'docs/user_guides/scaling.md').read_text()
    texts = re.findall(r'^```python\n(_base_ = .*?)^```', page, re.M | re.S)
    assert len(texts) == 2
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
    for text, kind, wrapper in zip(
            texts, ('mmxvit.FSDPStrategy', 'DeepSpeedStrategy'),
            ('OptimWrapper', 'DeepSpeedOptimWrapper'), strict=True):
        file = tmp_path / f'{kind}.py'
        file.write_text(
            text.replace("'panoptic", f"'{ROOT}/configs/lvt/panoptic").replace(
                "'../_base_", f"'{ROOT}/configs/_base_"))
        cfg = load_config(str(file))
        cfg.launcher = 'pytorch'
        check_strategy(cfg)
        assert cfg.strategy.type == kind
        assert cfg.optim_wrapper.type == wrapper


def test_image_has_the_torch_that_set_up_pins():
    docker = (ROOT / 'docker/Dockerfile').read_text()
    pins = (ROOT / 'requirements/onedl_setup.txt').read_text()
    image, = re.findall(r'^FROM pytorch/pytorch:([\d.]+)-cuda', docker, re.M)
    assert f'torch=={image}\n' in pins
    for file in re.findall(r'requirements/\w+\.txt', docker):
        assert (ROOT / file).is_file(), file
