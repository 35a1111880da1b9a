# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Models by name: the archs of the backbones, and the shipped configs.

Imports mmpretrain only when a function is called that needs it.
"""
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dependencies import how_to_install

if TYPE_CHECKING:
    from mmengine.model import BaseModel


def list_archs() -> dict[str, list[str]]:
    """Backbones and the names that their argument ``arch`` takes.

    Returns:
        Such as ``{'CabViT': ['p-l0', 'h-l1', 'h-l2'], ...}``; in a config
        ``dict(type='mmxvit.CabViT', arch='h-l1')``.
    """
    from .models import backbones
    return {
        name: list(getattr(backbones, name).arch_settings)
        for name in backbones.__all__
    }


def register_hub() -> None:
    """Add the models of this package to mmpretrain's ``ModelHub``.

    After that ``mmpretrain.get_model``, ``mmpretrain.list_models`` and the
    inferencers know them by the names of their configs, such as
    ``'xformer_8xb128_in1k'``. A second call changes nothing. ``import mmxvit``
    does it if mmpretrain is imported already.

    Raises:
        RuntimeError: mmpretrain is not installed, or this package is without
            its configs.
        ValueError: Another package has registered one of the names.
    """
    hub = _mmpretrain().ModelHub
    if not all(hub.has(name) for name in _own_names()):
        hub.register_model_index(
            config_root() / 'model-index.yml', config_prefix=config_root())


def list_models(pattern: str | None = None,
                exclude_patterns: list[str] | None = None,
                task: str | None = None) -> list[str]:
    """Names of the models of this package.

    Args:
        pattern: Wildcard pattern that the beginning of a name must match.
        exclude_patterns: Patterns of names to leave out.
        task: Such as ``'Image Classification'`` or ``'Object Detection'``.

    Raises:
        RuntimeError: See :func:`register_hub`.
    """
    register_hub()
    names = _mmpretrain().list_models(pattern, exclude_patterns, task)
    return [name for name in names if name in _own_names()]


def get_model(model: str,
              pretrained: bool | str = False,
              **kwargs: Any) -> 'BaseModel':
    """Build a classifier by name, as ``mmpretrain.get_model`` does.

    Args:
        model: One of :func:`list_models`, or whatever else mmpretrain takes.
        pretrained: Checkpoint file or URL; True for the published weights of
            a model that has some.
        kwargs: Of ``mmpretrain.get_model``: ``device``, or entries of the
            config's ``model``, such as ``backbone=dict(out_indices=(3, ))``.

    Returns:
        The model, in eval mode.

    Raises:
        RuntimeError: See :func:`register_hub`.
        ValueError: There is no such name, or it is no classifier.
    """
    register_hub()
    mmpretrain = _mmpretrain()
    if isinstance(model, str) and model.lower() in _own_names():
        cfg = mmpretrain.ModelHub.get(model).config
        if cfg.default_scope != 'mmpretrain':
            raise ValueError(
                f'{model} is a model of {cfg.default_scope}, and mmpretrain '
                'builds classifiers only; give its config to '
                f'{cfg.default_scope}: {cfg.filename}')
    return mmpretrain.get_model(model, pretrained, **kwargs)


def _mmpretrain() -> Any:
    try:
        import mmpretrain
    except ModuleNotFoundError as error:
        if error.name != 'mmpretrain':
            raise
        raise RuntimeError(
            'models by name need mmpretrain, which is not installed; '
            f'{how_to_install("mmpretrain")}') from error
    return mmpretrain


def config_root() -> Path:
    """The folder of ``configs`` and ``model-index.yml``.

    Raises:
        RuntimeError: This package was installed without them.
    """
    package = Path(__file__).resolve().parent
    # what an installation makes, or else the clone itself
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            return root
    raise RuntimeError(
        f'{package / ".mim"} has no model-index.yml; install mmxvit again '
        'from its sources')


@functools.cache
def _own_names() -> set[str]:
    from modelindex.load_model_index import load
    index = load(str(config_root() / 'model-index.yml'))
    index.build_models_with_collections()
    return {model.name.lower() for model in index.models}
