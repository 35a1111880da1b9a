# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmxvit.engine.checks import check_channels
from mmxvit.engine.command import (
    SCOPES,
    UserError,
    _unsynchronise,
    add_config_arguments,
    add_run_arguments,
    build_runner,
    check_operators,
    command,
    load_config,
    load_run_config,
    type_name,
    use_safe_loading,
)
from mmxvit.engine.predict import build_model
from mmxvit.utils.checkpoint import CheckpointError


def write(path, text='model = dict(backbone=dict(type="A"))\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def parse(*argv):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    add_run_arguments(parser)
    return parser.parse_args(argv)


def test_typo_in_the_name_of_a_config(tmp_path):
    write(tmp_path / 'configs/xformer/yolov3_xformer_coco.py')
    write(tmp_path / 'configs/lvt/fpn_lvt.py')
    write(tmp_path / 'mine/yolov3_xformer_cells.py')
    with pytest.raises(UserError) as error:
        load_config('mine/yolov3_xfomer_coco.py')
    # configs of the package come after these
    assert str(error.value).splitlines()[:3] == [
        'mine/yolov3_xfomer_coco.py: no such config file; nearest names:',
        '  configs/xformer/yolov3_xformer_coco.py',
        '  mine/yolov3_xformer_cells.py'
    ]


def test_config_in_the_wrong_folder_and_without_suffix(tmp_path):
    write(tmp_path / 'configs/xformer/yolov3_xformer_coco.py')
    for path in ('yolov3_xformer_coco.py', 'nowhere/yolov3_xformer_coco'):
        with pytest.raises(UserError,
                           match=r'\n  configs/xformer/yolov3_xformer_coco'):
            load_config(path)


def test_nothing_similar():
    with pytest.raises(UserError, match='nor any with a similar name'):
        load_config('zzzzzzzzzzzzzzzz.py')


def test_missing_base_and_base_itself(tmp_path):
    path = write(tmp_path / 'a.py', "_base_ = './b.py'\n")
    with pytest.raises(UserError, match=r'_base_ is missing.*b\.py'):
        load_config(path)
    with pytest.raises(UserError, match='has no `model`'):
        load_config(write(tmp_path / 'part.py', 'optimizer = 1\n'))


def test_missing_task_package(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.py',
                 'default_scope = "mmseg"\nmodel = dict(type="A")\n')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match='not installed; run: pip install '
                       '"onedl-mmsegmentation>='):
        load_config(path)


def test_pretrained_can_be_set_from_the_command_line(tmp_path):
    path = write(tmp_path / 'a.py',
                 'pretrained = None\nmodel = dict(backbone=dict(type="A"))\n')
    assert 'init_cfg' not in load_config(path).model.backbone
    cfg = load_config(path, dict(pretrained='weights.pth'))
    assert cfg.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint='weights.pth', prefix='backbone.')


def test_pretrained_of_the_config_is_its_own_affair(tmp_path):
    """As in mmdet's dino-5scale_swin-l: another prefix, or another use."""
    path = write(tmp_path / 'a.py', '''
pretrained = 'https://example.org/swin.pth'
model = dict(backbone=dict(type='A', init_cfg=dict(
    type='Pretrained', checkpoint=pretrained)))
''')
    given = dict(type='Pretrained', checkpoint='https://example.org/swin.pth')
    for options in (None, dict(randomness=dict(seed=1))):
        assert load_config(path, options).model.backbone.init_cfg == given
    for nothing in (None, ''):
        cfg = load_config(path, dict(pretrained=nothing))
        assert 'init_cfg' not in cfg.model.backbone


def test_base_in_a_package_that_mmengine_cannot_find(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.py', "_base_ = 'mmseg::_base_/schedule.py'\n")
    monkeypatch.setattr('mmengine.config.config.is_installed',
                        lambda package: False)
    with pytest.raises(UserError, match=r'a\.py: .*mmsegmentation.* by its '
                       'path'):
        load_config(path)
    # a mistake in the config's own code is not explained away
    path = write(tmp_path / 'b.py', '_base_ = []\nimport no_such_module\n')
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        load_config(path)


def test_task_package_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / '__init__.py').write_text(
        'raise AssertionError("MMCV==9 is used")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr('mmxvit.engine.command.SCOPES', (*SCOPES, 'broken'))
    path = write(tmp_path / 'a.py', "default_scope = 'broken'\nmodel = {}\n")
    with pytest.raises(UserError, match=r'a\.py: needs broken .* cannot be '
                       'imported: AssertionError: MMCV==9 is used'):
        load_config(path)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_mmpretrain_and_torchvision_may_be_absent(tmp_path, scope):
    pytest.importorskip(scope)
    path = write(tmp_path / 'a.py',
                 f"default_scope = '{scope}'\nmodel = {{}}\n")
    code = f"""
import importlib.abc
import sys


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmpretrain', 'torchvision'):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)


import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in (
    'mmpretrain', 'torchvision') else real(name, package)
sys.meta_path.insert(0, Absent())
from mmxvit.engine.command import load_config
load_config({str(path)!r})
assert not any(name.startswith(('mmpretrain', 'torchvision'))
               for name in sys.modules)
"""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_mmcv_without_operators_is_one_line(tmp_path):
    path = write(tmp_path / 'a.py', "default_scope = 'mmdet'\nmodel = {}\n")
    code = f"""
import sys
sys.modules['mmcv._ext'] = None  # as in a wheel without operators
from mmxvit.engine.command import command, load_config
command(lambda argv: load_config({str(path)!r}))()
"""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True)
    assert result.returncode == 1
    (line, ) = result.stderr.splitlines()
    assert line.startswith(f'error: {path}: needs mmdet')
    assert 'is without its operators; compile it' in line


def test_pure_python_config(tmp_path):
    """Its types are classes, and mmdet's have no default_scope."""
    path = write(tmp_path / 'a.py', '''
from mmdet.models import FPN, RetinaNet
from mmengine.hooks import CheckpointHook
from mmxvit.models.backbones import XFormer

default_scope = None
model = dict(type=RetinaNet, backbone=dict(type=XFormer, arch='xformer'),
             neck=dict(type=FPN, in_channels=[1, 2, 3, 4]))
hook = dict(type=CheckpointHook)
''')
    cfg = load_config(path)
    assert cfg.default_scope == 'mmdet'
    assert type_name(cfg.model) == 'mmdet.RetinaNet'
    assert type_name(cfg.model.backbone) == 'mmxvit.XFormer'
    assert type_name(cfg.hook) == 'CheckpointHook'
    assert type_name(dict(type='mmengine.CheckpointHook')) == 'CheckpointHook'
    with pytest.raises(UserError, match=r'in_channels=\[64, 96, 128, 160\]'):
        check_channels(cfg)


@pytest.mark.parametrize('scope, device, cuda, compiled, refused', [
    ('mmdet', 'cuda', True, 'not available', True),
    ('mmdet', 'cuda:1', True, 'not available', True),
    ('mmdet', 'cuda', True, '12.8', False),
    ('mmdet', 'cpu', True, 'not available', False),
    ('mmdet', 'cuda', False, 'not available', False),
    ('mmpretrain', 'cuda', True, 'not available', False),
])
def test_detector_on_a_gpu_that_mmcv_does_not_serve(
        monkeypatch, scope, device, cuda, compiled, refused):
    monkeypatch.setattr('mmxvit.engine.command.is_cuda_available',
                        lambda: cuda)
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version',
                        lambda: compiled)
    cfg = Config(dict(default_scope=scope, model=dict(type='A')))
    if not refused:
        check_operators(cfg, device)
        return
    for check in (lambda: check_operators(cfg, device),
                  lambda: build_model(cfg, None, device),
                  lambda: build_runner(cfg)):
        with pytest.raises(UserError, match='CUDA_VISIBLE_DEVICES= .*: '
                           'FORCE_CUDA=1 MMCV_WITH_OPS=1 pip install'):
            check()


@pytest.mark.parametrize('new', ['toy', 'data/coco/small/'])
def test_data_root_can_be_set_from_the_command_line(tmp_path, new):
    path = write(tmp_path / 'a.py', '''
model = dict(type='A')
data_root = 'data/coco/'
val_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(
    data_root=data_root, ann_file='a.json', data_prefix=dict(img='val/'))))
test_dataloader = val_dataloader
test_evaluator = [dict(ann_file=data_root + 'a.json', other='data/coconut')]
''')
    cfg = load_config(path, dict(data_root=new))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.dataset.data_root.rstrip('/') == new.rstrip('/')
        assert loader.dataset.dataset.ann_file == 'a.json'
    assert cfg.test_evaluator[0] == dict(
        ann_file=os.path.join(new, 'a.json'), other='data/coconut')
    assert load_config(path).test_evaluator[0].ann_file == 'data/coco/a.json'


@pytest.mark.parametrize('argv, text, expected', [
    ((), '', './work_dirs/a'),
    ((), 'work_dir = "runs/x"\n', 'runs/x'),
    (('--work-dir', 'w'), 'work_dir = "runs/x"\n', 'w'),
    (('--cfg-options', 'work_dir=y'), '', 'y'),
])
def test_work_dir(tmp_path, argv, text, expected):
    path = write(tmp_path / 'a.py', f'model = dict(type="A")\n{text}')
    assert load_run_config(parse(path, *argv)).work_dir == expected


@pytest.mark.parametrize('option', ['--local_rank', '--local-rank'])
def test_both_spellings_of_local_rank(tmp_path, monkeypatch, option):
    path = write(tmp_path / 'a.py')
    monkeypatch.delenv('LOCAL_RANK')
    cfg = load_run_config(parse(path, f'{option}=3', '--launcher', 'slurm'))
    assert os.environ['LOCAL_RANK'] == '3'
    assert cfg.launcher == 'slurm'
    # what torchrun says counts more
    monkeypatch.setenv('LOCAL_RANK', '1')
    load_run_config(parse(path, f'{option}=3'))
    assert os.environ['LOCAL_RANK'] == '1'


@pytest.mark.parametrize('kind', [UserError, CheckpointError])
def test_command_turns_mistakes_into_a_message(monkeypatch, kind):

    @command
    def main(argv=None):
        raise kind(f'{argv[0]} is missing')

    pauses = []
    monkeypatch.setattr('time.sleep', pauses.append)
    for rank in '01':
        monkeypatch.setenv('LOCAL_RANK', rank)
        with pytest.raises(SystemExit) as stop:
            main(['data'])
        assert stop.value.code == 'error: data is missing'
    assert len(pauses) == 1  # the second lets the first go first


def test_command_does_not_hide_defects():

    @command
    def main(argv=None):
        raise ValueError('a defect')

    with pytest.raises(ValueError):
        main([])


def test_mmengine_loads_files_by_our_loader(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(weight=torch.ones(2)), path)
    path.write_bytes(path.read_bytes()[:-20])
    use_safe_loading()
    with pytest.raises(CheckpointError, match='truncated'):
        CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def test_processes_on_the_cpu_have_plain_batch_norm():
    cfg = Config.fromfile(
        Path(__file__).parents[2] / 'configs/fcaformer/'
        'cascade-mask-rcnn_fcaformer-l1_fpn_8xb2-ms-crop-3x_coco.py')
    heads = cfg.model.roi_head.bbox_head
    assert [h.norm_cfg.type for h in heads] == ['SyncBN'] * 3
    _unsynchronise(cfg.model)
    assert [h.norm_cfg.type for h in heads] == ['BN'] * 3
    assert all(h.norm_cfg.requires_grad for h in heads)
    assert 'SyncBN' not in str(cfg.model)
