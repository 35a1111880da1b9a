# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmxvit.engine.checks import check_data
from mmxvit.utils import checkpoint as checkpoint_module

ROOT = Path(__file__).parents[2]
MOBILENET = dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 6))


@pytest.fixture
def train(script):
    return script('tools/train.py').main


@pytest.fixture
def test(script):
    return script('tools/test.py').main


def log(work_dir):
    return ''.join(p.read_text() for p in Path(work_dir).glob('*/*.log'))


def scores(work_dir):
    newest = max(Path(work_dir).glob('*/*.json'), key=os.path.getmtime)
    return json.loads(newest.read_text())


@pytest.mark.parametrize('task, metric', [
    ('det', 'coco/bbox_mAP'),
    ('seg', 'mIoU'),
    ('cls', 'accuracy/top1'),
])
def test_train_then_test(task, metric, config, train, test, tmp_path):
    path = config(task)
    train([path])
    work_dir = tmp_path / 'work_dirs' / task
    assert 'trained from scratch (pretrained = None)' in log(work_dir)
    saved = str(work_dir / 'epoch_1.pth')
    assert 'optimizer' in torch.load(saved, weights_only=False)
    assert (work_dir / 'last_checkpoint').read_text() == saved

    out = 'maps' if task == 'seg' else 'pred.pkl'
    test([path, saved, '--work-dir', 'tested', '--out', out,
          '--show-dir', 'pics'])
    assert metric in scores('tested')
    if task == 'seg':
        assert len(list(Path('maps').glob('*.png'))) == 3
    else:
        with open(out, 'rb') as file:
            assert len(pickle.load(file)) == 3
    assert len(list(Path('pics').rglob('*.png'))) == 3


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
@pytest.mark.skipif(torch.cuda.is_available(), reason='for CPUs')
def test_mixed_precision_without_a_gpu(task, config, train, tmp_path):
    seen = set()

    def watch(module, args, out):
        if torch.is_grad_enabled():  # not while it is validated
            seen.add((type(module), out.dtype))

    conv = torch.nn.Conv2d
    with torch.nn.modules.module.register_module_forward_hook(
            lambda *call: watch(*call) if type(call[0]) is conv else None):
        train([config(task), '--amp'])
    assert seen == {(conv, torch.bfloat16)}
    work_dir = tmp_path / 'work_dirs' / task
    saved = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    assert all(v.dtype == torch.float32 for v in saved['state_dict'].values()
               if v.is_floating_point())
    assert 'CPUAmpOptimWrapper' in log(work_dir)


@pytest.mark.parametrize('task, metric', [('det', 'coco/bbox_mAP'),
                                          ('cls', 'accuracy/top1')])
def test_tta(task, metric, config, checkpoint, test):
    path = config(task)
    test([path, checkpoint(path), '--tta', '--work-dir', 'tta'])
    assert metric in scores('tta')


def test_fused(config, checkpoint, test):
    file, results = checkpoint(config('cls')), []
    for name, options in (('plain', []), (
            'fused', ['--cfg-options',
                      'default_hooks.fuse.type=mmxvit.FuseHook'])):
        # runs of one name within a second share a log
        test([config('cls', name=name), file, '--out', f'{name}.pkl',
              '--work-dir', name, *options])
        with open(f'{name}.pkl', 'rb') as stream:
            results.append([r['pred_score'] for r in pickle.load(stream)])
        assert ('FuseHook: ' in log(name)) == (name == 'fused')
    torch.testing.assert_close(*results)


@pytest.mark.skipif(not hasattr(torch.nn.Module, 'compile'),
                    reason='torch 2.2 and newer')
def test_compiled(config, train, test, tmp_path):
    """With options of single parameters, as most configs have them."""
    path, results = config('seg'), []
    options = ['--cfg-options',
               'default_hooks.compile.type=mmxvit.CompileHook',
               'default_hooks.compile.backend=eager',
               'optim_wrapper.paramwise_cfg.bias_lr_mult=2.']
    train([path, *options])
    saved = str(tmp_path / 'work_dirs/seg/epoch_1.pth')
    for name, extra in (('plain', []), ('compiled', options[:3])):
        test([config('seg', name=name), saved, '--work-dir', name, *extra])
        results.append(scores(name)['mIoU'])
        assert ('CompileHook: ' in log(name)) == (name == 'compiled')
    assert results[0] == pytest.approx(results[1])


def test_stock_backbone(config, train, data):
    path = config('det', model__backbone=MOBILENET,
                  model__neck__in_channels=[320, 96, 32])
    train([path, '--work-dir', 'w', '--auto-scale-lr'])
    assert 'Scaling the original LR by 0.25' in log('w')
    assert Path('w/epoch_1.pth').is_file()


def test_typo_in_the_config_path(config, train, failure):
    config('det', name='yolov3_cells')
    message = failure(train, 'yolov3_cell.py')
    assert 'nearest names:\n  yolov3_cells.py' in message


def test_missing_data(config, train, test, failure, tmp_path):
    where = 'dataloader__dataset__data_root'
    path = config('det', **{f'{s}_{where}': 'data/none'
                            for s in ('train', 'val', 'test')})
    message = failure(train, path)
    assert 'data/none/train.json' in message
    assert '(val_dataloader.dataset.data_prefix.img)' in message
    assert not (tmp_path / 'work_dirs').exists()
    assert 'data/none/val.json' in failure(test, path, 'any.pth')


def test_remedy_for_missing_data(config, train, failure, script, monkeypatch):
    """What the message says to run does run, but for the sizes."""
    message = failure(train, config(
        'det', train_dataloader__dataset__data_root='data/none'))
    make, fit = (line.split()[1:] for line in message.splitlines()
                 if line.startswith('  python '))
    monkeypatch.setattr('sys.argv', [*make, '--train', '2', '--val', '1',
                                     '--size', '64'])
    script(make[0]).main()
    assert Path(fit[0]).resolve() == ROOT / 'tools/train.py'
    small = ['train_cfg.max_epochs=1', *(
        f'{split}_dataloader.{key}' for split in ('train', 'val')
        for key in ('batch_size=2', 'num_workers=0',
                    'persistent_workers=False'))]
    train([str(ROOT / fit[1]), '--work-dir', 'w', '--cfg-options', *small])
    assert Path('w/epoch_1.pth').is_file()


def test_toy_data_for_a_config_of_coco(failure, train, script, monkeypatch):
    """As it is: its folder, its 80 classes."""
    path = str(ROOT / 'configs/xformer/yolov3_xformer_8xb24-320-300e_coco.py')
    make = failure(train, path).splitlines()[-1].split()[1:]
    monkeypatch.setattr('sys.argv', [*make, '--train', '2', '--val', '1',
                                     '--size', '64'])
    script(make[0]).main()
    assert Path('data/coco/train2017').is_dir()
    assert check_data(Config.fromfile(path), ['train', 'val', 'test']) == []


def test_channels_that_do_not_match(config, train, test, failure):
    path = config('det', model__neck__in_channels=[320, 96, 32])
    for message in (failure(train, path), failure(test, path, 'any.pth')):
        assert 'set model.neck.in_channels=[160, 128, 96]' in message


def test_mistake_in_the_backbone(config, train, failure):
    path = config('det', model__backbone__arch='xformr')
    message = failure(train, path)
    assert "'xformr'" in message and "'xformer'" in message


def test_checkpoint_of_another_model(config, checkpoint, test, failure):
    other = checkpoint(config('cls'))
    message = failure(test, config('det'), other)
    assert 'random.pth and the model differ' in message
    assert 'missing in the file' in message
    assert 'neck.' in message or 'backbone.' in message


@pytest.mark.parametrize('content, message', [
    (b'', 'is empty'), (b'PK\3\4' + b'x' * 99, 'truncated or damaged'),
    (b'hello', 'not a PyTorch checkpoint')
])
def test_broken_checkpoint(config, train, test, failure, tmp_path, content,
                           message):
    (tmp_path / 'bad.pth').write_bytes(content)
    path = config('cls')
    for fails in (
            failure(test, path, 'bad.pth'),
            failure(train, path, '--resume', 'bad.pth'),
            failure(train, path, '--cfg-options', 'load_from=bad.pth'),
            failure(train, path, '--cfg-options', 'pretrained=bad.pth')):
        assert 'bad.pth' in fails and message in fails
        assert '\n' not in fails
    assert not (tmp_path / 'work_dirs').exists()


def test_pretrained_backbone(config, checkpoint, train):
    path = config('cls')
    train([path, '--cfg-options', f'pretrained={checkpoint(path)}',
           'optim_wrapper.optimizer.lr=0'])
    assert 'from scratch' not in log('work_dirs/cls')
    before = torch.load('random.pth')['state_dict']
    after = torch.load('work_dirs/cls/epoch_1.pth',
                       weights_only=False)['state_dict']
    key = 'backbone.conv1.conv.weight'
    assert torch.equal(before[key], after[key])


def test_weights_that_a_config_names_in_vain_are_told(config, train):
    train([config('cls', pretrained='classifier.pth')])
    assert ('does not use it; to use it add --cfg-options '
            'pretrained=classifier.pth') in log('work_dirs/cls')


def test_fine_tuning_with_another_class_count(config, checkpoint, train):
    other = checkpoint(config('cls', name='other', model__head__num_classes=7))
    train([config('cls'), '--cfg-options', f'load_from={other}'])
    text = log('work_dirs/cls')
    assert 'of another shape (2)' in text and 'head.fc.weight' in text


def test_resume_without_checkpoints_starts(config, train):
    train([config('cls'), '--resume'])
    assert 'no checkpoint in ./work_dirs/cls' in log('work_dirs/cls')
    assert Path('work_dirs/cls/epoch_1.pth').is_file()


def wait_for(condition, process):
    end = time.time() + 900  # only so that a hang is noticed
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.time() < end
        time.sleep(0.02)


@pytest.fixture
def one_thread():
    """As in a process with OMP_NUM_THREADS=1, to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures('one_thread')
def test_kill_and_resume(config, train, failure, tmp_path, monkeypatch):
    """For real: kill -9, and a half-written newest checkpoint."""
    path = config('cls', train_cfg__max_epochs=1000,
                  default_hooks__checkpoint__max_keep_ckpts=2,
                  optim_wrapper__optimizer=dict(lr=0.05, momentum=0.9),
                  param_scheduler=[
                      dict(type='ExponentialLR', gamma=0.9, end=1000)])
    work_dir = tmp_path / 'work_dirs/cls'
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/train.py'), path],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT),
                 OMP_NUM_THREADS='1'))
    try:
        wait_for((work_dir / 'epoch_3.pth').exists, process)
    finally:
        process.kill()
        process.communicate()

    epochs = sorted(
        int(p.stem.split('_')[1]) for p in work_dir.glob('epoch_*.pth'))
    assert len(epochs) >= 2
    newest = work_dir / f'epoch_{epochs[-1]}.pth'
    newest.write_bytes(newest.read_bytes()[:newest.stat().st_size // 2])
    (work_dir / 'last_checkpoint').write_text('')

    good, reads = epochs[-2], []
    load = checkpoint_module._load_weights_only
    monkeypatch.setattr(
        checkpoint_module, '_load_weights_only',
        lambda path, *args: (reads.append(Path(path).name),
                             load(path, *args))[1])
    until = ['--cfg-options', f'train_cfg.max_epochs={good + 1}']
    train([path, '--resume', *until])
    text = log(work_dir)
    assert f'skipped {newest}' in text and 'truncated' in text
    assert f'resumed epoch: {good},' in text
    # is it good, does it fit, and for the training itself
    assert reads.count(f'epoch_{good}.pth') == 3

    train([path, '--work-dir', 'whole', *until, 'experiment_name=whole'])
    resumed, whole = (torch.load(file, weights_only=False)
                      for file in (newest, f'whole/{newest.name}'))
    for key in ('epoch', 'iter'):
        assert resumed['meta'][key] == whole['meta'][key]
    assert resumed['param_schedulers'] == whole['param_schedulers']
    for key in ('state_dict', 'optimizer'):  # weights; momentum and lr
        torch.testing.assert_close(resumed[key], whole[key])

    for file in work_dir.glob('epoch_*.pth'):
        file.write_bytes(b'')
    assert 'can be resumed' in failure(train, path, '--resume')


def test_cold_start_from_another_folder(tmp_path):
    """No traceback, status 1, and the scripts need no folder of their own."""
    run = subprocess.run(
        [sys.executable, str(ROOT / 'tools/test.py'), 'no.py', 'no.pth'],
        capture_output=True, text=True, cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert run.returncode == 1
    assert run.stderr.startswith('error: no.py: no such config file')
    assert 'Traceback' not in run.stderr


def test_predictions_do_not_depend_on_the_checkpoint_wrapper(
        config, checkpoint, test):
    """A checkpoint of a DDP model (module.*) tests like the plain one."""
    path = config('cls')
    plain = torch.load(checkpoint(path))
    torch.save({f'module.{k}': v for k, v in plain['state_dict'].items()},
               'ddp.pth')
    predictions = []
    for name in ('random', 'ddp'):
        test([path, f'{name}.pth', '--out', f'{name}.pkl',
              '--cfg-options', f'experiment_name={name}'])
        with open(f'{name}.pkl', 'rb') as file:
            predictions.append(
                np.stack([p['pred_score'] for p in pickle.load(file)]))
    assert np.array_equal(*predictions)


def test_the_config_that_was_run_is_kept(config, train):
    train([config('cls')])
    kept = Config.fromfile('work_dirs/cls/cls.py')
    assert kept.default_hooks.checkpoint.type == 'mmxvit.AtomicCheckpointHook'
    assert kept.work_dir == './work_dirs/cls'


def test_mistakes_in_the_annotations(config, data, train, test, failure,
                                     checkpoint, tmp_path):
    """What mmdet would pass over."""
    shutil.copytree(data, 'cells')
    root = {f'{s}_dataloader__dataset__data_root': 'cells'
            for s in ('train', 'val', 'test')}
    path = config('det', **root)
    content = json.loads(Path('cells/train.json').read_text())
    content['annotations'][0]['bbox'] = [64, 0, 9, 9]
    content['categories'].append(dict(id=3, name='star'))
    content['annotations'][1]['category_id'] = 3
    Path('cells/train.json').write_text(json.dumps(content))
    train([path, '--work-dir', 'w'])
    assert '1 of 4 boxes lie outside their image' in log('w')
    assert "that the config does not know, 'star'" in log('w')

    image = Path('cells/val/1.png')
    image.write_bytes(image.read_bytes()[:-300])
    message = failure(train, path)
    assert "cells/val.json: 1 of 3 images in cells/val are" in message
    assert "'1.png'" in message
    assert message == failure(test, path, 'any.pth')
