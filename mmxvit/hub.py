# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Models by name: the archs of the backbones, and the shipped configs.

Imports torch or mmpretrain only when a function is called that needs it.
"""
import difflib
import fnmatch
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dependencies import how_to_install

if TYPE_CHECKING:
    import torch.nn as nn
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


def list_models(pattern: str | None = None,
                exclude_patterns: list[str] | None = None,
                task: str | None = None) -> list[str]:
    """Names of the models of this package: those of their configs.

    Args:
        pattern: Wildcard pattern that the beginning of a name must match.
        exclude_patterns: Patterns of names to leave out.
        task: Such as ``'Image Classification'`` or ``'Object Detection'``.

    Raises:
        RuntimeError: This package is without its configs.
    """

    def matches(name: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern + '*')

    return sorted(
        name for name, model in _models().items()
        if matches(name, pattern or '')
        and not any(matches(name, p) for p in exclude_patterns or ())
        and (task is None or task in (r['Task'] for r in model['Results'])))


def get_config_path(name: str) -> str:
    """The config file of a model, for the functions and inferencers of the
    mm* packages that take one.

    Args:
        name: One of :func:`list_models`.

    Raises:
        RuntimeError: This package is without its configs.
        ValueError: There is no such name.
    """
    if name not in _models():
        close = difflib.get_close_matches(name, _models(), 3)
        raise ValueError(
            f'there is no model {name!r}; mmxvit.list_models() has all names' +
            (f', the nearest are {", ".join(close)}' if close else ''))
    return str(config_root() / _models()[name]['Config'])


def create_model(name: str,
                 pretrained: str | Path | bool | None = None,
                 features_only: bool = False,
                 num_classes: int | None = None,
                 **kwargs: Any) -> 'nn.Module':
    """Build a classifier or its backbone in plain PyTorch.

    It needs torch and MMEngine, no mmcv and no task package. Parameters have
    the names that they have in the mm* packages.

    Args:
        name: A classifier of :func:`list_models`, such as
            ``'fcaformer-l1_8xb128_in1k'``, or what stands before its first
            underscore: ``'fcaformer-l1'``.
        pretrained: Path or URL of a checkpoint of this package, from the
            tools, the converters or ``torch.save(model.state_dict(), FILE)``.
            It must fit as a whole; with ``features_only`` that of a detector
            or segmentor with this backbone will do. Nothing in it is executed.
        features_only: Build the backbone, which returns a tuple of maps (B, C,
            H / stride, W / stride) and has a ``feature_info``.
        num_classes: Of the classifier. None: those of the checkpoint, else
            1000. If it differs from the checkpoint's, the last layers are new.
        kwargs: Arguments of the backbone, such as ``out_indices`` or
            ``in_channels``; others are as in the classifier's config.

    Returns:
        The model, in train mode as any that PyTorch builds. A classifier
        turns (B, 3, H, W) into logits (B, num_classes). Models that are
        trained by the configs of this package take RGB images of 0 to 1 with
        mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224,
        0.225).

    Raises:
        CheckpointError: The checkpoint cannot be read, or is one of another
            model.
        RuntimeError: This package is without its configs.
        ValueError: There is no such name, or an argument is out of its range.
    """
    from mmengine.config import Config

    from .models.classifiers import Classifier
    from .registry import MODELS
    from .utils.checkpoint import load_checkpoint_file

    short = _classifiers()
    if name not in short.values() and name not in short:
        raise ValueError(f'there is no classifier {name!r}; choose from '
                         f'{", ".join(short)}')
    if pretrained is True:
        raise ValueError(
            f'pretrained=True: there are no published weights of {name}; give '
            'the path or URL of a checkpoint')
    if pretrained == '':
        raise ValueError("pretrained='': give the path or URL of a "
                         'checkpoint, or None')
    if num_classes is not None and num_classes < 1:
        raise ValueError(
            f'num_classes={num_classes}: expected 1 or more; for a model '
            'without a classifier set features_only=True')
    cfg = Config.fromfile(get_config_path(short.get(name, name))).model
    state = {}
    if pretrained:
        if 'init_cfg' in kwargs:
            raise ValueError('give init_cfg or pretrained, not both')
        state = load_checkpoint_file(pretrained)
        state = state.get('state_dict', state)
    if features_only:
        if num_classes is not None:
            raise ValueError('num_classes has no use with features_only=True')
        for key in ('out_indices', 'out_type'):  # those of a classifier
            cfg.backbone.pop(key, None)
        model = MODELS.build({**cfg.backbone, **kwargs})
        if pretrained:
            whole = any(key.startswith('backbone.') for key in state)
            model.init_cfg = dict(
                type='Pretrained',
                checkpoint=str(pretrained),
                prefix='backbone.' if whole else '')
            model.init_weights()
        return model
    if num_classes is None:
        num_classes = len(state.get('head.fc.weight', range(1000)))
    cfg.head.num_classes = num_classes
    model = Classifier({**cfg.backbone, **kwargs}, cfg.get('neck'), cfg.head)
    if pretrained:
        model.load_weights(state, pretrained)
    return model


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
    if not all(hub.has(name) for name in _models()):
        hub.register_model_index(
            config_root() / 'model-index.yml', config_prefix=config_root())


def get_model(model: str,
              pretrained: bool | str = False,
              **kwargs: Any) -> 'BaseModel':
    """Build a classifier by name, as ``mmpretrain.get_model`` does.

    Args:
        model: One of :func:`list_models`; the short name of a classifier, as
            in :func:`create_model`; or whatever else mmpretrain takes.
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
    if isinstance(model, str):
        model = _classifiers().get(model, model)
    if isinstance(model, str) and model.lower() in _models():
        cfg = mmpretrain.ModelHub.get(model).config
        if cfg.default_scope != 'mmpretrain':
            raise ValueError(
                f'{model} is a model of {cfg.default_scope}, and mmpretrain '
                'builds classifiers only; give its config to '
                f'{cfg.default_scope}: {cfg.filename}')
    return mmpretrain.get_model(model, pretrained, **kwargs)


def _classifiers() -> dict[str, str]:
    """Short names of the classifiers -> their names."""
    return {name.partition('_')[0]: name
            for name in list_models(task='Image Classification')}


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
def _models() -> dict[str, dict[str, Any]]:
    """Entries of the metafiles, by name."""
    import yaml
    root = config_root()

    def read(file: str) -> dict[str, Any]:
        return yaml.safe_load((root / file).read_text(encoding='utf-8'))

    return {
        model['Name']: model
        for file in read('model-index.yml')['Import']
        for model in read(file)['Models']
    }
