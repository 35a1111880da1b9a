# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""LOLViT: a light hybrid backbone with fast window attention.

Li et al., *Lightweight Backbone Networks Only Require Adaptive Lightweight
Self-Attention Mechanisms*. No code was published. The structure here gives
every row of the paper's Tables 16 and 17; each choice that they leave open
and that has a real alternative is an option.
"""
import itertools
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.fast_window import FastWindowAttention, ScalarLayerNorm
from ..layers import ConvNormAct, DropPath, GhostBlock, join
from .base import PyramidBackbone


class FeatureFusion(nn.Module):
    """Bottleneck with large parallel kernels (appendix A, Figure 7).

    1x1 to twice the output's width, depthwise k x k, then depthwise 5x5 on
    one half of the channels beside 7x7 on the other, 1x1 back. A norm after
    each; an activation after all but the last and no shortcut inside, both
    inferred.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: k.
        norm_cfg: See :class:`ConvNormAct`.
        act_cfg: See :class:`ConvNormAct`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int,
                 norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        hidden = 2 * out_channels
        conv = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.expand = ConvNormAct(in_channels, hidden, **conv)
        self.depthwise = ConvNormAct(
            hidden, hidden, kernel_size, groups=hidden, **conv)
        self.parallel = nn.ModuleList(
            ConvNormAct(
                out_channels, out_channels, large, groups=out_channels, **conv)
            for large in (5, 7))
        self.project = ConvNormAct(hidden, out_channels, norm_cfg=norm_cfg)

    @property
    def takes_parts(self) -> bool:
        """Whether the input may be in parts, see :func:`join`."""
        return getattr(self.expand, 'takes_parts', False)

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """(B, C_in, H, W), or its parts -> (B, C_out, H, W)"""
        halves = self.depthwise(self.expand(x)).chunk(2, 1)
        halves = tuple(
            [conv(halves[n]) for n, conv in enumerate(self.parallel)])
        return self.project(join(halves, self.project))


class LOLViTLayer(nn.Module):
    """Transformer layer: x + FWA(norm(x)), x + FeatureFusion(norm(x)).

    Args:
        embed_dims: Width d of the tokens.
        drop_path: Stochastic depth of both branches.
        norm_cfg: See :class:`ConvNormAct`.
        act_cfg: See :class:`ConvNormAct`.
        attn_cfg: Keywords of :class:`FastWindowAttention`.
    """

    def __init__(self, embed_dims: int, drop_path: float, norm_cfg: dict,
                 act_cfg: dict, attn_cfg: dict) -> None:
        super().__init__()
        self.norm1 = ScalarLayerNorm(embed_dims)
        self.attn = FastWindowAttention(embed_dims, **attn_cfg)
        self.norm2 = ScalarLayerNorm(embed_dims)
        self.ffn = FeatureFusion(embed_dims, embed_dims, 3, norm_cfg, act_cfg)
        self.drop_path = DropPath(drop_path)

    def forward(self,
                x: Tensor,
                merged: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, d, H, W) -> the same, and the merged tokens.

        ``merged``: see :class:`FastWindowAttention`.
        """
        attended, merged = self.attn(
            self.norm1(x.permute(0, 2, 3, 1)), merged)
        x = x + self.drop_path(attended.permute(0, 3, 1, 2))
        y = self.norm2(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.drop_path(self.ffn(y)), merged


class LOLViTBlock(nn.Module):
    """LOLViT block: convolutions, transformer layers, fusion (Figure 2).

    Args:
        channels: Channels C of the map.
        embed_dims: Width d of the tokens.
        kernel_size: k of the last FeatureFusion.
        drop_paths: Stochastic depth of each transformer layer.
        cache: Whether all layers use the merged tokens of the first.
        fusion: ``'feature_fusion'``: :class:`FeatureFusion` over the input
            beside the tokens, (C + d) -> C. ``'mobilevit'``: MobileViT's,
            the other row of Table 11: the tokens are projected to C, then a
            3x3 convolution 2C -> C.
        shortcut: Whether the input is added to the fused map. Inferred.
        norm_cfg: See :class:`ConvNormAct`.
        act_cfg: See :class:`ConvNormAct`.
        attn_cfg: See :class:`LOLViTLayer`.
    """

    def __init__(self, channels: int, embed_dims: int, kernel_size: int,
                 drop_paths: Sequence[float], cache: bool, fusion: str,
                 shortcut: bool, norm_cfg: dict, act_cfg: dict,
                 attn_cfg: dict) -> None:
        super().__init__()
        conv = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.cache = cache
        self.shortcut = shortcut
        self.local = ConvNormAct(channels, channels, 3, **conv)
        self.embed = nn.Conv2d(channels, embed_dims, 1, bias=False)
        self.layers = nn.ModuleList(
            LOLViTLayer(embed_dims, drop_path, attn_cfg=attn_cfg, **conv)
            for drop_path in drop_paths)
        if fusion == 'feature_fusion':
            self.project = nn.Identity()
            self.fuse = FeatureFusion(channels + embed_dims, channels,
                                      kernel_size, **conv)
        elif fusion == 'mobilevit':
            self.project = ConvNormAct(embed_dims, channels, **conv)
            self.fuse = ConvNormAct(2 * channels, channels, 3, **conv)
        else:
            raise ValueError("fusion must be 'feature_fusion' or 'mobilevit', "
                             f'got {fusion!r}')

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        y = self.embed(self.local(x))
        merged = None
        for layer in self.layers:
            y, merged = layer(y, merged if self.cache else None)
        out = self.fuse(join((x, self.project(y)), self.fuse))
        return x + out if self.shortcut else out


@MODELS.register_module()
class LOLViT(PyramidBackbone):
    """LOLViT backbone, Tables 16 and 17 of the paper.

    Maps: the outputs of the third Ghost block and of the three LOLViT blocks.
    The 1x1 convolution to 1280 channels belongs to the classifier
    (:class:`mmxvit.models.necks.ConvPool`).

    Args:
        num_layers: L, transformer layers of the three LOLViT blocks.
        fold: Neighbouring patches that are merged into one key, for each
            block.
        patch: Columns and rows of a patch, for each block.
        cache: Whether the later layers of a block use the merged tokens of
            its first; of no effect where the block has one layer.
        projection: ``'head'`` or ``'channel'``, see
            :class:`FastWindowAttention`. Inferred.
        fusion: ``'feature_fusion'`` or ``'mobilevit'``, see
            :class:`LOLViTBlock`.
        shortcut: Whether a LOLViT block adds its input to its output.
            Inferred.

    The other arguments are those of :class:`PyramidBackbone`.
    """

    # Per map: Ghost blocks as (channels, stride, SE), then the LOLViT block
    # as (embed_dims, kernel size of its fusion).
    arch_settings = {
        's':
        dict(
            stem_channels=16,
            ghost=(((32, 1, False), (48, 2, False), (48, 1, False)),
                   ((64, 2, True), ), ((96, 2, True), ), ((128, 2, True), )),
            lol=(None, (128, 3), (160, 3), (192, 5)),
            num_heads=4),
        'x':
        dict(
            stem_channels=32,
            ghost=(((32, 1, False), (64, 2, False), (64, 1, False)),
                   ((96, 2, True), ), ((128, 2, True), ), ((192, 2, True), )),
            lol=(None, (144, 3), (192, 3), (240, 5)),
            num_heads=4),
    }

    def __init__(self,
                 arch: str | dict = 'x',
                 in_channels: int = 3,
                 out_indices: Sequence[int] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 num_layers: Sequence[int] = (1, 1, 1),
                 fold: Sequence[int] = (1, 2, 4),
                 patch: Sequence[int] = (1, 1, 1),
                 cache: bool = True,
                 projection: str = 'head',
                 fusion: str = 'feature_fusion',
                 shortcut: bool = True,
                 pretrained: str | None = None) -> None:
        super().__init__(arch, in_channels, out_indices, frozen_stages,
                         norm_eval, with_cp, drop_path_rate, norm_cfg, act_cfg,
                         init_cfg, pretrained)
        settings = self.arch
        num_blocks = sum(lol is not None for lol in settings['lol'])
        for name, values in (('num_layers', num_layers), ('fold', fold),
                             ('patch', patch)):
            if len(values) != num_blocks or min(values) < 1:
                raise ValueError(f'{name}={values} must be {num_blocks} '
                                 'numbers from 1 up, one for each LOLViT '
                                 'block')
        conv = dict(
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg or dict(type='ReLU', inplace=True))

        self.stem = ConvNormAct(
            in_channels, settings['stem_channels'], 3, 2, **conv)
        drop_paths = iter(
            torch.linspace(0, drop_path_rate, sum(num_layers)).tolist())
        options = iter(zip(num_layers, fold, patch, strict=True))
        channels = settings['stem_channels']
        self.stages = nn.ModuleList()
        for ghost, lol in itertools.islice(
                zip(settings['ghost'], settings['lol'], strict=True),
                self.num_stages):
            blocks = []
            for out_channels, stride, with_se in ghost:
                blocks.append(
                    GhostBlock(channels, out_channels, stride, with_se,
                               **conv))
                channels = out_channels
            if lol:
                embed_dims, kernel_size = lol
                depth, block_fold, block_patch = next(options)
                blocks.append(
                    LOLViTBlock(
                        channels,
                        embed_dims,
                        kernel_size,
                        list(itertools.islice(drop_paths, depth)),
                        cache,
                        fusion,
                        shortcut,
                        attn_cfg=dict(
                            num_heads=settings['num_heads'],
                            patch=block_patch,
                            fold=block_fold,
                            projection=projection),
                        **conv))
            self.stages.append(nn.Sequential(*blocks))
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps in ``out_indices``."""
        return tuple(self.arch['ghost'][i][-1][0] for i in self.out_indices)
