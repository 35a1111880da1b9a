# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Which checkpoint a run starts from, and whether it fits the model."""
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader

from mmxvit.utils.checkpoint import CheckpointError, load_checkpoint_file

from .command import BARE_BACKBONES, UserError, type_name


def find_resume_checkpoint(cfg: Config) -> tuple[str | None, list[str]]:
    """The newest checkpoint of a work folder that loads.

    A kill may leave the newest file half-written, or ``last_checkpoint``
    behind the files or empty; so the files themselves are tried, newest
    first.

    Args:
        cfg: Config with ``work_dir``.

    Returns:
        Path, or None if there is no checkpoint at all, and a line for each
        file that was skipped.

    Raises:
        UserError: There are checkpoints, but none of them loads.
    """
    skipped = []
    for path in _candidates(cfg):
        try:
            check_resumable(path)
        except CheckpointError as error:
            skipped.append(f'skipped {error}')
        else:
            return str(path), skipped
    if skipped:
        raise UserError(
            f'no checkpoint in {cfg.work_dir} can be resumed:\n  ' +
            '\n  '.join(skipped) + '\nremove them, or choose another '
            '--work-dir, to start from the beginning')
    return None, []


def check_resumable(path: str | Path) -> None:
    """Raise CheckpointError unless ``path`` loads and can be resumed."""
    checkpoint = load_checkpoint_file(path)
    meta = checkpoint.get('meta')
    if ('state_dict' not in checkpoint or 'message_hub' not in checkpoint
            or not isinstance(meta, dict)
            or not {'epoch', 'iter'} <= set(meta)):
        raise CheckpointError(
            f'{path}: holds weights but no training state, so training '
            'cannot be resumed from it; to start a new training with these '
            'weights use --cfg-options load_from=FILE')


def _candidates(cfg: Config) -> list[Path]:
    """Checkpoints of a work folder, the one to be tried first first."""
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = work_dir
    if hook.get('out_dir') and '://' not in str(hook['out_dir']):
        folder = Path(hook['out_dir']) / work_dir.resolve().name
    names = {'epoch_*.pth', 'iter_*.pth'}
    if hook.get('filename_tmpl'):
        names.add(hook['filename_tmpl'].replace('{}', '*'))
    files = {p.resolve() for name in names for p in folder.glob(name)}

    def age(path: Path) -> tuple[float, int]:
        return path.stat().st_mtime, _step(path)

    newest_first = sorted(files, key=age, reverse=True)
    noted = _last_checkpoint(work_dir)
    if noted is None:
        return newest_first
    # The note is written after the file, so it can be one behind. What is
    # only newer or only further comes from another run or was copied.
    ahead = [
        p for p in newest_first
        if age(p)[0] >= age(noted)[0] and _step(p) > _step(noted)
    ]
    rest = [p for p in newest_first if p not in ahead and p != noted]
    return [*ahead, noted, *rest]


def _step(path: Path) -> int:
    """Epoch or iteration in a file name."""
    numbers = re.findall(r'\d+', path.stem)
    return int(numbers[-1]) if numbers else -1


def _last_checkpoint(work_dir: Path) -> Path | None:
    """What MMEngine noted as the last checkpoint, if it is there."""
    note = work_dir / 'last_checkpoint'
    try:
        text = note.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    # A work folder that was moved: the file is beside the note.
    for path in (Path(text), work_dir / Path(text).name):
        if text and path.is_file():
            return path.resolve()
    return None


def pretrained_weights(cfg: Config) -> dict | None:
    """``dict(checkpoint=..., prefix=...)`` that the backbone or the whole
    model starts from, if any; ``prefix`` as for :func:`check_checkpoint`."""
    model = cfg.model
    for part in (model.get('backbone') or {}, model):
        init_cfg = part.get('init_cfg') or []
        if isinstance(init_cfg, dict):
            init_cfg = [init_cfg]
        for entry in init_cfg:
            if type_name(entry) in ('Pretrained', 'PretrainedInit'):
                return dict(
                    checkpoint=entry['checkpoint'],
                    prefix=entry.get('prefix') or BARE_BACKBONES.get(
                        type_name(part).rpartition('.')[2], ''))
        if part.get('pretrained'):
            return dict(checkpoint=part['pretrained'], prefix='')
    return None


def check_checkpoint(path: str, prefix: str | tuple[str, ...] = '') -> None:
    """Check that a local checkpoint file can be used.

    Args:
        path: The file; one on remote storage is not looked at.
        prefix: What the keys of some weights must start with; of several, one
            will do.

    Raises:
        CheckpointError: It does not load, or has no key with that prefix.
    """
    if '://' in path:
        return
    checkpoint = load_checkpoint_file(path)
    keys = [str(k) for k in checkpoint.get('state_dict', checkpoint)]
    if not any(k.startswith(prefix) for k in keys):
        wanted = [prefix] if isinstance(prefix, str) else prefix
        raise CheckpointError(
            f'{path}: has no weights with the prefix '
            f'{" or ".join(map(repr, wanted))} but '
            f'{", ".join(keys[:3])} ...; set prefix in the init_cfg of the '
            'backbone to what precedes its weights in this file')


def check_weights(model: nn.Module, path: str, strict: bool) -> None:
    """Load a checkpoint into a model and tell what does not fit.

    The model's own load hooks (renamed keys, resized tables) count.

    Args:
        model: The model, or the wrapper (DDP, TTA) around it.
        path: Checkpoint file.
        strict: Whether each weight of the model must be in the checkpoint.
            Otherwise, as for fine-tuning, what differs is logged.

    Raises:
        UserError: ``strict`` and weights are missing or have another shape,
            or none fits; lists them.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(state, '_metadata', None)
    state = OrderedDict(
        (re.sub(r'^module\.', '', str(k)), v) for k, v in state.items())
    state._metadata = metadata
    other_shape = {}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        other_shape = dict(
            re.findall(r'size mismatch for (\S+): (.*)', str(error)))
        if not other_shape:
            raise UserError(f'{path} does not fit: {error}') from error
        for key in other_shape:
            state.pop(key, None)
        missing, unexpected = model.load_state_dict(state, strict=False)
    weights = [k for k in model.state_dict() if not _is_counter(k)]
    missing = [
        k for k in missing if k not in other_shape and not _is_counter(k)
    ]
    if not (missing or unexpected or other_shape):
        return
    fitting = len(weights) - len(missing) - len(other_shape)
    report = '\n'.join([
        f'{path} and the model differ, {fitting} of {len(weights)} weights '
        'of the model fit',
        *_listed('missing in the file', missing),
        *_listed('in the file, but not in the model', unexpected),
        *_listed('of another shape',
                 [f'{k}: {text}' for k, text in other_shape.items()])
    ])
    if fitting == 0 or (strict and (missing or other_shape)):
        raise UserError(
            report + '\nuse the checkpoint of this config, or the config of '
            'this checkpoint (MMEngine keeps a copy in the work folder)')
    print_log(report, logger='current')


def _is_counter(key: str) -> bool:
    """BatchNorm's counters; files of old versions lack them."""
    return key.endswith('num_batches_tracked')


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f'\n    ... and {len(names) - 10} more' if len(names) > 10 else ''
    return [f'  {what} ({len(names)}):\n    ' + '\n    '.join(names[:10]) +
            more]
