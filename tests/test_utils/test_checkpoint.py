# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import argparse
import os
import pickle
import shutil
import struct
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmxvit.utils import checkpoint as module
from mmxvit.utils.checkpoint import CheckpointError, load_checkpoint_file

# The way of this torch, and the one of a torch that has no safe globals.
LOADERS = [module._load_weights_only, module._load_restricted]


@pytest.fixture(params=LOADERS, ids=['weights_only', 'restricted'])
def loader(request, monkeypatch):
    monkeypatch.setattr(module, '_load_weights_only', request.param)


def training_state():
    return dict(
        meta=dict(
            epoch=3,
            iter=12,
            dataset_meta=ConfigDict(classes=('a', 'b')),
            args=argparse.Namespace(lr=0.1)),
        state_dict=OrderedDict(weight=torch.arange(6.).view(2, 3)),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([1., 2.], [1, 1])),
            runtime_info=dict(score=np.float64(0.5), best=np.int64(7))),
        optimizer=dict(state={0: dict(step=torch.tensor(4.))}),
        param_schedulers=[dict(milestones=Counter([27, 33]))])


@pytest.mark.parametrize('zip_format', [True, False])
def test_training_state_is_read_in_full(loader, tmp_path, zip_format):
    path = tmp_path / 'epoch_3.pth'
    torch.save(
        training_state(), path, _use_new_zipfile_serialization=zip_format)
    loaded = load_checkpoint_file(path)
    assert torch.equal(loaded['state_dict']['weight'],
                       torch.arange(6.).view(2, 3))
    hub = loaded['message_hub']
    assert hub['log_scalars']['loss'].mean() == 1.5
    assert hub['runtime_info'] == dict(score=0.5, best=7)
    assert loaded['meta']['dataset_meta'].classes == ('a', 'b')
    assert loaded['meta']['args'].lr == 0.1
    (scheduler, ) = loaded['param_schedulers']
    assert scheduler['milestones'] == Counter([27, 33])


def test_numpy_values_of_the_other_numpy_generation(loader, tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(
        training_state(), path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    ours, other = b'numpy._core.multiarray', b'numpy.core.multiarray'
    if ours not in raw:
        ours, other = other, ours
    path.write_bytes(raw.replace(b'c' + ours, b'c' + other))
    assert other in path.read_bytes()
    loaded = load_checkpoint_file(path)
    assert loaded['message_hub']['runtime_info']['score'] == 0.5


class Evil:

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target), )


@pytest.mark.parametrize('zip_format', [True, False])
def test_other_code_is_refused_and_never_run(loader, tmp_path, zip_format):
    path, target = tmp_path / 'evil.pth', tmp_path / 'made'
    torch.save(
        dict(state_dict=Evil(target)), path,
        _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r'evil\.pth.*posix\.mkdir'):
        load_checkpoint_file(path)
    assert not target.exists()
    # The file would do harm if it were loaded in full.
    torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    'name', ['__init__', '__globals__', '_log_history', 'statistics'])
def test_getattr_gives_the_statistics_of_the_log_buffer_only(name):
    lookup = module._training_state_objects(True)['builtins.getattr']
    assert lookup(HistoryBuffer, 'mean') is HistoryBuffer.mean
    with pytest.raises(pickle.UnpicklingError):
        lookup(HistoryBuffer, name)
    with pytest.raises(pickle.UnpicklingError):
        lookup(os.path, 'join')
    namesake = type('HistoryBuffer', (), dict(mean=print))
    with pytest.raises(pickle.UnpicklingError):
        lookup(namesake, 'mean')


class Crafted:
    """Pickles as a call that normal objects do not make."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


_reconstruct = np.zeros(1).__reduce__()[0]


def array(dtype):
    """An array with a dtype of the file's making, over the file's bytes."""
    return Crafted(_reconstruct, (np.ndarray, (0, ), b'b'),
                   (1, (1, ), dtype, False, bytes(8)))


@pytest.mark.parametrize('zip_format', [True, False])
@pytest.mark.parametrize('crafted', [
    # objects without the flags that say so: the bytes become pointers
    array(Crafted(np.dtype, ('O8', False, True),
                  (3, '|', None, None, None, -1, -1, 0))),
    array(Crafted(np.dtype, ('V8', False, True),
                  (3, '|', None, None, None, 8, 1, 0))),
    array(Crafted(type(np.dtype('O')), ())),
    Crafted(np.ndarray, ((1, ), 'O8', bytearray(8))),
    Crafted(np.ndarray, ((1, ), 'f8', bytearray(8))),
], ids=['object', 'void', 'object class', 'object buffer', 'buffer'])
def test_bytes_never_become_pointers(loader, tmp_path, crafted, zip_format):
    path = tmp_path / 'crafted.pth'
    torch.save(dict(a=crafted), path,
               _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r'crafted\.pth'):
        load_checkpoint_file(path)


def test_the_state_of_a_dtype_has_no_effect(loader, tmp_path):
    """numpy's own instances, which ignore it, are all that a file gets."""
    crafted = [
        array(Crafted(np.dtype, (code, align, True),
                      (3, '|', None, None, None, 800, 1, 63)))
        for code in ('f8', 'i8', 'u8') for align in (False, True)
    ]
    torch.save(dict(a=crafted), tmp_path / 'crafted.pth')
    for loaded in load_checkpoint_file(tmp_path / 'crafted.pth')['a']:
        assert loaded.dtype.isbuiltin == 1
        assert loaded.dtype.itemsize == 8 and loaded.tolist() == [0]


def program(path, *instructions):
    """A checkpoint whose entry ``a`` is made by pickle's instructions."""
    code = [b'\x80\x02}', word('a'), *instructions, b's.']
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b''.join(code))
        archive.writestr('archive/version', '3\n')


def word(text):
    return b'X' + struct.pack('<I', len(text)) + text.encode()


BUFFER = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
NAMESPACE = b'cargparse\nNamespace\n'
MEAN = b'c__builtin__\ngetattr\n' + BUFFER + word('mean') + b'\x86R'
FILLED = BUFFER + b']K\x01a]K\x01a\x86R'


@pytest.mark.parametrize('instructions, allowed', [
    ((MEAN, ), True),
    ((FILLED, ), True),
    ((MEAN, FILLED, b'\x85R'), False),  # call what getattr gave
    ((NAMESPACE, b'N}', word('planted'), b'\x88s\x86b'), False),
    ((MEAN, b'}', word('planted'), b'\x88sb'), False),
], ids=['method', 'buffer', 'call', 'state of a class', 'of a function'])
def test_only_named_objects_are_called_and_only_instances_changed(
        loader, tmp_path, instructions, allowed):
    program(tmp_path / 'a.pth', *instructions)
    if allowed:
        load_checkpoint_file(tmp_path / 'a.pth')
    else:
        with pytest.raises(CheckpointError):
            load_checkpoint_file(tmp_path / 'a.pth')
    assert not hasattr(argparse.Namespace, 'planted')
    assert not hasattr(HistoryBuffer.mean, 'planted')


def weights(path):
    torch.save(dict(weight=torch.arange(1000.)), path)
    return path.read_bytes()


@pytest.mark.parametrize('content, message', [
    (lambda raw: b'', 'is empty'),
    (lambda raw: raw[:len(raw) // 2], 'truncated'),
    (lambda raw: raw[:-50], 'truncated'),
    (lambda raw: bytes(len(raw)), 'not a PyTorch checkpoint'),
    (lambda raw: b'hello', 'not a PyTorch checkpoint'),
    (lambda raw: b'<!DOCTYPE html><html>', 'web page'),
    (lambda raw: b'version https://git-lfs.github.com/spec/v1\n', 'LFS'),
    (lambda raw: raw[:2500] + bytes(64) + raw[2564:], 'damaged'),
])
def test_broken_files_are_named_and_explained(loader, tmp_path, content,
                                              message):
    path = tmp_path / 'epoch_3.pth'
    path.write_bytes(content(weights(path)))
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint_file(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_old_format_truncated(loader, tmp_path):
    path = tmp_path / 'epoch_3.pth'
    torch.save(
        dict(weight=torch.ones(1000)), path,
        _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match='truncated'):
        load_checkpoint_file(path)


def test_not_a_dict(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list'):
        load_checkpoint_file(tmp_path / 'list.pth')


def test_missing_file_names_its_neighbours(tmp_path):
    weights(tmp_path / 'epoch_12.pth')
    with pytest.raises(CheckpointError, match='that folder has epoch_12.pth'):
        load_checkpoint_file(tmp_path / 'epoch_13.pth')
    with pytest.raises(CheckpointError, match='no_folder does not exist'):
        load_checkpoint_file(tmp_path / 'no_folder/epoch_1.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        load_checkpoint_file(tmp_path)


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'set_crc32_options'),
    reason='this torch always writes check sums')
def test_file_without_check_sums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        weights(tmp_path / 'plain.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint_file(tmp_path / 'plain.pth')['weight'][9] == 9


def test_url_is_fetched_once(tmp_path, monkeypatch):
    weights(tmp_path / 'remote.pth')
    fetched = []

    def fetch(url, target, progress):
        fetched.append(url)
        shutil.copy(tmp_path / 'remote.pth', target)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    url = 'https://example.org/a/xformer.pth?download=1'
    for _ in range(2):
        assert load_checkpoint_file(url)['weight'][9] == 9
    assert fetched == [url]
    assert (tmp_path / 'hub/checkpoints/xformer.pth').is_file()

    def fail(url, target, progress):
        raise OSError('no route')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    with pytest.raises(CheckpointError, match='no route.*local file'):
        load_checkpoint_file('https://example.org/other.pth')
