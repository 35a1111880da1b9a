# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Convert a checkpoint of any family: read, rename, compare, write."""
import argparse
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmxvit.engine.command import UserError
from mmxvit.engine.hooks import AtomicBackend
from mmxvit.registry import MODELS
from mmxvit.utils.allocator import tune_allocator
from mmxvit.utils.checkpoint import load_checkpoint_file

FAMILIES = ('lvt', 'fcaformer', 'cabvit')
"""Modules of this package, and the beginnings of the tools' names."""

# Where training scripts put weights (mmcv and timm; DeiT; wrapped models) and
# their moving average (DeiT; timm).
_WEIGHTS = ('state_dict', 'model', 'module')
_EMA = ('model_ema', 'state_dict_ema')
# What stands beside the backbone of a detector or segmentor
_PART = re.compile(r'neck|\w+_head')


def convert_file(family: ModuleType, description: str,
                 argv: Sequence[str] | None) -> None:
    """The command ``SRC DST [--force] [--ema]`` of a family.

    Args:
        family: Its module, see :mod:`mmxvit.converters`.
        description: For ``--help``.
        argv: Arguments; None takes those of the process.

    Raises:
        UserError, CheckpointError: SRC cannot be read or is no complete
            checkpoint of this family, or DST cannot be written. DST is then
            as it was.
    """
    tune_allocator()
    args = _parse_args(description, argv)
    _check_target(args.src, args.dst, args.force)
    state = read_weights(args.src, args.ema)
    try:
        converted, meta, notes = convert(family, state)
    except UserError as error:
        raise UserError(f'{args.src}: {error}') from None
    meta['sha256'] = _sha256(args.src)
    buffer = io.BytesIO()
    torch.save(dict(state_dict=converted, meta=meta), buffer)
    try:
        AtomicBackend().put(buffer.getvalue(), args.dst)
    except OSError as error:
        raise UserError(f'{args.dst}: cannot be written: {error}') from error
    parts = Counter(key.partition('.')[0] for key in converted)
    written = ', '.join(f'{n} under {part}.' for part, n in parts.items())
    print(f'{args.src}: {family.FAMILY}, arch {meta["arch"]}, '
          f'{meta["kind"]}, {len(state)} entries', *notes,
          f'{args.dst}: written, {written}', sep='\n')


def _parse_args(description: str,
                argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'src', type=Path, metavar='SRC', help="the authors' checkpoint")
    parser.add_argument(
        'dst', type=Path, metavar='DST', help='checkpoint to write')
    parser.add_argument(
        '--force', action='store_true', help='replace DST if it exists')
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the moving average of the weights that training has kept '
        'in SRC')
    return parser.parse_args(argv)


def _check_target(src: Path, dst: Path, force: bool) -> None:
    if dst.is_dir():
        raise UserError(f'{dst}: is a folder; name the file to write')
    if dst.exists():
        if not force:
            raise UserError(f'{dst}: exists already; remove it, choose '
                            'another name or give --force')
        if src.exists() and src.samefile(dst):
            raise UserError(f'{dst}: is the file to convert; choose another '
                            'name')


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(path: Path, ema: bool = False) -> dict[str, Any]:
    """The innermost state dict of a checkpoint, without ``module.``.

    Args:
        path: Checkpoint of any training script; only read as weights and
            training state, see :func:`load_checkpoint_file`.
        ema: Take the moving average.

    Raises:
        CheckpointError: It does not load.
        UserError: It holds no weights, or not those asked for.
    """
    level = load_checkpoint_file(path, mmengine=False)
    while inner := _inner(level, (*_EMA, *_WEIGHTS) if ema else _WEIGHTS):
        ema = ema and inner not in _EMA
        level = level[inner]
    if ema:
        raise UserError(f'{path}: has no moving average of the weights '
                        f'({" or ".join(_EMA)}); run without --ema')
    if not any(isinstance(value, Tensor) for value in level.values()):
        if only := _inner(level, _EMA):
            raise UserError(f'{path}: has only a moving average of the '
                            f'weights ({only}); give --ema')
        raise UserError(
            f'{path}: has no weights, neither at its top nor under '
            f'{", ".join(_WEIGHTS)}, but {_some(level) or "nothing"}')
    state = {
        re.sub(r'^(module\.)+', '', str(key)): value
        for key, value in level.items()
    }
    if len(state) < len(level):
        raise UserError(f'{path}: has the same entries with and without '
                        '"module." in front')
    return state


def _inner(level: dict, names: Sequence[str]) -> str | None:
    return next((n for n in names if isinstance(level.get(n), dict)), None)


def _some(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def convert(family: ModuleType, state: dict[str, Any]
            ) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Rename and reshape all entries of a state dict, and check them.

    Args:
        family: See :func:`convert_file`.
        state: Entries by the authors' names: of a classifier, a backbone or a
            whole detector or segmentor.

    Returns:
        Our state dict (new tensors, each with a storage of its own), arch and
        kind, and lines to tell the user.

    Raises:
        UserError: These are entries of something else, or some are missing
            or unknown; lists them.
    """
    prefix, arch, kind = _identify(family, state)
    converted, sources = {}, {}
    unknown, wrong, left_out = [], [], Counter()
    for key, value in state.items():
        name = None
        if key.startswith(prefix):
            name = family.rename(key.removeprefix(prefix), kind)
        elif _PART.fullmatch(part := key.partition('.')[0]):
            left_out[part] += 1
            continue
        if name is None or name in sources or not isinstance(value, Tensor):
            unknown.append(key)
            continue
        sources[name] = key
        try:
            value = family.convert_tensor(key.removeprefix(prefix), value)
        except (IndexError, RuntimeError):  # too few dimensions, odd widths
            wrong.append(f'{key}: {tuple(state[key].shape)}')
            continue
        converted[name] = value.detach().clone(
            memory_format=torch.contiguous_format)
    expected, notes = _expected(family, arch, kind, converted)
    unknown += [sources[name] for name in converted if name not in expected]
    for name, value in expected.items():
        if name in converted and converted[name].shape != value.shape:
            wrong.append(f'{sources[name]}: {tuple(converted[name].shape)} '
                         f'here, expected {tuple(value.shape)}')
        elif name in converted and (converted[name].is_floating_point()
                                    != value.is_floating_point()):
            wrong.append(f'{sources[name]}: {converted[name].dtype} here, '
                         f'expected {value.dtype}')
    missing = [name for name in expected if name not in sources]
    counters = [n for n in missing if n.endswith('num_batches_tracked')]
    missing = [
        f'{prefix}{family.authors_name(name)} (ours: {name})'
        for name in missing if name not in counters
    ]
    if unknown or missing or wrong:
        raise UserError('\n'.join([
            f'is not exactly {family.FAMILY}, arch {arch}, {kind}; nothing '
            'was written', *_listed('unknown', unknown),
            *_listed('missing', missing),
            *_listed('of another shape or type', wrong),
            'convert the complete file of its authors, with nothing added'
        ]))
    damaged = [
        sources[name] for name, value in converted.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if damaged:
        raise UserError('\n'.join([
            'holds infinite or undefined numbers; nothing was written',
            *_listed('not finite', damaged), 'take an earlier checkpoint'
        ]))
    if left_out:
        notes.append('left out: ' + ', '.join(
            f'{part} ({count} entries)' for part, count in left_out.items()))
    if counters:
        notes.append(f'set to 0: {len(counters)} counters of BatchNorms, '
                     'which the file lacks')
    # in the order of the model
    ordered = {name: converted.get(name, expected[name]) for name in expected}
    return ordered, dict(family=family.FAMILY, arch=arch, kind=kind), notes


def _identify(family: ModuleType,
              state: dict[str, Any]) -> tuple[str, str, str]:
    """What precedes the backbone's names, arch, kind."""
    reasons = []
    for prefix in ('', 'backbone.'):
        try:
            return prefix, *_detect(family, state, prefix)
        except (TypeError, ValueError) as error:
            reasons.append(f'under {prefix!r}, {error}' if prefix else
                           str(error))
    if any(key.startswith('backbone.stem.') for key in state):
        raise UserError('has the names of mmxvit already; use it as it is')
    for name in FAMILIES:
        other = import_module(f'mmxvit.converters.{name}')
        for prefix in ('', 'backbone.'):
            try:
                arch, kind = _detect(other, state, prefix)
            except (TypeError, ValueError):
                continue
            raise UserError(
                f'is of another family, {other.FAMILY} (arch {arch}, {kind}); '
                f'use tools/model_converters/{name}_to_mmxvit.py')
    raise UserError(f'is no {family.FAMILY}: {"; ".join(reasons)}. Its '
                    f'entries are {_some(state)}')


def _detect(family: ModuleType, state: dict[str, Any],
            prefix: str) -> tuple[str, str]:
    return family.detect({
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    })


def _expected(family: ModuleType, arch: str, kind: str,
              converted: dict[str, Tensor]
              ) -> tuple[dict[str, Tensor], list[str]]:
    """State dict of the model with these entries, BatchNorm counters at 0."""
    backbone = MODELS.build(family.backbone_cfg(arch, converted))
    expected = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    head_cfg = family.head_cfg(kind)
    if head_cfg is None:
        return expected, []
    try:
        MODELS.get(head_cfg['type'])
    except RuntimeError as error:  # there is no mmpretrain
        # Detectors need no head: let their users convert without mmpretrain.
        head = {k: v for k, v in converted.items() if k.startswith('head.')}
        return {**expected, **head}, [
            f'not checked whether all entries of the head are there: {error}'
        ]
    weight = converted.get('head.fc.weight')
    head = MODELS.build(
        dict(
            head_cfg,
            in_channels=backbone.out_channels[-1],
            num_classes=1000 if weight is None else len(weight)))
    expected.update((f'head.{k}', v) for k, v in head.state_dict().items())
    return expected, []


def _listed(what: str, names: Sequence[str]) -> list[str]:
    return [f'{what} ({len(names)}):', *(f'  {n}' for n in names)
            ] if names else []
