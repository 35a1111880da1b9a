# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Files that are never half written; faster backbones."""
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.hooks import LoggerHook as MMEngineLoggerHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmxvit.deployment.fuse import fuse
from mmxvit.engine.command import UserError
from mmxvit.registry import HOOKS
from mmxvit.utils.compat import MODULES_COMPILE

_BACKEND = 'mmxvit.atomic'


@register_backend(_BACKEND, force=True)
class AtomicBackend(LocalBackend):
    """Local files that are either complete or not there.

    ``put`` writes a temporary file next to the target and renames it.
    ``remove`` and ``rmtree`` only note what has to go; :meth:`discard` does
    it, after the new file is safe.
    """

    def __init__(self) -> None:
        self._outdated: set[str] = set()

    def put(self, obj: bytes, filepath: str | Path) -> None:
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + '.tmp')
        try:
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError:  # such as a full disk
            partial.unlink(missing_ok=True)
            raise

    def remove(self, filepath: str | Path) -> None:
        self._outdated.add(str(filepath))

    def rmtree(self, dir_path: str | Path) -> None:
        self._outdated.add(str(dir_path))

    def discard(self, kept: Iterable[str | Path]) -> None:
        """Remove what :meth:`remove` and :meth:`rmtree` were called for.

        Args:
            kept: What has been written under the name of an old one since.
        """
        files = {Path(path).resolve() for path in kept}
        while self._outdated:
            path = self._outdated.pop()
            if Path(path).resolve() in files:
                continue
            if super().isdir(path):
                super().rmtree(path)
            else:
                super().remove(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, safe against being killed.

    The stock hook removes the oldest checkpoint before it writes the new
    one, and writes in place: with ``max_keep_ckpts=1`` a kill in between
    leaves nothing to resume from. Here the new file is complete before the
    old one goes. ``tools/train.py`` uses this hook wherever a config names
    the stock one. Takes the same arguments; checkpoints on remote storage
    (``out_dir`` with a scheme such as ``s3://``, or own ``backend_args``)
    are handled as by the stock hook.
    """

    def before_train(self, runner: Runner) -> None:
        if (self.file_client_args is None and self.backend_args is None
                and '://' not in str(self.out_dir)):
            self.backend_args = dict(backend=_BACKEND)
        super().before_train(runner)
        self._discard()  # more than max_keep_ckpts were left

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self._discard()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._discard()

    def _discard(self) -> None:
        if not isinstance(self.file_backend, AtomicBackend):
            return
        kept = [
            Path(self.out_dir, self.filename_tmpl.format(step))
            for step in getattr(self, 'keep_ckpt_ids', ())
        ]
        kept += getattr(self, 'best_ckpt_path_dict', {}).values()
        kept.append(getattr(self, 'best_ckpt_path', None))
        self.file_backend.discard(filter(None, kept))


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """MMEngine's, but only the first process writes the scores of a test.

    There all processes write the same file at the same time.
    ``tools/test.py`` uses this hook wherever a config names the stock one.
    """

    def after_test_epoch(self, runner: Runner,
                         metrics: dict[str, float] | None = None) -> None:
        if is_main_process():
            super().after_test_epoch(runner, metrics)


@HOOKS.register_module()
class FuseHook(Hook):
    """Tests run with a copy of the model whose BatchNorms are folded away.

    See :func:`mmxvit.fuse`. After the test the model is the old one again;
    validation during training is not touched. With an EMAHook it is the
    averaged weights that are fused.
    """

    # EMAHook exchanges the weights in before_test_epoch, this hook comes
    # behind it there.
    priority = 'VERY_LOW'

    def before_test_epoch(self, runner: Runner) -> None:
        holder, name = _place_of_model(runner)
        self.model = getattr(holder, name)
        setattr(holder, name, fuse(self.model.eval()))
        print_log('FuseHook: BatchNorms are folded into convolutions',
                  logger='current')

    def after_test_epoch(self, runner: Runner,
                         metrics: dict[str, float] | None = None) -> None:
        setattr(*_place_of_model(runner), self.model)
        del self.model


@HOOKS.register_module()
class CompileHook(Hook):
    """Backbones run through ``torch.compile``, in training and in tests.

    MMEngine's ``compile=True`` compiles the whole step of a training. With
    AdamW and options of single parameters (``paramwise_cfg``) that ends in
    an error, and elsewhere it compiles the optimizer for each
    learning rate again; heads of detectors fall apart into many graphs.
    Here the backbone alone is compiled, as one graph, and checkpoints keep
    the names of their weights. A model fused by :class:`FuseHook` is a copy
    and runs as it is.

    Args:
        options: Keywords of ``torch.compile``, such as ``dynamic`` or
            ``mode``.

    Raises:
        UserError: This torch is older than 2.2, or the model has no
            backbone.
    """

    def __init__(self, **options: Any) -> None:
        if not MODULES_COMPILE:
            raise UserError('CompileHook needs torch 2.2 or newer, this is '
                            f'{torch.__version__}; take the hook out of the '
                            'config')
        self.options = options

    def before_run(self, runner: Runner) -> None:
        model = runner.model
        while not hasattr(model, 'backbone') and hasattr(model, 'module'):
            model = model.module  # of several processes, or of TTA
        if not hasattr(model, 'backbone'):
            raise UserError('CompileHook compiles the backbone of a model, '
                            f'{type(model).__name__} has none; take the hook '
                            'out of the config')
        model.backbone.compile(**self.options)
        print_log('CompileHook: the first steps with each size of image take '
                  'minutes', logger='current')


def _place_of_model(runner: Runner) -> tuple[object, str]:
    """Who has the model: the runner, or its wrapper for several processes."""
    holder, name = runner, 'model'
    while is_model_wrapper(getattr(holder, name)):
        holder, name = getattr(holder, name), 'module'
    return holder, name
