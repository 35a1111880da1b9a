# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What all backbone families have in common."""
import contextlib
import copy
import warnings
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmxvit.utils.checkpoint import (
    CheckpointError,
    first_lines,
    load_checkpoint_file,
    load_weights,
)

from .feature_info import FeatureInfo

# Schemes of files. What else stock configs write into `pretrained` or init_cfg
# (open-mmlab://, torchvision://, timm://, ...) names weights of their own
# backbones, which never fit one of ours.
FILE_SCHEMES = ('http', 'https', 'file')


class _StatisticsKept:
    """Context in which BatchNorms keep their running statistics.

    A class, as it is entered once for each backward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.norms = [(m, m.momentum) for m in self.module.modules()
                      if isinstance(m, _BatchNorm) and m.training
                      and m.track_running_stats]
        for norm, _ in self.norms:
            norm.momentum = 0.

    def __exit__(self, *error: object) -> None:
        for norm, momentum in self.norms:
            norm.momentum = momentum
            norm.num_batches_tracked.sub_(1)


class _BoundGradient(torch.autograd.Function):
    """Identity whose gradient is kept within +-1e12.

    That is far above any usual one, also where a loss scale multiplies it.

    Where a whole batch is zero (nothing but padding), maps are constant, and
    each norm, its variance being zero, multiplies gradients by 1 / sqrt(eps)
    = 316. Through a deep network they become infinite, then NaN. Bounded
    between blocks they stay finite. Such a gradient is still useless, and
    only clipping keeps the step that follows it small.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple, output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        if grad.dtype == torch.float16:  # infinite: the loss scaler's sign
            return grad
        return grad.clamp(-1e12, 1e12)


def _to_contiguous(x: Tensor) -> Tensor:
    """A channels-last map, or a vector, in the usual layout.

    Row by row: ``contiguous()`` reads the whole map once for each channel, up
    to eight times as slow where the map does not fit the caches.
    """
    if x.dim() == 4:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.contiguous()


def _stage_counts(arch: dict) -> set[int]:
    """Lengths of the tuples of an arch."""
    return {len(v) for v in arch.values() if isinstance(v, (tuple, list))}


class PyramidBackbone(BaseModule):
    """Base of the backbones: one interface for every family.

    A family sets ``arch_settings``, calls ``super().__init__`` and then fills
    ``self.stem`` and ``self.stages``: ``stages[i]`` is a ``nn.Sequential`` of
    blocks that turns map i - 1 (the stem's output for i = 0) into map i.
    Only ``self.num_stages`` of them are needed.  It ends its constructor with
    :meth:`_freeze`.

    Args:
        arch: A name in ``arch_settings`` or a dict with the same keys as its
            entries.
        in_channels: Channels of the image.
        out_indices: Maps to return; 0, 1, 2, 3 are strides 4, 8, 16, 32.
            None: every map the arch has. Stages after the last one are not
            built.
        frozen_stages: -1: nothing is frozen. 0: the stem. k: also all that
            feeds map k - 1. Frozen parts stay in eval mode and get no
            gradient.
        norm_eval: Keep BatchNorms in eval mode while training.
        with_cp: Recompute blocks in the backward pass to save memory.
        drop_path_rate: Stochastic depth of the last block; rises linearly
            from 0 at the first.
        norm_cfg: Replaces BatchNorm layers (never LayerNorms).
        act_cfg: Replaces the paper's activation of convolutions.
        init_cfg: As in MMEngine; a ``Pretrained`` checkpoint must hold every
            parameter of the backbone (a classifier's may lack the modules in
            ``dense_only``).
        pretrained: mmseg's segmentors pass this on. A path or URL of one of
            our checkpoints; weights of another backbone that a stock config
            names are ignored with a warning.

    Attributes:
        out_indices (tuple[int]): Maps returned.
        out_channels (tuple[int]): Their channels.
        out_strides (tuple[int]): Their strides.
        num_stages (int): Stages built.

    Raises:
        ValueError: An argument is out of its range; the message names the
            values allowed.
    """

    arch_settings: dict[str, dict] = {}
    strides: tuple[int, ...] = (4, 8, 16, 32)
    min_size = 32
    # Modules for dense tasks that no classifier has; a checkpoint may lack
    # them as a whole.
    dense_only: tuple[str, ...] = ()
    # Names of vectors that weight decay is for, see
    # mmxvit.LayerDecayOptimWrapperConstructor.
    decayed_vectors: tuple[str, ...] = ()

    def __init__(self,
                 arch: str | dict,
                 in_channels: int = 3,
                 out_indices: Sequence[int] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 pretrained: str | None = None) -> None:
        super().__init__(self._resolve_pretrained(pretrained, init_cfg))
        self.arch = self._resolve_arch(arch)
        self.in_channels = in_channels
        self.out_indices = self._resolve_out_indices(out_indices)
        self.num_stages = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(
                f'frozen_stages={frozen_stages} must be between -1 and '
                f'{self.num_stages}, the stages that out_indices='
                f'{self.out_indices} needs')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        if not 0 <= drop_path_rate < 1:
            raise ValueError(
                f'drop_path_rate={drop_path_rate} must be in [0, 1)')
        self.drop_path_rate = drop_path_rate
        self.norm_cfg = norm_cfg or dict(type='BN')
        self.act_cfg = act_cfg
        self.out_strides = tuple(self.strides[i] for i in self.out_indices)

    @property
    @abstractmethod
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps in ``out_indices``."""

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, strides and modules of the maps, as timm's models tell."""
        return FeatureInfo([
            dict(
                num_chs=channels,
                reduction=stride,
                module=self.map_module(index),
                index=index)
            for index, channels, stride in zip(
                self.out_indices, self.out_channels, self.out_strides,
                strict=True)
        ])

    def map_module(self, index: int) -> str:
        """Name of the last module behind which map ``index`` is taken."""
        return f'stages.{index}'

    def _resolve_arch(self, arch: str | dict) -> dict:
        keys = next(iter(self.arch_settings.values())).keys()
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(
                    f'{type(self).__name__} has no arch {arch!r}; choose from '
                    f'{", ".join(map(repr, self.arch_settings))} or give a '
                    f'dict with the keys {", ".join(keys)}')
            return copy.deepcopy(self.arch_settings[arch])
        if not isinstance(arch, dict) or set(arch) != set(keys):
            got = sorted(arch) if isinstance(arch, dict) else arch
            raise ValueError(f'{type(self).__name__}: arch must be a name or '
                             f'a dict with the keys {", ".join(keys)}, got '
                             f'{got}')
        lengths = _stage_counts(arch)
        allowed = set().union(*map(_stage_counts, self.arch_settings.values()))
        if len(lengths) != 1 or not lengths <= allowed:
            raise ValueError(
                f'{type(self).__name__}: the tuples of arch have '
                f'{sorted(lengths)} entries; each must have one for every '
                f'stage ({" or ".join(map(str, sorted(allowed)))})')
        return copy.deepcopy(dict(arch))

    def _resolve_out_indices(
            self, out_indices: Sequence[int] | None) -> tuple[int, ...]:
        maps = tuple(range(len(self.strides)))
        if out_indices is None:
            return maps
        indices = (out_indices, ) if isinstance(out_indices, int) else tuple(
            out_indices)
        if (not indices or list(indices) != sorted(set(indices))
                or not set(indices) <= set(maps)):
            raise ValueError(
                f'out_indices={out_indices} must be increasing, without '
                f'repeats, from {maps} (strides {self.strides})')
        return indices

    def _resolve_pretrained(
            self, pretrained: str | None,
            init_cfg: dict | list[dict] | None) -> dict | list[dict] | None:
        def is_own(key: str, path: object) -> bool:
            if not isinstance(path, str) or not path:
                raise ValueError(f'{key}={path!r} must be the path or URL of '
                                 'a checkpoint, or the key be left out')
            scheme, found, _ = path.partition('://')
            if not found or scheme in FILE_SCHEMES:
                return True
            warnings.warn(
                f'{key}={path!r} names the weights of another backbone; '
                f'{type(self).__name__} ignores it and keeps its own '
                'initialisation',
                stacklevel=5)
            return False

        configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
        configs = [
            cfg for cfg in configs if cfg and
            (cfg.get('type') != 'Pretrained'
             or is_own('init_cfg.checkpoint', cfg.get('checkpoint')))
        ]
        if len(configs) > 1 and any(
                cfg.get('type') == 'Pretrained' for cfg in configs):
            raise ValueError('init_cfg: give Pretrained alone; its checkpoint '
                             'holds every parameter')
        if pretrained is not None and is_own('pretrained', pretrained):
            if configs:
                raise ValueError('give init_cfg or pretrained, not both')
            return dict(
                type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        return configs[0] if len(configs) == 1 else configs or None

    def init_weights(self) -> None:
        """Load the ``Pretrained`` checkpoint of ``init_cfg``, strictly.

        Without one the weights stay as the constructor made them.

        Raises:
            CheckpointError: The checkpoint cannot be read, or misses
                parameters of this backbone or holds them in other shapes
                (listed).
        """
        cfg = self.init_cfg
        if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
            super().init_weights()
            return
        path, prefix = cfg['checkpoint'], cfg.get('prefix') or ''
        if prefix and not prefix.endswith('.'):
            prefix += '.'
        checkpoint = load_checkpoint_file(path)
        state = checkpoint.get('state_dict', checkpoint)
        own = OrderedDict((key[len(prefix):], value)
                          for key, value in state.items()
                          if key.startswith(prefix))
        # versions of the modules, which load hooks ask for
        own._metadata = OrderedDict(
            (f'{name}.'[len(prefix):][:-1], value)
            for name, value in getattr(state, '_metadata', {}).items()
            if f'{name}.'.startswith(prefix))
        new = [name for name in self.dense_only
               if not any(key.startswith(f'{name}.') for key in own)]
        missing, unexpected, differs = load_weights(self, own)
        differs += [f'missing {key}' for key in missing
                    if key.partition('.')[0] not in new]
        if differs:
            raise CheckpointError(
                f'{path}: not a checkpoint of this {type(self).__name__} '
                f'(keys looked for under the prefix {prefix!r}):'
                f'{first_lines(differs)}\n'
                'name a checkpoint of this backbone, or None')
        self._is_init = True
        print_log(
            f'{type(self).__name__}: loaded {len(own) - len(unexpected)} '
            f'entries from {path}' +
            (f'; not needed here: {", ".join(unexpected[:10])}' +
             (' ...' if len(unexpected) > 10 else '')
             if unexpected else '') +
            (f'; it has none of {", ".join(missing)}: trained from scratch'
             if missing else ''),
            logger='current')

    def run_block(self, block: nn.Module, x: Tensor,
                  *inputs: Tensor) -> Tensor:
        """``block(x, *inputs)``, recomputed in backward if ``with_cp``."""
        if self.training and x.requires_grad:
            x = _BoundGradient.apply(x)
        if not (self.with_cp and self.training):
            return block(x, *inputs)
        # The second forward must not update BatchNorm statistics again.
        return checkpoint(
            block,
            x,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(),
                                _StatisticsKept(block)))

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError for a wrong channel count or too small a size."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} expects images of shape (B, '
                f'{self.in_channels}, H, W), got {tuple(x.shape)}')
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f'{type(self).__name__}: the smallest input is '
                f'{self.min_size} x {self.min_size}, got '
                f'{x.shape[2]} x {x.shape[3]}')

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of an image batch.

        Args:
            x: (B, in_channels, H, W); H and W from ``min_size`` up, of any
                remainder. In train mode BatchNorm needs more than one value
                per channel in every map.

        Returns:
            Maps (B, C_i, ceil(H / s_i), ceil(W / s_i)) in ``out_indices``
            order.
        """
        self.check_input(x)
        # On CPUs convolutions run twice as fast on channels-last maps and
        # tokens are a view of them. Whoever feeds the usual layout gets it
        # back, since code behind a backbone may call view().
        relayout = x.device.type == 'cpu' and not x.is_contiguous(
            memory_format=torch.channels_last)
        if not relayout:
            return tuple(self.forward_maps(x))
        # as a temporary, which is freed behind the stem
        outs = self.forward_maps(
            x.contiguous(memory_format=torch.channels_last))
        return tuple(map(_to_contiguous, outs))

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Map ``index`` from map ``index - 1``, or from the stem's."""
        for block in self.stages[index]:
            x = self.run_block(block, x)
        return x

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """:meth:`forward` without its checks."""
        x = self.stem(x)
        outs = []
        for i in range(self.num_stages):
            x = self.run_stage(i, x)
            if i in self.out_indices:
                outs.append(x)
        return outs

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[:self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'PyramidBackbone':
        """Frozen stages, and with ``norm_eval`` BatchNorms, stay in eval."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter, for layer-wise learning rate decay.

        0 is the stem, then one layer for each block; what follows the stages
        is the last layer.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: What precedes the backbone's own name, e.g.
                ``'backbone.'``.

        Returns:
            (layer, number of layers); a parameter outside the backbone is in
            the last layer.
        """
        depths = [len(stage) for stage in self.stages]
        num_layers = sum(depths) + 2
        place = self._place(param_name, prefix)
        if place is None:
            return num_layers - 1, num_layers
        stage, block = place
        return 1 + sum(depths[:stage]) + block if stage >= 0 else 0, num_layers

    def get_stage_depth(self,
                        param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter, for stage-wise learning rate decay.

        0 is the stem, then one layer for each stage; what follows the stages
        is the last layer.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: As in :meth:`get_layer_depth`.

        Returns:
            (layer, number of layers).
        """
        num_layers = len(self.stages) + 2
        place = self._place(param_name, prefix)
        return num_layers - 1 if place is None else place[0] + 1, num_layers

    def _place(self, param_name: str, prefix: str) -> tuple[int, int] | None:
        """Stage and block of a parameter; the stem is (-1, 0).

        None: behind the stages, or outside the backbone.
        """
        if not param_name.startswith(prefix):
            return None
        parts = param_name[len(prefix):].split('.')
        if parts[0] == 'stem':
            return -1, 0
        return (int(parts[1]), int(parts[2])) if parts[0] == 'stages' else None
