# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Read checkpoint files: weights and training state, never code."""
import _compat_pickle
import argparse
import codecs
import difflib
import functools
import os
import os.path as osp
import pickle
import re
import types
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch
import torch.distributed as dist
import torch.nn as nn

from .compat import NAMED_SAFE_GLOBALS, numpy_core

# Codes of the numpy dtypes that a checkpoint may hold
_NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4',
            'f8')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names file and remedy."""


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {what}')


def _log_method(owner: type, name: str) -> Callable:
    """Stands for ``getattr``: MMEngine's log buffers pickle their methods."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current',
                                                  'mean'):
        _refuse(f'getattr(...,{name!r})')
    return getattr(owner, name)


def _number_dtype(code: str, align: bool = False, copy: bool = False) -> Any:
    """Stands for ``numpy.dtype``: numbers only, and numpy's own instance.

    That one ignores the state that follows in a file. An instance of the
    file's own would take it, and read the bytes of an array as pointers.
    """
    import numpy as np
    if code not in _NUMBERS:
        _refuse(f'numpy.dtype({code!r})')
    return np.dtype(code)


def _empty_array(subtype: None, shape: tuple, dtype: Any) -> Any:
    """Stands for ``_reconstruct``: an array that its state is to fill."""
    import numpy as np
    return np.empty(0, np.int8)


@functools.lru_cache(maxsize=2)
def _training_state_objects(mmengine: bool) -> dict[str, Any]:
    """What checkpoints hold besides tensors, by full name.

    Args:
        mmengine: Those of MMEngine's runner; else of any training script.
    """
    import numpy as np
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer
    known = {
        '_codecs.encode': codecs.encode,
        'argparse.Namespace': argparse.Namespace,
        'builtins.bytearray': bytearray,
        'builtins.complex': complex,
        'builtins.getattr': _log_method,
        'builtins.set': set,
        'collections.Counter': Counter,  # milestones of MultiStepLR
        'collections.OrderedDict': OrderedDict,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.dtype': _number_dtype,
        # The class itself would take a file's bytes for objects when called.
        # Files name it as an argument of _reconstruct only. Its instances
        # get a state because it is listed, under a name no file can ask for.
        'numpy.ndarray': None,
        'ndarray': np.ndarray,
    }
    if mmengine:
        known.update({
            'builtins.frozenset': frozenset,
            'builtins.slice': slice,
            'mmengine.config.config.ConfigDict': ConfigDict,
        })
    # numpy 2 renamed numpy.core; files of either must load under either.
    for module in ('numpy.core', 'numpy._core'):
        known[f'{module}.multiarray._reconstruct'] = _empty_array
        known[f'{module}.multiarray.scalar'] = numpy_core.multiarray.scalar
    # A pickled dtype becomes an instance of one of these classes.
    for code in _NUMBERS:
        kind = type(np.dtype(code))
        known[f'{kind.__module__}.{kind.__name__}'] = kind
    return known


class _RestrictedUnpickler(pickle._Unpickler):
    """Knows tensors and :func:`_training_state_objects`, nothing else.

    ``mmengine`` is that function's argument; a subclass sets it. As in torch's
    own, only what a file may name is called, and only its instances are given
    a state.
    """
    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX)
    }

    @functools.cached_property
    def _known(self) -> dict[str, Any]:
        tensors = torch._weights_only_unpickler._get_allowed_globals()
        return {**tensors, **_training_state_objects(self.mmengine)}

    def find_class(self, module: str, name: str) -> Any:
        # Files of protocol 2 name modules as Python 2 did (__builtin__).
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full_name = f'{module}.{name}'
        if full_name not in self._known:
            _refuse(full_name)
        return self._known[full_name]

    def _require_known(self, kind: Any) -> None:
        if not any(kind is known for known in self._known.values()):
            _refuse(getattr(kind, '__qualname__', type(kind).__name__))

    def load_reduce(self) -> None:
        self._require_known(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._require_known(self.stack[-2])
        super().load_newobj()

    def load_build(self) -> None:
        self._require_known(type(self.stack[-2]))
        super().load_build()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build


def _load_restricted(path: str, map_location: Any, mmengine: bool) -> Any:
    """``weights_only`` for a torch that cannot be told of safe globals."""
    unpickler = type('Unpickler', (_RestrictedUnpickler, ),
                     dict(mmengine=mmengine))
    module = types.ModuleType('restricted_pickle')
    module.Unpickler = unpickler
    module.load = lambda file, **kwargs: unpickler(file, **kwargs).load()
    return torch.load(
        path, map_location=map_location, pickle_module=module,
        weights_only=False)


def _check_sums(path: str) -> None:
    """Raise BadZipFile for damaged data, which torch.load lets pass."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.CRC == 0:  # saved without check sums
                continue
            with archive.open(info) as member:
                while member.read(1 << 20):
                    pass


def _load_weights_only(path: str, map_location: Any, mmengine: bool) -> Any:
    if not NAMED_SAFE_GLOBALS:
        return _load_restricted(path, map_location, mmengine)
    known = [(obj, name)
             for name, obj in _training_state_objects(mmengine).items()]
    with torch.serialization.safe_globals(known):
        return torch.load(path, map_location=map_location, weights_only=True)


def _download(url: str) -> str:
    """File of ``url`` in torch.hub's cache; one process per node fetches."""
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / osp.basename(urlparse(url).path)
    parallel = dist.is_available() and dist.is_initialized()
    fetches = not parallel or os.environ.get('LOCAL_RANK', '0') == '0'
    if fetches and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise CheckpointError(
                f'{url}: cannot be downloaded ({error}); give the path of a '
                'local file instead') from error
    if parallel:
        dist.barrier()
    return str(path)


def _similar_files(path: Path) -> str:
    """A clause that names files like the missing ``path``."""
    if not path.parent.is_dir():
        return f'; the folder {path.parent} does not exist'
    names = sorted(p.name for p in path.parent.glob('*.pt*') if p.is_file())
    close = difflib.get_close_matches(path.name, names, 3) or names[-3:]
    return f'; that folder has {", ".join(close)}' if close else ''


def _explain(path: str, error: Exception) -> str:
    """What is wrong with a file that does not load, and what to do."""
    try:
        with open(path, 'rb') as file:
            head = file.read(64)
    except OSError as reason:
        return str(reason)
    again = 'copy or download it again, or use another checkpoint'
    if not head:
        return f'the file is empty; {again}'
    if head.startswith(b'version https://git-lfs'):
        return ('the file is a Git LFS pointer, not the checkpoint itself; '
                'fetch it with `git lfs pull`')
    if head.lstrip()[:1] == b'<':
        return f'the file is a web page, not a checkpoint; {again}'
    text = str(error)
    # "Unsupported global: GLOBAL os.system was not an allowed ..."
    refused = re.search(r'(?:Unsupported global: |unsupported )GLOBAL (\S+)',
                        text)
    if isinstance(error, pickle.UnpicklingError) and refused:
        return (f'the file asks to run {refused.group(1)}, which is not part '
                'of a checkpoint of weights and MMEngine training state, so '
                'it was not loaded; get a file that holds weights only '
                '(torch.save(model.state_dict(), FILE) by whoever made it)')
    if 'TorchScript' in text:
        return ('the file is a TorchScript program, not a checkpoint; give '
                'the state dict it was made from')
    if head[:2] == b'PK':
        return f'the file is truncated or damaged; {again}'
    if head[:1] == b'\x80':
        return f'the file is truncated, damaged or not a checkpoint; {again}'
    return f'the file is not a PyTorch checkpoint; {again}'


def load_checkpoint_file(path: str | Path,
                         map_location: Any = 'cpu',
                         mmengine: bool = True) -> dict[str, Any]:
    """Load a checkpoint without running any code it may contain.

    Loads with ``weights_only=True``; besides tensors only what MMEngine puts
    into its own checkpoints (log history, numpy numbers, ...) is let through.
    Older torch (< 2.7) has no way to say so and reads the file with an
    unpickler that is restricted in the same way. What is let through is read
    by torch and numpy themselves, whose readers do not promise to withstand
    every crafted file.

    Args:
        path: Local file, or an http(s) URL, which is kept in torch.hub's
            cache.
        map_location: As in :func:`torch.load`.
        mmengine: Let all pass that MMEngine's runner saves. False: only what
            other training scripts may have saved: argparse.Namespace, log
            history, numpy numbers and arrays.

    Returns:
        The checkpoint, a dict: either a state dict or MMEngine's
        ``dict(state_dict=..., meta=..., ...)``.

    Raises:
        CheckpointError: There is no such file, it is empty, truncated,
            damaged or not a checkpoint, or it holds other objects than those
            above.
    """
    path = str(path)
    if path.startswith(('http://', 'https://')):
        path = _download(path)
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise CheckpointError(
            f'{path}: is a folder; name a file in it' if osp.isdir(path) else
            f'{path}: no such file{_similar_files(Path(path))}')
    try:
        if zipfile.is_zipfile(path):
            _check_sums(path)
        with warnings.catch_warnings():  # the error says it
            warnings.simplefilter('ignore')
            checkpoint = _load_weights_only(path, map_location, mmengine)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(
            f'{path}: cannot be loaded: {_explain(path, error)}') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'{path}: holds a {type(checkpoint).__name__}, expected a dict of '
            'weights or a checkpoint of MMEngine; save it with '
            'torch.save(model.state_dict(), FILE)')
    return checkpoint


def load_weights(
        model: nn.Module, state: dict[str, torch.Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """``model.load_state_dict(state)`` that returns what differs.

    Returns:
        Keys that ``state`` lacks, keys that the model lacks, and a line for
        each that has another shape. With any of the last nothing was loaded
        into these, and the first two are empty.
    """
    try:
        return (*model.load_state_dict(state, strict=False), [])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        return [], [], [line for line in lines if 'size mismatch' in line]


def first_lines(lines: list[str], count: int = 10) -> str:
    """Lines of a message, indented; of many the first, and how many more."""
    if len(lines) > count:
        lines = [*lines[:count], f'... and {len(lines) - count} more']
    return ''.join(f'\n  {line}' for line in lines)
