# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
from collections import OrderedDict

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import BaseModel, BaseTTAModel, PretrainedInit

from mmxvit.engine.checkpoints import (
    check_checkpoint,
    check_resumable,
    check_weights,
    find_resume_checkpoint,
    pretrained_weights,
)
from mmxvit.engine.command import UserError
from mmxvit.utils.checkpoint import CheckpointError


def save(path, epoch=1, age=0):
    """A checkpoint of a training, saved ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(
            meta=dict(epoch=epoch, iter=epoch * 10), message_hub={},
            state_dict=dict(weight=torch.ones(100)), optimizer={}), path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def truncate(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:300])
    os.utime(path, (stat.st_mtime, stat.st_mtime))


@pytest.fixture
def work(tmp_path):
    """Epochs 1, 2, 10 and MMEngine's note of the last one."""
    folder = tmp_path / 'work'
    for epoch, age in ((1, 300), (2, 200), (10, 100)):
        save(folder / f'epoch_{epoch}.pth', epoch, age)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_10.pth'))
    return folder


def resume(folder, **cfg):
    path, skipped = find_resume_checkpoint(
        Config(dict(work_dir=str(folder), **cfg)))
    return os.path.basename(path) if path else None, skipped


def test_newest(work):
    assert resume(work) == ('epoch_10.pth', [])


def test_half_written_newest_is_skipped_with_a_line(work):
    truncate(work / 'epoch_10.pth')
    name, skipped = resume(work)
    assert name == 'epoch_2.pth'
    assert len(skipped) == 1
    assert 'epoch_10.pth' in skipped[0] and 'truncated' in skipped[0]


def test_half_written_newest_that_is_not_noted_yet(work):
    truncate(save(work / 'epoch_11.pth', 11))
    name, skipped = resume(work)
    assert name == 'epoch_10.pth'
    assert len(skipped) == 1 and 'epoch_11.pth' in skipped[0]


def test_good_newest_that_is_not_noted_yet(work):
    save(work / 'epoch_11.pth', 11)
    assert resume(work) == ('epoch_11.pth', [])


@pytest.mark.parametrize('note', ['', 'epoch_', '/gone/epoch_10.p', '\0'])
def test_broken_note_is_no_obstacle(work, note):
    (work / 'last_checkpoint').write_text(note)
    assert resume(work) == ('epoch_10.pth', [])


def test_moved_work_folder(work, tmp_path):
    os.rename(work, tmp_path / 'moved')
    assert resume(tmp_path / 'moved') == ('epoch_10.pth', [])


def test_files_of_an_earlier_and_longer_run_do_not_count_as_newest(work):
    save(work / 'epoch_300.pth', 300, age=1000)
    assert resume(work) == ('epoch_10.pth', [])


def test_copied_files_have_the_dates_of_the_copy(work):
    save(work / 'epoch_9.pth', 9, age=0)
    assert resume(work) == ('epoch_10.pth', [])


def test_iterations_and_own_names(tmp_path):
    save(tmp_path / 'iter_500.pth', age=20)
    save(tmp_path / 'iter_1000.pth', age=10)
    assert resume(tmp_path)[0] == 'iter_1000.pth'
    save(tmp_path / 'round-3.pth', age=5)
    hooks = dict(checkpoint=dict(filename_tmpl='round-{}.pth'))
    assert resume(tmp_path, default_hooks=hooks)[0] == 'round-3.pth'


def test_checkpoints_in_another_folder(tmp_path):
    save(tmp_path / 'big/work/epoch_4.pth')
    hooks = dict(checkpoint=dict(out_dir=str(tmp_path / 'big')))
    assert resume(tmp_path / 'work', default_hooks=hooks)[0] == 'epoch_4.pth'


def test_nothing_to_resume(tmp_path):
    assert resume(tmp_path / 'new') == (None, [])
    # best_*.pth has no optimizer, a temporary file is no checkpoint
    save(tmp_path / 'new/best_mAP_epoch_3.pth')
    save(tmp_path / 'new/epoch_4.pth.tmp')
    assert resume(tmp_path / 'new') == (None, [])


def test_no_good_checkpoint_is_not_a_fresh_start(work):
    for path in work.glob('*.pth'):
        truncate(path)
    with pytest.raises(UserError) as error:
        resume(work)
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_10.pth', '--work-dir'):
        assert name in str(error.value)


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='load_from'):
        check_resumable(tmp_path / 'a.pth')


@pytest.mark.parametrize('model, expected', [
    (dict(backbone=dict(type='A')), None),
    (dict(backbone=dict(type='A', init_cfg=None)), None),
    (dict(backbone=dict(init_cfg=dict(
        type='Pretrained', checkpoint='x', prefix='backbone.'))),
     ('x', 'backbone.')),
    (dict(backbone=dict(init_cfg=[
        dict(type='Kaiming'), dict(type='Pretrained', checkpoint='x')])),
     ('x', '')),
    (dict(backbone=dict(), init_cfg=dict(type='Pretrained', checkpoint='m')),
     ('m', '')),
    (dict(backbone=dict(init_cfg=dict(
        type=PretrainedInit, checkpoint='x'))), ('x', '')),
    (dict(backbone=dict(type='mmseg.HRNet', init_cfg=dict(
        type='Pretrained', checkpoint='x'))), ('x', ('stage2.0.branches.', ))),
    (dict(backbone=dict(type='HRNet', init_cfg=dict(
        type='Pretrained', checkpoint='x', prefix='net.'))), ('x', 'net.')),
    (dict(backbone=dict(), pretrained='torchvision://resnet50'),
     ('torchvision://resnet50', '')),
])
def test_pretrained_weights(model, expected):
    found = pretrained_weights(Config(dict(model=model)))
    assert (found and tuple(found.values())) == expected


def test_prefix_of_pretrained_weights(tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict={'backbone.stem.weight': torch.ones(1)}), path)
    check_checkpoint(path, 'backbone.')
    check_checkpoint('https://example.org/a.pth', 'backbone.')
    with pytest.raises(CheckpointError, match=r"'model\.' but backbone\.stem"):
        check_checkpoint(path, 'model.')
    check_checkpoint(path, ('a.', 'backbone.'))
    with pytest.raises(CheckpointError, match=r"'a\.' or 'b\.' but"):
        check_checkpoint(path, ('a.', 'b.'))


class Net(nn.Module):

    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)


class ToyNet(BaseModel):

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


@pytest.fixture
def saved(tmp_path):

    def write(model, change=lambda state: state, **more):
        state = change(OrderedDict(model.state_dict()))
        torch.save(dict(state_dict=state, **more), tmp_path / 'a.pth')
        return str(tmp_path / 'a.pth')

    return write


def rename(state, old, new):
    return OrderedDict((k.replace(old, new), v) for k, v in state.items())


@pytest.mark.parametrize('change', [
    lambda state: state,
    lambda state: OrderedDict((f'module.{k}', v) for k, v in state.items()),
    lambda state: OrderedDict(
        (k, v) for k, v in state.items() if 'num_batches' not in k),
])
def test_own_checkpoint_fits(saved, change):
    source, model = Net(), Net()
    check_weights(model, saved(source, change), strict=True)
    assert torch.equal(model.head.weight, source.head.weight)


def test_ema_checkpoint_fits(saved):
    ema = {f'module.{k}': v for k, v in Net().state_dict().items()}
    path = saved(Net(), ema_state_dict=dict(ema, steps=torch.tensor(3)))
    check_weights(Net(), path, strict=True)


def test_wrapped_model(saved):

    class Flips(BaseTTAModel):

        def merge_preds(self, data_samples_list):
            return data_samples_list

    model = Flips(ToyNet())
    check_weights(model, saved(ToyNet()), strict=True)


def test_checkpoint_of_another_model_lists_what_differs(saved):
    path = saved(
        nn.ModuleDict({f'layer{i}': nn.Linear(1, 1) for i in range(8)}))
    for strict in (True, False):
        with pytest.raises(UserError) as error:
            check_weights(Net(), path, strict=strict)
        text = str(error.value)
        assert 'a.pth' in text and '0 of 8 weights of the model fit' in text
        assert 'missing in the file (8)' in text
        assert 'body.0.weight' in text
        assert 'but not in the model (16)' in text and '6 more' in text


def test_other_head(saved, monkeypatch):
    path = saved(Net(classes=5))
    with pytest.raises(UserError) as error:
        check_weights(Net(), path, strict=True)
    text = str(error.value)
    assert '6 of 8 weights of the model fit' in text
    assert 'of another shape (2)' in text
    assert 'head.weight' in text and '[5, 4]' in text and '[3, 4]' in text
    assert 'missing' not in text
    # fine-tuning starts from it, and says so
    log = []
    monkeypatch.setattr('mmxvit.engine.checkpoints.print_log',
                        lambda text, logger: log.append(text))
    check_weights(Net(), path, strict=False)
    assert len(log) == 1 and 'of another shape (2)' in log[0]


def test_more_weights_than_needed_are_fine(saved):
    source = Net()
    source.extra = nn.Linear(1, 1)
    check_weights(Net(), saved(source), strict=True)


def test_load_hooks_of_the_model_count(saved):

    class Renamed(Net):

        def __init__(self):
            super().__init__()
            self._register_load_state_dict_pre_hook(self.convert)

        @staticmethod
        def convert(state, *args):
            for key in list(state):
                state[key.replace('trunk', 'body')] = state.pop(key)
            # a table that is stored at another size
            state['head.weight'] = state['head.weight'][:3]

    path = saved(
        Net(classes=3), lambda state: dict(
            rename(state, 'body', 'trunk'), **{'head.weight': torch.ones(9, 4)
                                               }))
    check_weights(Renamed(), path, strict=True)
    with pytest.raises(UserError):
        check_weights(Net(), path, strict=True)
