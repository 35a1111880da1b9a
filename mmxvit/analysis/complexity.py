# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Parameters and multiply-accumulates (MACs) of a model, per stage.

Work is counted twice.

*Nominal* is what the structure of a paper asks for, at weights x output
positions. It does not change when a faster equivalent runs. It is kept in
four parts:

* ``linear``: convolutions and linear layers, without bias;
* ``attention``: products of activations with activations (``q k^T``, ``a v``),
  as a module states them, else every matrix product that is no linear layer;
  and all of :class:`torch.nn.MultiheadAttention`;
* ``norm``: two per element of a norm with affine parameters, else one;
* ``elementwise``: one per output element of a convolution with bias, one per
  element of a ReLU-like activation (ReLU, ReLU6, LeakyReLU, PReLU, ELU), one
  per input element of a pooling layer.

``linear + norm + elementwise`` is how mmcv 1.x and thus many papers count;
it reproduces the published figures of YOLOv3-MobileNetV2, SegFormer and
MobileViT to the last digit printed (see the tests). ``linear + attention`` is
the full count.

*Executed* is half of what :class:`torch.utils.flop_counter.FlopCounterMode`
sees in the real forward, all matrix products and convolutions included.
Operators with kernels of their own (deformable convolution, RoI align) are
in neither.
"""
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmxvit.utils.compat import math_attention

from .models import blind_rois, random_images, run_model

PARTS = ('linear', 'attention', 'norm', 'elementwise')
REST = '(rest)'
_RELU_LIKE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU)
_POOLING = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd)


@dataclass
class StageComplexity:
    """Counts of one part of a model.

    Attributes:
        name: Name of the module, or ``(rest)`` for what is in none.
        params: Parameters; one that is used twice counts where it comes first.
        nominal: MACs by part, see the module's docstring.
        executed: MACs that ran.
    """
    name: str
    params: int = 0
    nominal: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(PARTS, 0))
    executed: int = 0


@dataclass
class Complexity:
    """Counts of a model for a whole batch.

    Attributes:
        shape: (C, H, W) of one image.
        batch: Images.
        stages: Stages of a backbone (``stages.0`` ...) and the other
            top-level modules, in the model's order.
    """
    shape: tuple[int, int, int]
    batch: int
    stages: list[StageComplexity]

    @property
    def params(self) -> int:
        """Parameters of the model."""
        return sum(s.params for s in self.stages)

    @property
    def nominal(self) -> dict[str, int]:
        """Nominal MACs by part."""
        return {p: sum(s.nominal[p] for s in self.stages) for p in PARTS}

    @property
    def executed(self) -> int:
        """MACs that ran."""
        return sum(s.executed for s in self.stages)

    @property
    def paper(self) -> int:
        """linear + norm + elementwise, as mmcv 1.x counted."""
        nominal = self.nominal
        return nominal['linear'] + nominal['norm'] + nominal['elementwise']

    @property
    def full(self) -> int:
        """linear + attention."""
        nominal = self.nominal
        return nominal['linear'] + nominal['attention']


def complexity(model: nn.Module,
               shape: tuple[int, int, int] = (3, 224, 224),
               batch: int = 1,
               shapes_only: bool = False) -> Complexity:
    """Count parameters and MACs of one forward in eval mode.

    A module may state its own work: ``nominal_macs(inputs: tuple, output)
    -> dict[str, int]`` with some of the keys ``linear``, ``attention``,
    ``norm``, ``elementwise`` gets the positional arguments and the result of
    its forward and returns nominal MACs. It is then counted as a whole, and
    whatever runs inside it is not. Modules that fold or re-associate their
    products need this. All other convolutions, linear layers, norms,
    activations and pooling layers are counted by type.

    Args:
        model: A backbone, or the whole model of a config (run with
            ``mode='tensor'``, without its data preprocessor).
        shape: (C, H, W) of an image.
        batch: Images.
        shapes_only: Let operators compute shapes and no values, in seconds
            for any size. A two-stage detector then has as many proposals as
            its RPN may make. Models with deformable convolutions, which need
            values, run as ever.

    Returns:
        Complexity: The counts. ``model`` is as before.
    """
    images = random_images((batch, *shape), model)
    counter = FlopCounterMode(display=False)
    stages = _StageCounter(model, counter)
    with _eval_mode(model), torch.no_grad(), math_attention(), \
            _shapes_only(model, shapes_only) as fake, \
            _Products(stages), counter, stages:
        run_model(model, fake(images))
    return Complexity(tuple(shape), batch, stages.result())


class _StageCounter:
    """Forward hooks that add up work by stage."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self.model = model
        self.counter = counter
        self.prefixes = stage_names(model)
        self.stages = {n: StageComplexity(n) for n in [*self.prefixes, REST]}
        # stage of each running module, and how many of them state their work
        self.running: list[StageComplexity] = []
        self.stating = 0  # also torch's attention, counted by type
        self.seen = 0
        for name, param in model.named_parameters():
            self.stage_of(name).params += param.numel()

    def stage_of(self, name: str) -> StageComplexity:
        for prefix in self.prefixes:
            if name == prefix or name.startswith(prefix + '.'):
                return self.stages[prefix]
        return self.stages[REST]

    def __enter__(self) -> '_StageCounter':
        self.handles = []
        for name, module in self.model.named_modules():
            stage = self.stage_of(name)
            self.handles += [
                module.register_forward_pre_hook(
                    lambda module, args, stage=stage: self.begin(
                        module, stage)),
                module.register_forward_hook(
                    lambda module, args, kwargs, out, name=name: self.end(
                        name, module, args, kwargs, out),
                    with_kwargs=True)
            ]
        return self

    def __exit__(self, *exc_info) -> None:
        for handle in self.handles:
            handle.remove()
        self.flush()

    def flush(self) -> None:
        """Give what ran since the last hook to the innermost stage."""
        total = self.counter.get_total_flops() // 2
        stage = self.running[-1] if self.running else self.stages[REST]
        stage.executed += total - self.seen
        self.seen = total

    def begin(self, module: nn.Module, stage: StageComplexity) -> None:
        self.flush()
        self.running.append(stage)
        self.stating += _states(module)

    def end(self, name: str, module: nn.Module, args: tuple, kwargs: dict,
            out: Any) -> None:
        self.flush()
        stage = self.running.pop()
        self.stating -= _states(module)
        if self.stating:
            return
        if hasattr(module, 'nominal_macs'):
            macs = module.nominal_macs(args, out)
            unknown = set(macs) - set(PARTS)
            if unknown:
                raise ValueError(
                    f'nominal_macs of {name!r} ({type(module).__name__}) '
                    f'returned {sorted(unknown)}; expected keys among {PARTS}')
        else:
            macs = _layer_macs(module, args, kwargs, out)
        for part, value in macs.items():
            stage.nominal[part] += int(value)

    def product(self, macs: int) -> None:
        """A matrix product of whatever runs."""
        if not self.stating:
            stage = self.running[-1] if self.running else self.stages[REST]
            stage.nominal['attention'] += macs

    def result(self) -> list[StageComplexity]:
        return [
            s for s in self.stages.values()
            if s.params or s.executed or any(s.nominal.values())
        ]


def stage_names(model: nn.Module, prefix: str = '') -> list[str]:
    """Names of the top-level modules; backbone and lists are taken apart."""
    names = []
    for name, child in model.named_children():
        path = prefix + name
        if name == 'backbone':
            names += stage_names(child, f'{path}.')
        elif name in ('stages', 'layers') or isinstance(child, nn.ModuleList):
            names += [f'{path}.{n}' for n, _ in child.named_children()]
        else:
            names.append(path)
    return names


def _layer_macs(module: nn.Module, args: tuple, kwargs: dict,
                out: Any) -> dict[str, int]:
    """Work of one layer by its type; nothing for any other module."""
    macs = Counter()
    if isinstance(module, _ConvNd):
        if isinstance(module, _ConvTransposeNd):
            positions = args[0].numel() // module.in_channels
        else:
            positions = out.numel() // module.out_channels
        macs['linear'] = positions * module.weight.numel()
        if module.bias is not None:
            macs['elementwise'] = out.numel()
    elif isinstance(module, nn.Linear):
        macs['linear'] = out.numel() * module.in_features
    elif isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)):
        affine = getattr(module, 'affine', False) or getattr(
            module, 'elementwise_affine', False)
        macs['norm'] = out.numel() * (2 if affine else 1)
    elif isinstance(module, nn.MultiheadAttention):
        macs['attention'] = _multihead_attention_macs(module, args, kwargs)
    elif isinstance(module, _RELU_LIKE):
        macs['elementwise'] = out.numel()
    elif isinstance(module, _POOLING):
        macs['elementwise'] = args[0].numel()
    return macs


def _multihead_attention_macs(module: nn.MultiheadAttention, args: tuple,
                              kwargs: dict) -> int:
    """Its linear layers are never called, so they are counted here."""
    names = ('query', 'key', 'value')
    query, key, value = (
        kwargs[n] if n in kwargs else args[i] for i, n in enumerate(names))
    dims = module.embed_dim
    queries, keys = (t.numel() // t.shape[-1] for t in (query, key))
    batch = 1 if query.dim() == 2 else \
        query.shape[0 if module.batch_first else 1]
    projections = dims * (2 * queries * dims + keys *
                          (key.shape[-1] + value.shape[-1]))
    return projections + 2 * queries * (keys // batch) * dims


def _states(module: nn.Module) -> bool:
    """Whether a module is counted as a whole."""
    return (hasattr(module, 'nominal_macs')
            or isinstance(module, nn.MultiheadAttention))


@contextmanager
def _shapes_only(model: nn.Module,
                 wanted: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """No values are computed; yields what makes an input for this."""
    if not wanted or any('DeformConv' in type(m).__name__
                         for m in model.modules()):
        yield lambda images: images
        return
    two_stage = hasattr(model, 'rpn_head')
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, \
            blind_rois(model) if two_stage else nullcontext():
        yield mode.from_tensor


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module's own flag again."""
    training = [(m, m.training) for m in model.modules()]
    # some backbones return None here, so no chaining
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


class _Products(TorchFunctionMode):
    """Counts the matrix products that are written as functions.

    Any such mode also switches torch's fused transformer layers off, which
    run as one operator without a formula in eval mode.
    """

    def __init__(self, stages: _StageCounter) -> None:
        super().__init__()
        self.stages = stages

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        before = self.stages.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.stages.product(
                (self.stages.counter.get_total_flops() - before) // 2)
        return out


_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
             torch.einsum, torch.tensordot, torch.Tensor.matmul,
             torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.__matmul__,
             F.scaled_dot_product_attention)
