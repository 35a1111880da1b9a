# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What the commands share."""
import argparse
import difflib
import functools
import importlib
import importlib.util
import os
import os.path as osp
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import is_cuda_available
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner

import mmxvit
from mmxvit.dependencies import (
    explain_import_error,
    how_to_compile,
    how_to_install,
)
from mmxvit.utils.checkpoint import CheckpointError, load_checkpoint_file

SCOPES = ('mmdet', 'mmseg', 'mmpretrain')
"""``default_scope`` of the task packages."""

BARE_BACKBONES = {
    'HRNet': ('stage2.0.branches.', ),
    'MixVisionTransformer': ('layers.0.0.projection.', ),
    'PyramidVisionTransformerV2': ('patch_embed1.', 'layers.0.0.projection.'),
}
"""Stock backbones whose weights are published for themselves, not as a part of
a classifier, and a name among these weights: the authors' or that here."""

_LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')


class UserError(ValueError):
    """Something the user can mend; the message says what and how."""


def command(main: Callable[[Sequence[str] | None], None]) -> Callable:
    """Make ``main(argv)`` a command: mistakes end it without a traceback.

    :class:`UserError` and
    :class:`~mmxvit.utils.checkpoint.CheckpointError` end the process with
    status 1 and their message. Of several processes the first one is let go
    first, so that the launcher, which then ends the others, shows the message
    once.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except (UserError, CheckpointError) as error:
            if any(os.environ.get(rank, '0') != '0' for rank in _LOCAL_RANKS):
                time.sleep(10)
            # a worker of a data loader puts its traceback before the message
            sys.exit(f'error: {str(error).rpartition("UserError: ")[2]}')

    return run


def type_name(cfg: dict) -> str:
    """``type`` of a part of a config, the class of a pure Python config too.

    Returns:
        As a config would write it, with the scope where it is known
        (``mmdet.FPN``), and without for MMEngine's own.
    """
    kind = cfg.get('type', '')
    if not isinstance(kind, str):
        kind = f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return kind.removeprefix('mmengine.')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change entries of the config, e.g. '
        'train_dataloader.batch_size=4 "model.neck.in_channels=[160,128,96]"')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of train and test."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs, results and checkpoints '
        '(default: ./work_dirs/<config name>)')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what has started the processes')
    # torch.distributed.launch passes the one or the other spelling
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def new_file(wanted: Path) -> Path:
    """``wanted``, or ``<name>-1``, ... if there is such a file already.

    Says so in that case. The folder is made.
    """
    path = wanted
    for i in count(1):
        if not path.exists():
            break
        path = wanted.with_name(f'{wanted.stem}-{i}{wanted.suffix}')
    if path != wanted:
        print(f'{wanted} exists already and is kept')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _similar_configs(path: Path) -> list[str]:
    """Existing config files whose names resemble that of ``path``."""
    package = Path(mmxvit.__file__).parent
    folders = [Path('configs'), package / '.mim/configs']
    if (package.parent / 'pyproject.toml').is_file():  # a source tree
        folders.append(package.parent / 'configs')
    found = list(path.parent.glob('*.py')) if path.parent.is_dir() else []
    for folder in folders:
        found += folder.rglob('*.py')
    by_name: dict[str, str] = {}
    for file in found:
        if '_base_' not in file.parts:
            by_name.setdefault(file.name, str(file))
    wanted = path.name if path.suffix else f'{path.name}.py'
    return [
        by_name[name]
        for name in difflib.get_close_matches(wanted, by_name, 5, .6)
    ]


def shipped(name: str) -> str:
    """Path of a file of this package, as short as it can be written.

    Args:
        name: Below the root of the repository, such as ``tools/train.py``.
    """
    package = Path(mmxvit.__file__).parent
    path = package.parent / name
    if not path.is_file():  # installed without the source tree
        path = package / '.mim' / name
    return min(osp.relpath(path), str(path), key=len)


def tool_command(name: str) -> str:
    """How a script of ``tools/`` is started."""
    return f'python {shipped(f"tools/{name}")}'


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file.

    Two entries at the top of a config count when ``options`` change them,
    although the config has used them already: ``data_root`` replaces the old
    one in all data sets and evaluators, ``pretrained`` becomes ``init_cfg``
    of ``model.backbone`` (keys with the prefix ``backbone.``, but without for
    :data:`BARE_BACKBONES`; None clears it), beside which the backbone is given
    what the config has in ``pretrained_backbone``.

    Args:
        path: Config file.
        options: What ``--cfg-options`` changes in it.

    Raises:
        UserError: There is no such file (the message has the nearest names),
            a file it builds on is missing or in a package that MMEngine
            cannot find, it has no model, or the package of its
            ``default_scope`` is not installed or cannot be imported.
    """
    if not osp.isfile(path):
        similar = ''.join(f'\n  {p}' for p in _similar_configs(Path(path)))
        raise UserError(
            f'{path}: no such config file' +
            (f'; nearest names:{similar}' if similar else
             f', nor any with a similar name in {Path(path).parent}/ or '
             'configs/'))
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise UserError(f'{path}: a file in its _base_ is missing: '
                        f'{error}') from error
    except ModuleNotFoundError as error:
        if error.name:  # an import of the config's own
            raise
        raise UserError(
            f'{path}: a file in its _base_ cannot be found: {error}. '
            'MMEngine knows the names of the original distributions only: '
            'name the base by its path instead of PACKAGE::FILE, or use a '
            'config without such a base') from error
    options = options or {}
    if options:
        old_root = cfg.get('data_root')
        if old_root and 'data_root' in options:
            _move_data(cfg, old_root, options['data_root'])
        cfg.merge_from_dict(options)
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{path}: has no `model`; a file of _base_ is only '
                        'part of a config')
    # mmdet's pure Python configs have none, only classes.
    scope = cfg.get('default_scope') or type_name(cfg.model).split('.')[0]
    if scope in SCOPES:
        cfg.default_scope = scope
        if importlib.util.find_spec(scope) is None:
            raise UserError(
                f'{path}: needs {scope} (its default_scope), which is not '
                f'installed; {how_to_install(scope)}')
        try:
            importlib.import_module(f'{scope}.datasets')
            importlib.import_module(f'{scope}.models')
        except Exception as error:  # they assert versions, wheels raise too
            raise UserError(
                f'{path}: needs {scope} (its default_scope), which cannot be '
                f'imported: {explain_import_error(error)}') from error
    if 'pretrained' in options and cfg.model.get('backbone'):
        backbone = cfg.model.backbone
        backbone.pop('init_cfg', None)
        if options['pretrained']:
            backbone.update(cfg.get('pretrained_backbone', {}))
            bare = type_name(backbone).rpartition('.')[2] in BARE_BACKBONES
            backbone.init_cfg = dict(
                type='Pretrained',
                checkpoint=options['pretrained'],
                **({} if bare else dict(prefix='backbone.')))
    return cfg


def _move_data(cfg: Config, old: str, new: str) -> None:
    """Replace the folder ``old`` in all paths of data and evaluation."""
    old = old.rstrip('/')

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: moved(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(moved(v) for v in value)
        if isinstance(value, str) and (value + '/').startswith(f'{old}/'):
            return osp.join(new, value[len(old):].lstrip('/'))
        return value

    for split in ('train', 'val', 'test'):
        for key in (f'{split}_dataloader', f'{split}_evaluator'):
            if cfg.get(key):
                cfg[key] = moved(cfg[key])


def load_run_config(args: argparse.Namespace) -> Config:
    """:func:`load_config` plus work folder and launcher of train and test."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', Path(args.config).stem)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """The runner of a config; its checkpoints are loaded as weights only.

    Raises:
        UserError: See :func:`check_operators` and :func:`check_strategy`.
    """
    check_operators(cfg)
    check_strategy(cfg)
    use_safe_loading()
    if cfg.get('launcher') == 'pytorch' and not is_cuda_available():
        _join_cpu_processes(cfg)
    if cfg.get('default_scope') == 'mmpretrain':
        _complete_loaders(cfg)
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
        if isinstance(runner.model, dict):  # FlexibleRunner takes both
            runner.model = MODELS.build(runner.model)
        return runner
    return Runner.from_cfg(cfg)


def check_strategy(cfg: Config) -> None:
    """Check that a strategy of MMEngine's FlexibleRunner can do its work.

    Raises:
        UserError: The runner does not use it, it needs several processes or
            a package that is not there, or a hook needs whole weights.
    """
    kind = type_name(cfg.get('strategy') or {}).rpartition('.')[2]
    if not kind:
        return
    runner = type_name(dict(type=cfg.get('runner_type', 'Runner')))
    if runner != 'FlexibleRunner':
        raise UserError(f'strategy {kind}: {runner} does not use it; set '
                        "runner_type = 'FlexibleRunner' in the config")
    if kind not in ('FSDPStrategy', 'DeepSpeedStrategy'):
        return
    if any(type_name(hook).endswith('EMAHook')
           for hook in cfg.get('custom_hooks') or ()):
        raise UserError(
            f'strategy {kind}: EMAHook averages whole weights, and no process '
            'has them; train without the strategy, or without the hook '
            '(custom_hooks)')
    if cfg.get('launcher', 'none') == 'none':
        raise UserError(f'strategy {kind} shares the model between processes; '
                        'start them: tools/dist_train.sh CONFIG GPUS')
    if kind == 'FSDPStrategy':
        wrapper = cfg.get('optim_wrapper') or {}
        constructor = type_name(dict(type=wrapper.get('constructor') or ''))
        if ('Decay' in constructor
                or 'flat_decay_mult' in (wrapper.get('paramwise_cfg') or {})):
            raise UserError(
                f'strategy {kind}: weight decay by the shape of parameters '
                f'({constructor or "flat_decay_mult"}), but FSDP makes all of '
                'them flat; train without the strategy, or set another '
                'optim_wrapper')
        return
    # MMEngine imports the second one, which the newest releases lack
    for module, state in (('deepspeed', 'is not installed'),
                          ('deepspeed.runtime.fp16.onebit', 'is too new')):
        if importlib.util.find_spec(module) is None:
            raise UserError(f'strategy {kind}: deepspeed {state}; run: pip '
                            'install deepspeed==0.17.6')
    if cfg.get('load_from'):
        raise UserError(f'strategy {kind}: load_from would be a folder of '
                        'DeepSpeed; set model.init_cfg to '
                        f"dict(type='Pretrained', checkpoint={cfg.load_from!r}"
                        ')')
    checkpoints = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    if checkpoints is not None and checkpoints.get('save_optimizer', True):
        raise UserError(
            f"strategy {kind}: with the optimizer's state its checkpoints are "
            'folders that tools/test.py does not read; set default_hooks = '
            'dict(checkpoint=dict(save_optimizer=False))')
    wrapper = type_name(cfg.optim_wrapper)
    if wrapper != 'DeepSpeedOptimWrapper':
        raise UserError(
            f'strategy {kind}: optim_wrapper has the type {wrapper}; set '
            "optim_wrapper=dict(_delete_=True, type='DeepSpeedOptimWrapper', "
            'optimizer=dict(...))')


def check_operators(cfg: Config, device: str = 'cuda') -> None:
    """Check that mmcv's operators (NMS, ...) serve a detector's device.

    Raises:
        UserError: The device is a GPU, and mmcv is compiled for the CPU.
    """
    if (cfg.get('default_scope') != 'mmdet' or not device.startswith('cuda')
            or not is_cuda_available()):
        return
    import mmcv.ops
    if mmcv.ops.get_compiling_cuda_version() == 'not available':
        raise UserError(
            'this detector would run on the GPU, but the operators of the '
            'installed mmcv (NMS, ...) are compiled for the CPU only: set '
            'CUDA_VISIBLE_DEVICES= to run it on the CPU, or compile them on a '
            f'machine with a CUDA toolkit: FORCE_CUDA=1 {how_to_compile()}')


def use_safe_loading() -> None:
    """Let MMEngine load files and URLs by :func:`load_checkpoint_file`."""
    for prefix in ('', 'http://', 'https://'):
        CheckpointLoader.register_scheme(
            prefix, loader=load_from_file, force=True)


def _join_cpu_processes(cfg: Config) -> None:
    """MMEngine starts and wraps distributed processes for GPUs only."""
    _unsynchronise(cfg.model)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    if type_name(cfg.get('strategy') or {}).endswith('FSDPStrategy'):
        _use_fsdp_on_cpu(cfg.strategy)
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None
    }


def _use_fsdp_on_cpu(strategy: dict) -> None:
    strategy.model_wrapper = {
        'type': 'MMFullyShardedDataParallel',
        **(strategy.get('model_wrapper') or {}), 'device_id': 'cpu'
    }
    if strategy.get('state_dict_cfg') == 'full':
        # without offload_to_cpu, which frees what is on the CPU already
        strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(
                type='FullStateDictConfig', rank0_only=True),
            optim_state_dict_config=dict(
                type='FullOptimStateDictConfig', rank0_only=True))


def _unsynchronise(node: Any) -> None:
    """Name plain BatchNorm for SyncBN, which torch has for GPUs only."""
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _unsynchronise(child)


def _complete_loaders(cfg: Config) -> None:
    """What mmpretrain's tools add to the data loaders of its configs."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', is_cuda_available())
            loader.setdefault('persistent_workers',
                              loader.get('num_workers', 0) > 0)


def load_from_file(filename: str, map_location: Any = None) -> dict:
    """Loader for MMEngine's table of checkpoint schemes."""
    return load_checkpoint_file(filename, map_location or 'cpu')
