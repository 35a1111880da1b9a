# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import contextlib
import copy
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmxvit.engine import (
    AtomicCheckpointHook,
    CompileHook,
    FuseHook,
    LoggerHook,
)
from mmxvit.engine.command import UserError
from mmxvit.engine.hooks import AtomicBackend
from mmxvit.utils.checkpoint import CheckpointError, load_checkpoint_file


class Toy(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        out = self.layer(torch.stack(inputs))
        return dict(loss=out.sum()) if mode == 'loss' else [out]


class Data(Dataset):
    metainfo = dict(classes=('a', ))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(2))


class Score:
    """An evaluator whose scores rise."""
    dataset_meta = None
    metrics = ()

    def __init__(self):
        self.calls = 0

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        self.calls += 1
        return dict(acc=float(self.calls), size=float(self.calls))


def runner(work_dir, epochs=3, **hook):
    loader = dict(
        dataset=Data(), batch_size=2, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False))
    return Runner(
        Toy(), str(work_dir), train_dataloader=loader, val_dataloader=loader,
        val_cfg=dict(), val_evaluator=[],
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(interval=1, **hook)),
        experiment_name=f'{work_dir.name}{epochs}')


def checkpoints(folder):
    return sorted(p.name for p in folder.iterdir() if '.pth' in p.name)


def run(run_, score):
    run_.val_loop.evaluator = score
    run_.train()


class Killed(BaseException):
    pass


@pytest.mark.parametrize('hook_type, survives', [
    ('CheckpointHook', False),
    ('mmxvit.AtomicCheckpointHook', True),
])
@pytest.mark.parametrize('moment', ['before', 'during'])
def test_kill_while_saving(tmp_path, monkeypatch, hook_type, survives,
                           moment):
    """The stock hook shows that the test would notice."""
    from mmengine.runner import runner as module
    save = module.save_checkpoint
    opened = open
    saved = []

    def killed_in_the_third(checkpoint, filename, **kwargs):
        saved.append(filename)
        if len(saved) < 3:
            return save(checkpoint, filename, **kwargs)
        if moment == 'before':
            raise Killed

        class Half:

            def __init__(self, *args):
                self.file = opened(*args)

            def __enter__(self):
                return self

            def __exit__(self, *args):
                self.file.close()

            def write(self, content):
                self.file.write(content[:len(content) // 2])
                raise Killed

        def half_open(name, mode='r', *args, **kw):
            if 'b' in mode and 'w' in mode and '.pth' in str(name):
                return Half(name, mode)
            return opened(name, mode, *args, **kw)

        monkeypatch.setattr('builtins.open', half_open)
        try:
            save(checkpoint, filename, **kwargs)
        finally:
            monkeypatch.setattr('builtins.open', opened)

    monkeypatch.setattr(module, 'save_checkpoint', killed_in_the_third)
    run_ = runner(tmp_path, type=hook_type, max_keep_ckpts=1)
    with pytest.raises(Killed):
        run(run_, Score())
    good = []
    for path in tmp_path.glob('epoch_*.pth'):
        with contextlib.suppress(CheckpointError):
            good.append(load_checkpoint_file(path)['meta']['epoch'])
    assert good == ([2] if survives else [])


def test_keeps_and_removes_what_the_stock_hook_does(tmp_path):
    left = []
    for hook_type in ('CheckpointHook', 'mmxvit.AtomicCheckpointHook'):
        folder, score = tmp_path / hook_type, Score()
        for epochs, resume in ((3, False), (5, True)):
            run_ = runner(folder, epochs, type=hook_type, max_keep_ckpts=2,
                          save_best='acc')
            run_._resume = resume
            run(run_, score)
        left.append(checkpoints(folder))
        assert (folder / 'last_checkpoint').read_text().endswith('epoch_5.pth')
    assert left[0] == left[1]
    assert left[1] == ['best_acc_epoch_5.pth', 'epoch_4.pth', 'epoch_5.pth']


def test_best_goes_after_the_new_best_is_there(tmp_path, monkeypatch):
    put = AtomicBackend.put
    present = []

    def watch(self, obj, filepath):
        present.append(checkpoints(tmp_path))
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicBackend, 'put', watch)
    run(
        runner(tmp_path, 2, type='mmxvit.AtomicCheckpointHook',
               save_best='acc', max_keep_ckpts=1), Score())
    # epoch 1, best, epoch 1 again (it notes the best); epoch 2, ...
    assert present[3] == ['best_acc_epoch_1.pth', 'epoch_1.pth']
    assert present[4] == ['best_acc_epoch_1.pth', 'epoch_2.pth']
    assert checkpoints(tmp_path) == ['best_acc_epoch_2.pth', 'epoch_2.pth']


@pytest.mark.parametrize('best', [None, 'acc', ['acc', 'size']])
def test_new_checkpoint_of_the_same_name_stays(tmp_path, best):
    hook = dict(type='mmxvit.AtomicCheckpointHook', max_keep_ckpts=1,
                filename_tmpl='latest.pth', save_best=best, rule='greater')
    run(runner(tmp_path, 2, **hook), Score())
    names = [best] if isinstance(best, str) else best or []
    expected = [*(f'best_{name}_latest.pth' for name in names), 'latest.pth']
    assert checkpoints(tmp_path) == expected
    for name in expected:
        meta = load_checkpoint_file(tmp_path / name)['meta']
        assert meta['epoch'] == 2


def test_fewer_to_keep_that_all_have_one_name(tmp_path, monkeypatch):
    hook = dict(type='mmxvit.AtomicCheckpointHook',
                filename_tmpl='latest.pth')
    run(runner(tmp_path, 3, max_keep_ckpts=3, **hook), Score())

    def killed(*args):
        raise Killed

    monkeypatch.setattr(AtomicBackend, 'put', killed)
    run_ = runner(tmp_path, 4, max_keep_ckpts=1, **hook)
    run_._resume = True
    with pytest.raises(Killed):
        run(run_, Score())
    assert load_checkpoint_file(tmp_path / 'latest.pth')['meta']['epoch'] == 3


def test_full_disk_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(fd):
        raise OSError('No space left on device')

    target = tmp_path / 'epoch_1.pth'
    target.write_bytes(b'old')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'):
        AtomicBackend().put(b'new', target)
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    assert target.read_bytes() == b'old'


@pytest.mark.parametrize('first', [True, False])
def test_one_process_writes_the_scores(tmp_path, monkeypatch, first):
    monkeypatch.setattr('mmxvit.engine.hooks.is_main_process', lambda: first)
    loader = dict(dataset=Data(), batch_size=2, num_workers=0,
                  sampler=dict(type='DefaultSampler', shuffle=False))
    Runner(
        Toy(), str(tmp_path), test_dataloader=loader,
        test_evaluator=Score(), test_cfg=dict(),
        default_hooks=dict(logger=dict(type='mmxvit.LoggerHook')),
        experiment_name=f'{tmp_path.name}_{first}').test()
    files = [json.loads(p.read_text()) for p in tmp_path.glob('*/*.json')]
    assert [f['acc'] for f in files] == [1.] * first


class ConvNet(BaseModel):
    """Tells in each test step whether it has a BatchNorm, and its output."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
        torch.nn.init.normal_(self.layers[1].running_mean)

    def forward(self, inputs, mode='tensor'):
        out = self.layers(torch.stack(inputs))
        if mode == 'loss':
            return dict(loss=out.square().sum())
        kind = type(self.layers[1]).__name__
        SEEN.append((kind, out.detach()))
        return [out]


SEEN = []


class Images(Data):

    def __init__(self, views):
        self.views = views

    def __getitem__(self, index):
        image = torch.ones(3, 2, 2)
        return dict(inputs=[image] if self.views else image)


class Wrapper(torch.nn.Module):
    """Of several processes, as DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        for name in ('train_step', 'val_step', 'test_step'):
            setattr(self, name, lambda *args, name=name, **kwargs:
                    getattr(self.module, name)(*args, **kwargs))


class Merge(BaseTTAModel):

    def merge_preds(self, data_samples_list):
        return data_samples_list


def fusing_runner(work_dir, model, *hooks):
    loader = dict(
        dataset=Images(isinstance(model, BaseTTAModel)), batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False))
    SEEN.clear()
    run_ = Runner(
        model, str(work_dir), train_dataloader=loader, val_dataloader=loader,
        test_dataloader=loader, val_cfg=dict(), val_evaluator=[],
        test_cfg=dict(), test_evaluator=[],
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='mmxvit.FuseHook'), *hooks],
        experiment_name=f'{work_dir.name}{len(hooks)}')
    run_.val_loop.evaluator = Score()
    run_.test_loop.evaluator = Score()
    return run_


@pytest.mark.parametrize('wrapped', [False, True])
def test_fused_in_tests_only(tmp_path, monkeypatch, wrapped):
    monkeypatch.setattr('mmxvit.engine.hooks.is_model_wrapper',
                        lambda m: isinstance(m, Wrapper))
    model = ConvNet()
    run_ = fusing_runner(tmp_path, model)
    if wrapped:
        run_.model = Wrapper(model)
    run_.train()
    assert [kind for kind, _ in SEEN] == ['BatchNorm2d'] * 2  # validation
    state = {k: v.clone() for k, v in model.state_dict().items()}
    SEEN.clear()
    run_.test()
    assert [kind for kind, _ in SEEN] == ['Identity'] * 2
    expected = model.eval()([torch.ones(3, 2, 2)] * 2)[0]
    torch.testing.assert_close(SEEN[0][1], expected)
    assert (run_.model.module if wrapped else run_.model) is model
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize('tta', [False, True])
def test_averaged_weights_are_fused(tmp_path, tta):
    """After the test the model and its average are what they were."""
    model = Merge(ConvNet()) if tta else ConvNet()
    run_ = fusing_runner(tmp_path, model, dict(type='EMAHook'))
    run_.call_hook('before_run')
    average = next(h for h in run_.hooks if isinstance(h, EMAHook)).ema_model
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(1.)
    averaged = average.module.module if tta else average.module
    expected = averaged.eval()([torch.ones(3, 2, 2)] * 2)[0]
    states = [{k: v.clone() for k, v in m.state_dict().items()}
              for m in (model, average)]
    SEEN.clear()
    run_.test_loop.run()
    assert {kind for kind, _ in SEEN} == {'Identity'}
    torch.testing.assert_close(SEEN[0][1], expected)
    for m, state in zip((model, average), states, strict=True):
        for key, value in m.state_dict().items():
            assert torch.equal(value, state[key]), key


class Backbone(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return 2 * x + self.bias


class WithBackbone(Toy):

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, inputs, mode='tensor'):
        return super().forward(list(self.backbone(torch.stack(inputs))), mode)


compiles = pytest.mark.skipif(
    not hasattr(torch.nn.Module, 'compile'), reason='torch 2.2 and newer')


@compiles
@pytest.mark.parametrize('wrapped', [False, True])
def test_compiled_backbone(wrapped):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model = WithBackbone()
    images = [torch.ones(2)] * 2
    expected, names = model(images)[0], list(model.state_dict())
    hook = CompileHook(backend=backend)
    hook.before_run(SimpleNamespace(
        model=Wrapper(model) if wrapped else model))
    for _ in range(2):
        assert torch.equal(model(images)[0], expected)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names
    # the average of an EMAHook is a copy
    other = copy.deepcopy(model)
    other.backbone.bias.data.add_(1.)
    assert torch.equal(other(images)[0], other.layer(torch.full((2, 2), 3.)))
    assert torch.equal(model(images)[0], expected)


@compiles
def test_a_model_without_a_backbone_is_not_compiled():
    with pytest.raises(UserError, match='Toy has none; take the hook'):
        CompileHook().before_run(SimpleNamespace(model=Toy()))


def test_torch_without_compiled_modules(monkeypatch):
    monkeypatch.setattr('mmxvit.engine.hooks.MODULES_COMPILE', False)
    with pytest.raises(UserError, match=r'needs torch 2\.2 or newer, this'):
        CompileHook()


def test_registered():
    assert HOOKS.get('mmxvit.CompileHook') is CompileHook
    assert HOOKS.get('mmxvit.FuseHook') is FuseHook
    assert HOOKS.get('mmxvit.LoggerHook') is LoggerHook
    assert HOOKS.get('mmxvit.AtomicCheckpointHook') is AtomicCheckpointHook
    assert issubclass(AtomicCheckpointHook, CheckpointHook)
