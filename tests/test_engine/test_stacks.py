# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Checkpoints of one stack on another."""
import json

import pytest
import torch

from mmxvit.utils.checkpoint import load_checkpoint_file

from .. import stacks

NAMES = json.loads(stacks.WEIGHTS.read_text())
FILES = [stacks.FOLDER / f'{stack}.pth' for stack in ('onedl', 'openmmlab')]


def test_checkpoints_are_of_two_stacks():
    assert not [file for file in FILES if b'/tmp' in file.read_bytes()]
    cores = [core for file in FILES
             for core in (b'numpy._core', b'numpy.core')
             if core in file.read_bytes()]
    assert cores == [b'numpy._core', b'numpy.core']


@pytest.mark.parametrize('config', NAMES)
def test_models_have_the_same_weights_on_each_stack(config):
    """Names and shapes, of heads and necks of the mm* packages too."""
    pytest.importorskip('mmdet' if '_coco' in config else 'mmseg' if
                        'ade20k' in config else 'mmpretrain')
    assert stacks.weights(config) == NAMES[config]


@pytest.mark.parametrize('name', stacks.BACKBONES)
@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_backbones_of_a_stack_make_the_same_maps(file, name):
    saved = torch.load(
        file.with_name(f'{file.stem}-backbones.pth'), weights_only=True)[name]
    model = stacks.backbone(name)
    for weight in model.state_dict().values():
        weight.zero_()
    model.load_state_dict(saved['state_dict'])
    maps = stacks.maps(model)
    assert len(maps) == len(saved['maps']) == 4
    for new, old in zip(maps, saved['maps'], strict=True):
        assert old.std() > 1e-3
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_training_goes_on_with_the_checkpoint_of_a_stack(file, tmp_path):
    whole = stacks.train(tmp_path / 'whole', 4)
    resumed = stacks.train(tmp_path / 'resumed', 4, file)
    for runner in whole, resumed:
        assert (runner.epoch, runner.iter) == (4, 8)
    # BatchNorm leaves gradients of the convolution near zero, and Adam makes
    # steps of equal size of them; without the optimizer's state it is 0.07
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(
            resumed.model.state_dict()[name], value, rtol=0, atol=2e-3)
    hubs = [runner.message_hub for runner in (whole, resumed)]
    losses = [hub.get_scalar('train/loss').data[0] for hub in hubs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[1]) == 8  # with those of before
    assert hubs[0].get_info('best_score') == pytest.approx(
        hubs[1].get_info('best_score'), rel=1e-4)
    (name, ) = (tmp_path / 'resumed').glob('epoch_4.pth')
    assert load_checkpoint_file(name)['meta']['epoch'] == 4
