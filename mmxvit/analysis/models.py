# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Name, build and run the models that the analysis tools work on."""
import ast
import copy
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from mmxvit.engine.command import load_config

SCOPES = ('mmxvit', 'mmdet', 'mmseg', 'mmpretrain')
CUSTOM_IMPORTS = '_custom_imports_'


def parse_model(text: str) -> tuple[str, dict]:
    """Read a model from the command line; nothing in it is executed.

    Args:
        text: One of

            * ``mmxvit.XFormer`` or ``mmxvit.XFormer:xformer``: a registered
              type, with its ``arch`` after the colon;
            * ``dict(type='mmpretrain.MobileViT', arch='small')``,
              ``{'type': ...}`` or JSON: a type with all its keywords;
            * ``path/to/config.py``: the whole model of a config file;

            each with an optional ``NAME=`` in front. A name has no slash.

    Returns:
        tuple[str, dict]: A name to print and what :func:`build_model` takes.

    Raises:
        ValueError: ``text`` is none of these.
        UserError: The config file cannot be read.
    """
    text = text.strip()
    name, sep, rest = text.partition('=')
    if sep and not set(name) & set('({/'):
        name, text = name.strip(), rest.strip()
    else:
        name = ''
    if text.endswith('.py'):
        cfg = model_of_config(load_config(text))
        return name or Path(text).stem, cfg
    if text.startswith(('dict(', '{')):
        cfg = _parse_dict(text)
    else:
        type_name, _, arch = text.partition(':')
        cfg = dict(type=type_name)
        if arch:
            cfg['arch'] = arch
    if not isinstance(cfg.get('type'), str):
        raise ValueError(f"no type='...' (a string) in {text!r}")
    default = cfg['type'].rpartition('.')[2]
    if isinstance(cfg.get('arch'), str):
        default += f':{cfg["arch"]}'
    return name or default, cfg


def parse_models(texts: Iterable[str]) -> dict[str, dict]:
    """Read several models, see :func:`parse_model`.

    Returns:
        dict[str, dict]: What :func:`build_model` takes, by name.

    Raises:
        ValueError: One cannot be read, or two have the same name.
    """
    models = {}
    for text in texts:
        name, cfg = parse_model(text)
        if name in models:
            raise ValueError(f'two models are named {name}; tell them apart '
                             'by NAME= in front')
        models[name] = cfg
    return models


def _parse_dict(text: str) -> dict:
    """A dict(...) expression, a dict display or JSON, from literals only."""
    try:
        cfg = json.loads(text)
    except ValueError:
        try:
            cfg = _literal(ast.parse(text, mode='eval').body)
        except (SyntaxError, ValueError) as error:
            raise ValueError(
                f'cannot read {text!r}: {error}. Expected literals inside '
                "dict(...), e.g. dict(type='mmpretrain.MobileViT', "
                "arch='small')") from None
    if not isinstance(cfg, dict):
        raise ValueError(f'expected a dict, got {text!r}')
    return cfg


def _literal(node: ast.AST) -> Any:
    """Like ast.literal_eval, but dict(key=value) is allowed as well."""
    if isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id == 'dict'
                and not node.args and all(k.arg for k in node.keywords)):
            raise ValueError(
                f'{ast.unparse(node)!r} is a call other than dict(key=value)')
        return {k.arg: _literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError(f'{ast.unparse(node)!r} unpacks another dict')
        return {
            _literal(k): _literal(v)
            for k, v in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.List):
        return [_literal(v) for v in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(v) for v in node.elts)
    return ast.literal_eval(node)


def model_of_config(cfg: Config) -> dict:
    """The model of a config, with all that :func:`build_model` needs.

    That is the scope its names are looked up in, and the modules that
    register its own ones.
    """
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename} has no model')
    model = copy.deepcopy(cfg.model)
    model['_scope_'] = cfg.get('default_scope')
    if cfg.get('custom_imports'):
        model[CUSTOM_IMPORTS] = cfg.custom_imports
    return model


def config_input_size(cfg: Config) -> tuple[tuple[int, int], str] | None:
    """Height and width at which a config tests, where it can be read off.

    The window of sliding-window segmentation; else the size a segmentor's
    data preprocessor pads to; else the last resize or crop of the test
    pipeline (for resizing with kept ratio its upper bound), rounded up to
    the ``pad_size_divisor`` of the data preprocessor.

    Returns:
        tuple | None: ((H, W), where it was found), None if nowhere.
    """
    test_cfg = cfg.model.get('test_cfg') or {}
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get(
        'data_preprocessor') or {}
    if test_cfg.get('mode') == 'slide':
        return _pair(test_cfg.crop_size), 'test_cfg.crop_size'
    if preprocessor.get('size'):
        return _pair(preprocessor.size), 'data_preprocessor.size'
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    divisor = preprocessor.get('pad_size_divisor', 1)
    for step in reversed(dataset.get('pipeline') or []):
        kind = str(step.type).rpartition('.')[2]
        if kind in ('CenterCrop', 'ResizeEdge'):
            size = _pair(step.get('crop_size') or step.scale)
        elif kind == 'Resize' and step.get('scale'):
            width, height = _pair(step.scale)
            size = (height, width)
        else:
            continue
        size = tuple(-(-s // divisor) * divisor for s in size)
        return size, f'{kind} of the test pipeline'
    return None


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def build_model(cfg: dict) -> nn.Module:
    """``MODELS.build`` that names similar types where there is none.

    Args:
        cfg: A backbone by its type with scope (``mmdet.ResNet``) and
            keywords, or what :func:`model_of_config` returns.

    Raises:
        ValueError: The type is not registered, its scope is missing, or a
            class does not take the keywords it is given.
    """
    cfg = copy.deepcopy(cfg)
    # reading the config has done this, but maybe in another process
    import_modules_from_strings(**cfg.pop(CUSTOM_IMPORTS, dict(imports=[])))
    if '_scope_' not in cfg:
        _check_type(cfg['type'])
    try:
        return MODELS.build(cfg)
    except TypeError as error:
        if re.search(r'__init__\(\) (got|missing|takes) ', str(error)):
            raise ValueError(f'{cfg["type"]}: {error}') from error
        raise


def _check_type(type_name: str) -> None:
    scope, _, name = type_name.rpartition('.')
    if not scope:
        if name in MODELS.module_dict:
            return
        known = [
            f'{s}.{n}' for s in SCOPES for n in _names(s, missing_ok=True)
        ]
        near = [n for n in known if n.rpartition('.')[2] == name]
        near = near or difflib.get_close_matches(type_name, known, n=3)
        raise ValueError(
            f'type {type_name!r} has no scope; write e.g. '
            f'{" or ".join(near) or "mmxvit.XFormer"}')
    names = _names(scope)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f'Similar names: {", ".join(f"{scope}.{n}" for n in near)}' \
            if near else f'Its names: {", ".join(sorted(names))}'
        raise ValueError(f'{scope} has no model {name!r}. {hint}')


def _names(scope: str, missing_ok: bool = False) -> set[str]:
    """Names in a scope's registry of models."""
    try:
        registry = import_module(f'{scope}.registry').MODELS
    except (ImportError, AttributeError):
        if missing_ok:
            return set()
        raise ValueError(
            f'scope {scope!r} is no installed package with a registry of '
            f'models; expected e.g. {", ".join(SCOPES)}') from None
    registry.import_from_location()
    return set(registry.module_dict)


def run_model(model: nn.Module, images: Tensor) -> Any:
    """Backbone: ``model(x)``; whole model of a config: mode ``'tensor'``.

    Two-stage detectors read sizes from their data samples and run their RoI
    heads on the proposals of the RPN, so the work there depends on weights
    and image.

    Args:
        images: (B, C, H, W), preprocessed.
    """
    # what torch.compile returns is no BaseModel
    whole = getattr(model, '_orig_mod', model)
    if not isinstance(whole, BaseModel):
        return model(images)
    size = tuple(images.shape[-2:])
    samples = [
        BaseDataElement(
            metainfo=dict(
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1., 1.))) for _ in images
    ]
    with _masks_for_100_rois(whole):
        return model(images, samples, mode='tensor')


@contextmanager
def _masks_for_100_rois(model: BaseModel) -> Iterator[None]:
    """In this mode mmdet's cascades draw masks for every RoI.

    Its other RoI heads do for the first 100, as many as a prediction has.
    """
    head = getattr(model, 'roi_head', None)
    if not (hasattr(head, 'num_stages') and hasattr(head, '_mask_forward')):
        yield
        return
    draw = head._mask_forward

    def draw_first(stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        results = draw(stage, x, rois[:100])
        # one value per RoI for the caller, who splits them by image
        results['mask_preds'] = results['mask_preds'][:1, :1, :1, :1].expand(
            len(rois), 1, 1, 1)
        return results

    head._mask_forward = draw_first
    try:
        yield
    finally:
        del head._mask_forward


@contextmanager
def blind_rois(model: nn.Module) -> Iterator[None]:
    """Let a two-stage detector of mmdet run without values.

    The RPN proposes as many boxes as it may, and RoI features are only as
    large as they would be: NMS and RoI align are not called.
    """
    def propose(*outputs: object, batch_img_metas: list[dict],
                **kwargs: object) -> list[InstanceData]:
        boxes = torch.zeros(model.test_cfg.rpn.max_per_img, 4)
        return [InstanceData(bboxes=boxes) for _ in batch_img_metas]

    def extractor(layer: nn.Module) -> Callable:
        def extract(feats: tuple[Tensor, ...], rois: Tensor,
                    **kwargs: object) -> Tensor:
            size = layer.roi_layers[0].output_size
            return feats[0].new_empty(len(rois), layer.out_channels, *size)

        return extract

    extractors = [m for m in model.modules() if hasattr(m, 'roi_layers')]
    model.rpn_head.predict_by_feat = propose
    for layer in extractors:
        layer.forward = extractor(layer)
    try:
        yield
    finally:
        del model.rpn_head.predict_by_feat
        for layer in extractors:
            del layer.forward


def random_images(shape: tuple[int, ...], model: nn.Module) -> Tensor:
    """Seeded normal noise with the device and dtype of a model's weights."""
    weight = next(model.parameters(), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(weight)
