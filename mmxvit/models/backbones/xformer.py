# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""XFormer: Lightweight Vision Transformer with Cross Feature Attention.

Zhao et al., arXiv 2207.07268. No code was published. Table 1 leaves the
widths inside the blocks open; the defaults here reproduce the parameter and
FLOP figures of Tables 1, 3, 4 and 5, and each inferred choice is an option.
"""
import itertools
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions import CrossFeatureAttention
from ..attentions.linear import Linear
from ..layers import (
    FFN,
    ConvNormAct,
    DropPath,
    InvertedResidual,
    build_act,
)
from .base import PyramidBackbone


class XFormerLayer(nn.Module):
    """Transformer layer, Eq. 7 and 8: x + XFA(LN(x)), x + MLP(LN(x)).

    Args:
        embed_dims: Width of the tokens.
        mlp_ratio: Hidden width of the MLP / ``embed_dims``.
        drop_path: Stochastic depth of both branches.
        attn_cfg: Keywords of :class:`CrossFeatureAttention`.
    """

    def __init__(self, embed_dims: int, mlp_ratio: int, drop_path: float,
                 attn_cfg: dict) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = CrossFeatureAttention(embed_dims, **attn_cfg)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = FFN(
            Linear(embed_dims, embed_dims * mlp_ratio),
            build_act(dict(type='GELU')),
            Linear(embed_dims * mlp_ratio, embed_dims))
        self.drop_path = DropPath(drop_path)
        for linear in (self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, P, N, d) -> (B, P, N, d); ``size``: the token grid."""
        attended = self.attn(self.norm1(x).flatten(0, 1), size)
        x = x + self.drop_path(attended.view_as(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class XFormerBlock(nn.Module):
    """XF block: convolutions, transformer layers on 2x2 patches, fusion.

    As in MobileViT the map is unfolded into P = 4 groups, one for each place
    in a 2x2 patch, of N = HW / 4 tokens; attention runs within each group.
    Maps of odd size are resized to even ones and back.

    Args:
        channels: Channels C of the map.
        embed_dims: Width d of the tokens.
        num_layers: Transformer layers.
        mlp_ratio: See :class:`XFormerLayer`.
        drop_paths: Stochastic depth of each layer.
        fusion: ``'tokens'``: 3x3 convolution over the input beside the
            tokens, (C + d) -> C. ``'mobilevit'``: the tokens are projected
            to C first, 2C -> C. Inferred.
        norm_cfg: See :class:`ConvNormAct`.
        act_cfg: See :class:`ConvNormAct`.
        attn_cfg: See :class:`XFormerLayer`.
    """

    def __init__(self, channels: int, embed_dims: int, num_layers: int,
                 mlp_ratio: int, drop_paths: Sequence[float], fusion: str,
                 norm_cfg: dict, act_cfg: dict, attn_cfg: dict) -> None:
        super().__init__()
        conv = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.local = ConvNormAct(channels, channels, 3, **conv)
        self.embed = ConvNormAct(channels, embed_dims, **conv)
        self.layers = nn.ModuleList(
            XFormerLayer(embed_dims, mlp_ratio, drop_paths[i], attn_cfg)
            for i in range(num_layers))
        if fusion == 'tokens':
            self.project = nn.Identity()
            fused = channels + embed_dims
        elif fusion == 'mobilevit':
            self.project = ConvNormAct(embed_dims, channels, **conv)
            fused = 2 * channels
        else:
            raise ValueError(
                f"fusion must be 'tokens' or 'mobilevit', got {fusion!r}")
        self.fuse = ConvNormAct(fused, channels, 3, **conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        y = self.embed(self.local(x))
        batch, dims, height, width = y.shape
        rows, cols = (height + 1) // 2, (width + 1) // 2
        # A traced graph keeps this step for sizes it has not seen; it changes
        # nothing where the size is even.
        resize = height % 2 or width % 2 or torch.jit.is_tracing()
        if resize:
            y = F.interpolate(
                y, (2 * rows, 2 * cols), mode='bilinear', align_corners=False)
        y = y.reshape(batch, dims, rows, 2, cols, 2).permute(
            0, 3, 5, 2, 4, 1).reshape(batch, 4, rows * cols, dims)
        for layer in self.layers:
            y = layer(y, (rows, cols))
        y = y.reshape(batch, 2, 2, rows, cols, dims).permute(
            0, 3, 1, 4, 2, 5).reshape(batch, 2 * rows, 2 * cols, dims)
        y = y.permute(0, 3, 1, 2)
        if resize:
            y = F.interpolate(
                y, (height, width), mode='bilinear', align_corners=False)
        return self.fuse(torch.cat((x, self.project(y)), 1))


@MODELS.register_module()
class XFormer(PyramidBackbone):
    """XFormer backbone, Table 1 of arXiv 2207.07268.

    Maps: the outputs of the paper's stages 2 to 5. The 1x1 convolution to 640
    channels behind stage 5 belongs to the classifier
    (:class:`mmxvit.models.necks.ConvPool`).

    Args:
        heads: Attention heads. Inferred (Table 2's memory column).
        norm_dim: What the L2 norm of Eq. 2 runs over, ``'feature'`` or
            ``'token'``. Inferred.
        se_squeeze: Width inside SE, as (``'in'`` or ``'hidden'``, divisor):
            the block's input or hidden channels / divisor. Inferred.
        fusion: ``'tokens'`` or ``'mobilevit'``, see :class:`XFormerBlock`.
            Inferred.

    The other arguments are those of :class:`PyramidBackbone`.
    """

    # Per map: MobileNetV3 blocks as (channels, stride), then the XF block as
    # (embed_dims, layers, mlp_ratio). Stages 1 and 2 of the paper feed map 0.
    arch_settings = {
        'xformer':
        dict(
            stem_channels=16,
            mv3=(((32, 1), (64, 2), (64, 1), (64, 1)), ((96, 2), ),
                 ((128, 2), ), ((160, 2), )),
            xf=(None, (144, 2, 2), (192, 3, 2), (240, 4, 3)),
            expand_ratio=4,
            qkv_dims=96),
    }

    def __init__(self,
                 arch: str | dict = 'xformer',
                 in_channels: int = 3,
                 out_indices: Sequence[int] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 heads: int = 8,
                 norm_dim: str = 'feature',
                 se_squeeze: tuple[str, int] = ('in', 16),
                 fusion: str = 'tokens',
                 pretrained: str | None = None) -> None:
        super().__init__(arch, in_channels, out_indices, frozen_stages,
                         norm_eval, with_cp, drop_path_rate, norm_cfg, act_cfg,
                         init_cfg, pretrained)
        settings = self.arch
        conv = dict(
            norm_cfg=self.norm_cfg, act_cfg=self.act_cfg or dict(type='SiLU'))
        ratio = settings['expand_ratio']
        source, divisor = se_squeeze
        if source not in ('in', 'hidden'):
            raise ValueError("se_squeeze must be ('in', n) or ('hidden', n), "
                             f'got {se_squeeze}')

        self.stem = ConvNormAct(
            in_channels, settings['stem_channels'], 3, 2, **conv)
        num_layers = sum(xf[1] for xf in settings['xf'] if xf)
        drop_paths = torch.linspace(0, drop_path_rate, num_layers).tolist()
        channels = settings['stem_channels']
        self.stages = nn.ModuleList()
        stride = 2
        for mv3, xf in itertools.islice(
                zip(settings['mv3'], settings['xf'], strict=True),
                self.num_stages):
            blocks = []
            for out_channels, block_stride in mv3:
                width = channels * (ratio if source == 'hidden' else 1)
                blocks.append(
                    InvertedResidual(channels, out_channels, block_stride,
                                     ratio, max(1, width // divisor), **conv))
                channels = out_channels
                stride *= block_stride
            if xf:
                embed_dims, depth, mlp_ratio = xf
                blocks.append(
                    XFormerBlock(
                        channels,
                        embed_dims,
                        depth,
                        mlp_ratio,
                        drop_paths[:depth],
                        fusion,
                        attn_cfg=dict(
                            qkv_dims=settings['qkv_dims'],
                            num_heads=heads,
                            norm_dim=norm_dim,
                            # the token grid of a 256 x 256 image
                            base_size=(128 // stride, 128 // stride)),
                        **conv))
                drop_paths = drop_paths[depth:]
            self.stages.append(nn.Sequential(*blocks))
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps in ``out_indices``."""
        return tuple(self.arch['mv3'][i][-1][0] for i in self.out_indices)
