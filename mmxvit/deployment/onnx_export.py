# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Write models as ONNX files of dynamic batch and image size."""
import inspect
import json
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmxvit.analysis.models import (
    build_model,
    config_input_size,
    model_of_config,
    parse_model,
)
from mmxvit.engine.checkpoints import check_checkpoint, check_weights
from mmxvit.engine.command import UserError, load_config, use_safe_loading
from mmxvit.utils.compat import ONNX_EXPORTER

from .fuse import fuse

INPUT = 'images'


def require(*packages: str) -> None:
    """Raises UserError if one of the optional packages is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f'needs {" and ".join(missing)}, not installed here: '
                        'pip install "mmxvit[deploy]"')


def load_model(text: str, checkpoint: str | None, backbone: bool
               ) -> tuple[nn.Module, tuple[int, int], dict[str, Any]]:
    """A model in eval mode, by what the command line names.

    Args:
        text: Config file, or a backbone as :func:`parse_model` takes it.
        checkpoint: File or URL, None for random weights. For a backbone that
            is no part of a model, its own or that of a whole model (keys
            ``backbone.*``).
        backbone: Only the backbone of the config.

    Returns:
        The model, the size (H, W) that the config tests at, else 224, and
        what to write into the ONNX file beside the graph.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        UserError: There is no such config or type, or the checkpoint is one
            of another model.
    """
    size, metadata = (224, 224), dict(config=text)
    try:
        if text.endswith('.py'):
            cfg = load_config(text)
            size, _ = config_input_size(cfg) or (size, None)
            preprocessor = cfg.model.get('data_preprocessor') or cfg.get(
                'data_preprocessor')
            if preprocessor:
                metadata['data_preprocessor'] = {
                    k: v for k, v in preprocessor.items()
                    if isinstance(v, (str, int, float, list, tuple))
                }
            model = build_model(model_of_config(cfg))
        else:
            model = build_model(parse_model(text)[1])
    except ValueError as error:
        raise UserError(str(error)) from error
    model = revert_sync_batchnorm(model)
    if checkpoint:
        use_safe_loading()
        check_checkpoint(checkpoint)
        whole = model
        if not isinstance(model, BaseModel):
            state = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
            state = state.get('state_dict', state)
            if any(key.startswith('backbone.') for key in state):
                whole = nn.ModuleDict(dict(backbone=model))
        check_weights(whole, checkpoint, strict=True)
    if backbone:
        if not hasattr(model, 'backbone'):
            raise UserError(f'--backbone: {text} is a backbone already')
        model = model.backbone
    model.eval()
    return model, size, metadata


def raw_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What goes into the graph, by the names that it gets there.

    Args:
        model: Backbone, or a model of mmpretrain, mmseg or mmdet.
        images: (B, 3, H, W), preprocessed.

    Returns:
        Of a backbone its maps, ``map0`` ... by ``out_indices``. Of a
        classifier ``logits`` (B, classes). Of a segmentor ``logits`` (B,
        classes, H, W), for several tasks ``logits_<task>``. Of a one-stage
        detector what its head gives before boxes are decoded, named as in
        the head's ``loss_by_feat`` with the level behind, such as
        ``cls_scores_0``. Of a two-stage detector the same of its RPN with
        ``rpn_`` before it, and the maps that its other heads start from,
        ``feat_0`` ...

    Raises:
        UserError: It is another kind of model.
    """
    if not isinstance(model, BaseModel):
        maps = model(images)
        if isinstance(maps, Tensor):
            maps = (maps, )
        indices = getattr(model, 'out_indices', range(len(maps)))
        return {f'map{i}': x for i, x in zip(indices, maps, strict=True)}
    if hasattr(model, 'encode_decode'):
        logits = model.encode_decode(
            images, [dict(img_shape=images.shape[2:])] * len(images))
        if not isinstance(model.decode_head, nn.ModuleDict):
            return dict(logits=logits)
        heads = model.decode_head.items()
        parts = logits.split([head.out_channels for _, head in heads], 1)
        return {f'logits_{task}': part
                for (task, _), part in zip(heads, parts, strict=True)}
    if hasattr(model, 'rpn_head') and hasattr(model, 'extract_feat'):
        feats = model.extract_feat(images)
        return {**_named(model.rpn_head, feats, 'rpn_'),
                **{f'feat_{i}': x for i, x in enumerate(feats)}}
    if hasattr(model, 'bbox_head') and hasattr(model.bbox_head,
                                               'loss_by_feat'):
        return _named(model.bbox_head, model.extract_feat(images))
    if hasattr(model, 'head') and hasattr(model, 'extract_feat'):
        logits = model(images, mode='tensor')
        if isinstance(logits, Tensor):
            return dict(logits=logits)
    raise UserError(
        f'{type(model).__name__}: only backbones, classifiers, segmentors and '
        'detectors with a dense head or an RPN are exported; use --backbone')


def _named(head: nn.Module, feats: tuple[Tensor, ...],
           prefix: str = '') -> dict[str, Tensor]:
    """Raw outputs of a dense head, named by its loss."""
    outputs = head(feats)
    names = list(inspect.signature(head.loss_by_feat).parameters)
    return {
        f'{prefix}{name}_{i}': x
        for name, levels in zip(names, outputs, strict=False)
        for i, x in enumerate(levels)
    }


class _AdaptiveAvgPool2d(nn.Module):
    """As torch's, by two matrix products, which ONNX has at any size.

    Args:
        size: Rows and columns of the output.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *size)"""
        rows, cols = (
            self.weights(n, length, x)
            for n, length in zip(self.size, x.shape[2:], strict=True))
        return rows @ x @ cols.transpose(0, 1)

    @staticmethod
    def weights(n: int, length: int, like: Tensor) -> Tensor:
        """(n, length): 1 / places of each window within it, else 0."""
        window = torch.arange(n, device=like.device).unsqueeze(1)
        place = torch.arange(length, device=like.device)
        # from floor(i length / n) to ceil((i + 1) length / n)
        inside = ((place + 1) * n > window * length) & (
            place * n < (window + 1) * length)
        inside = inside.to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


def _of_any_size(module: nn.Module) -> nn.Module:
    """An equal module whose graph is not for the traced size alone."""
    kind = type(module)
    if (kind is nn.AdaptiveAvgPool2d
            and module.output_size not in (1, (1, 1))):
        return _AdaptiveAvgPool2d(module.output_size)
    if (f'{kind.__module__}.{kind.__name__}' ==
            'mmseg.models.utils.wrappers.Upsample' and not module.size):
        # computes the size as Python integers
        return nn.Upsample(
            scale_factor=module.scale_factor,
            mode=module.mode,
            align_corners=module.align_corners)
    return module


class _Graph(nn.Module):
    """A model as the exporter takes it: a tensor in, a tuple out.

    Args:
        model: In eval mode; stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = fuse(model)
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                setattr(module, name, _of_any_size(child))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(raw_outputs(self.model, images).values())


def export_onnx(model: nn.Module,
                path: str | Path,
                size: tuple[int, int] = (224, 224),
                opset: int = 17,
                metadata: dict[str, Any] | None = None) -> list[str]:
    """Write a model as an ONNX file, BatchNorms folded away.

    Batch, height and width stay dynamic. The one input is ``images``,
    preprocessed; the outputs are those of :func:`raw_outputs`.

    Args:
        model: In eval mode; stays as it is.
        path: File to write; must not exist.
        size: (H, W) of the image that the graph is traced with.
        opset: Version of the operators, from 17 up.
        metadata: Entries of the file's ``metadata_props``; what is no string
            is written as JSON.

    Returns:
        Names of the outputs.

    Raises:
        UserError: ``path`` exists, onnx is not installed, the model is none
            of those that :func:`raw_outputs` knows, or torch cannot export
            it.
    """
    require('onnx')
    import onnx
    path = Path(path)
    if path.exists():
        raise UserError(f'{path}: exists already; choose another name or '
                        'remove it')
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = _Graph(model)
    weight = next(model.parameters())
    # of a batch of one, torch would take its size for constant in places
    images = torch.randn(2, 3, *size).to(weight)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # on sizes, which are traced
        outputs = raw_outputs(graph.model, images)
        axes = {
            name: {0: 'batch'} if x.dim() == 2 else
            {0: 'batch', 2: f'{name}_height', 3: f'{name}_width'}
            for name, x in outputs.items()
        }
        axes[INPUT] = {0: 'batch', 2: 'height', 3: 'width'}
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            try:
                torch.onnx.export(
                    graph, (images, ),
                    str(partial),
                    input_names=[INPUT],
                    output_names=list(outputs),
                    dynamic_axes=axes,
                    opset_version=opset,
                    **ONNX_EXPORTER)
            except (ValueError, RuntimeError) as error:
                raise UserError(f'torch cannot export this model to opset '
                                f'{opset}: {error}') from error
            proto = onnx.load(str(partial))
            onnx.helper.set_model_props(
                proto, {
                    k: v if isinstance(v, str) else json.dumps(v)
                    for k, v in (metadata or {}).items()
                })
            onnx.checker.check_model(proto)
            onnx.save(proto, str(partial))
            partial.rename(path)
    return list(outputs)
