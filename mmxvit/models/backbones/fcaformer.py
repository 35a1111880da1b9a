# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""FcaFormer and CabViT: attention to tokens of earlier blocks.

Zhang et al., FcaFormer: Forward Cross Attention in Hybrid Vision Transformer,
arXiv 2211.07198; Zhang et al., CabViT: Cross Attention among Blocks for Vision
Transformer. Both papers print the same networks; what only the published
models or only one of the papers have is said where it stands.
"""
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmxvit.registry import MODELS

from ..attentions.forward_cross import (
    ForwardCrossAttention,
    TokenMergeEnhance,
)
from ..attentions.linear import Linear
from ..attentions.utils import widen
from ..layers import FFN, ConvNormAct, DropPath, build_act, layer_act
from .base import PyramidBackbone


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, two linear layers, layer scale.

    The block of stages 1 and 2, from ConvNeXt (arXiv 2201.03545, Fig. 4).

    Args:
        channels: Channels C.
        mlp_ratio: Hidden width / C.
        drop_path: Stochastic depth.
        layer_scale: Initial value of the factors of the residual branch.
        act_cfg: Activation between the linear layers.
    """

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float,
                 layer_scale: float, act_cfg: dict) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = Linear(channels, mlp_ratio * channels)
        self.act = build_act(act_cfg)
        self.fc2 = Linear(mlp_ratio * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, ), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.drop_path(self.fc2(layer_act(self.fc1, self.act, y)))
        x = torch.addcmul(x.permute(0, 2, 3, 1), self.gamma, y)
        return x.permute(0, 3, 1, 2)


class FcaBlock(nn.Module):
    """Cross attention, token merge and enhancement, FFN; Fig. 1 and 2.

    Args:
        embed_dims: Width d of the tokens.
        num_heads: Attention heads.
        size: Token grid of the position table.
        index: Blocks before this one in its stage.
        is_last: Nobody needs cross tokens of a stage's last block.
        mlp_ratio: Hidden width of the FFN / d.
        drop_path: Stochastic depth.
        layer_scale: Initial value of the factors of the residual branches.
        cross_scale: See :class:`ForwardCrossAttention`.
        norm_cfg: Norm of the enhance branch.
        act_cfg: Activation of the FFN.
    """

    def __init__(self, embed_dims: int, num_heads: int, size: tuple[int, int],
                 index: int, is_last: bool, mlp_ratio: int, drop_path: float,
                 layer_scale: float, cross_scale: str, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        self.size = size
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = ForwardCrossAttention(
            embed_dims,
            num_heads,
            size,
            cross_size=cross_grid(size),
            num_groups=index,
            cross_scale=cross_scale)
        self.gamma1 = nn.Parameter(torch.full((embed_dims, ), layer_scale))
        self.tme = TokenMergeEnhance(
            embed_dims,
            ConvNormAct(
                embed_dims,
                embed_dims,
                3,
                groups=embed_dims,
                norm_cfg=norm_cfg),
            merge=not is_last)
        # two norms in a row, as in the published models
        self.norm2 = nn.LayerNorm(embed_dims)
        self.ffn = FFN(
            nn.LayerNorm(embed_dims),
            Linear(embed_dims, mlp_ratio * embed_dims),
            build_act(act_cfg),
            Linear(mlp_ratio * embed_dims, embed_dims))
        self.gamma2 = nn.Parameter(torch.full((embed_dims, ), layer_scale))
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, size: tuple[int, int], cross: Tensor | None
               ) -> tuple[Tensor, Tensor | None]:
        """All of the block but its FFN.

        Args:
            x: (G, n, d), row-major tokens of the grid, behind class tokens if
                there are any. Those pass the convolutions by (inferred).
            size: The grid (rows, columns).
            cross: (G, m, d) of the blocks before, or None.

        Returns:
            (G, n, d) and this block's cross tokens or None.
        """
        y = self.attn(self.norm1(x), size, cross, cross_grid(size))
        x = torch.addcmul(x, self.gamma1, self.drop_path(y))
        num_class = x.shape[1] - size[0] * size[1]
        grid = x[:, num_class:].unflatten(1, size).permute(0, 3, 1, 2)
        grid, cross = self.tme(grid)
        tokens = grid.permute(0, 2, 3, 1).flatten(1, 2)
        if num_class:
            tokens = torch.cat((x[:, :num_class], tokens), 1)
        return tokens, cross

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        y = self.drop_path(self.ffn(self.norm2(x)))
        return torch.addcmul(x, self.gamma2, y)

    def forward(self, x: Tensor, size: tuple[int, int],
                cross: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """:meth:`attend`, then the FFN."""
        x, cross = self.attend(x, size, cross)
        return self.feed_forward(x), cross


class WindowFcaBlock(FcaBlock):
    """:class:`FcaBlock` on the windows of a map.

    Maps that are no multiple of the window are padded with zeros, on the left
    and top by the even blocks of a stage, on the right and bottom by the odd
    ones. Cross tokens stay with the index of their window. Source: the
    published detection backbone; at 224 x 224 there is just one window.
    """

    def __init__(self, *args: object, index: int, **kwargs: object) -> None:
        super().__init__(*args, index=index, **kwargs)
        self.pad_before = index % 2 == 0

    def padding(self, length: int, window: int) -> tuple[int, int]:
        """Rows or columns to add before and after."""
        missing = -length % window
        return (missing, 0) if self.pad_before else (0, missing)

    def forward(self, x: Tensor, cross: Tensor | None
                ) -> tuple[Tensor, Tensor | None]:
        """(B, d, H, W) and (B * windows, m, d) -> the same, cross or None."""
        batch, dims, height, width = x.shape
        rows, cols = self.size
        top, bottom = self.padding(height, rows)
        left, right = self.padding(width, cols)
        x = x.permute(0, 2, 3, 1)
        # a traced graph keeps this step for sizes it has not seen
        if top or bottom or left or right or torch.jit.is_tracing():
            x = F.pad(x, (0, 0, left, right, top, bottom))
        high, wide = x.shape[1] // rows, x.shape[2] // cols
        x = x.view(batch, high, rows, wide, cols, dims).transpose(
            2, 3).reshape(-1, rows * cols, dims)
        x, cross = self.attend(x, self.size, cross)
        x = x.view(batch, high, wide, rows, cols, dims).transpose(
            2, 3).reshape(batch, high * rows, wide * cols, dims)
        x = x[:, top:top + height, left:left + width]
        # The FFN acts on each token by itself: padding needs none.
        return self.feed_forward(x).permute(0, 3, 1, 2), cross

    def nominal_macs(self, inputs: tuple, output: tuple) -> dict[str, int]:
        """What the published code computes for the block.

        All of it on padded windows, FFN included, and queries for the cross
        tokens, which nobody uses.
        """
        batch, dims, height, width = inputs[0].shape
        rows, cols = self.size
        windows = batch * -(-height // rows) * -(-width // cols)
        tokens = windows * rows * cols
        cross = 0 if inputs[1] is None else inputs[1].shape[1]
        merged = 0 if output[1] is None else output[1].shape[1]
        hidden = self.ffn[1].out_features
        return dict(
            linear=dims * (tokens * (4 * dims + 9 + 2 * hidden) + windows *
                           (3 * dims * cross + 49 * merged)),
            attention=2 * dims * tokens * (rows * cols + cross),
            norm=2 * dims * (4 * tokens + windows * cross))


def cross_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Grid of the cross tokens of a token grid: stride 4."""
    return (size[0] + 3) // 4, (size[1] + 3) // 4


class PatchTokens(nn.Module):
    """Stem of the plain models: 16x16 patches, class token, positions.

    As in DeiT (arXiv 2012.12877). Images are padded with zeros to whole
    patches and positions resized bilinearly to the grid (inferred).

    Args:
        in_channels: Channels of the image.
        embed_dims: Width d.
        size: Grid of the position table.
    """

    def __init__(self, in_channels: int, embed_dims: int,
                 size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(in_channels, embed_dims, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(
            torch.zeros(1, 1 + size[0] * size[1], embed_dims))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) -> tokens (B, 1 + n, d), class token first; grid."""
        x = self.conv(F.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16)))
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        cls_pos, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if grid != self.size or torch.jit.is_tracing():
            positions = F.interpolate(
                widen(positions).transpose(1, 2).unflatten(2, self.size),
                size=grid,
                mode='bilinear',
                align_corners=False).flatten(2).transpose(1, 2)
        cls_token = (self.cls_token + cls_pos).expand(x.shape[0], -1, -1)
        return torch.cat((cls_token.to(x.dtype), x + positions.to(x.dtype)),
                         1), grid


class OutputProjection(nn.Module):
    """1x1 convolution without bias, LayerNorm over the channels.

    In front of necks and heads of the authors' detectors; not in the paper.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)"""
        return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class FcaFormer(PyramidBackbone):
    """FcaFormer backbone, section 3.2 of arXiv 2211.07198.

    Hybrid models ('l1' to 'l4'): two stages of ConvNeXt blocks, two of Fca
    blocks on windows of 14 and 7. Plain model ('l0'): DeiT-T with Fca blocks
    throughout, one map at stride 16, made of the patch tokens behind the last
    block; its structure and that of 'l3' and 'l4' is inferred from counts and
    published weights.

    Args:
        arch: None: 'l1' (CabViT: 'h-l1').
        mlp_ratio: Hidden width of the FFNs / their width.
        out_dims: ``'arch'``: for 'l2' a 1x1 convolution to 96, 192, 384, 768
            channels and a LayerNorm on each map, as in the authors' detectors;
            for all others the stages' own widths, with neither. None: always
            the stages' own. A tuple of four (plain: one): these widths.
        cross_scale: ``'before_norm'`` or ``'after_norm'``, see
            :class:`ForwardCrossAttention`.
        layer_scale_init_value: Of all residual branches.
        out_type: ``'featmap'``, or ``'cls_token'`` (plain models): the class
            token (B, d) in place of the map, for a classifier.

    The other arguments are those of :class:`PyramidBackbone`; ``act_cfg``
    replaces GELU everywhere.
    """

    dense_only = ('outputs', )
    decayed_vectors = ('scale', )  # the authors' have three dimensions
    # D and L of section 3.2. Heads of 32 channels (plain: 64) on windows of
    # the maps of a 224 x 224 image; None: a stage of ConvNeXt blocks.
    arch_settings = {
        'l0':
        dict(
            embed_dims=(192, ),
            depths=(12, ),
            num_heads=(3, ),
            windows=(14, ),
            out_dims=None),
        'l1':
        dict(
            embed_dims=(64, 128, 192, 320),
            depths=(2, 2, 6, 2),
            num_heads=(None, None, 6, 10),
            windows=(None, None, 14, 7),
            out_dims=None),
        'l2':
        dict(
            embed_dims=(96, 192, 320, 480),
            depths=(2, 2, 7, 2),
            num_heads=(None, None, 10, 15),
            windows=(None, None, 14, 7),
            out_dims=(96, 192, 384, 768)),
        'l3':
        dict(
            embed_dims=(96, 192, 320, 512),
            depths=(3, 6, 12, 3),
            num_heads=(None, None, 10, 16),
            windows=(None, None, 14, 7),
            out_dims=None),
        'l4':
        dict(
            embed_dims=(128, 256, 512, 768),
            depths=(3, 6, 12, 3),
            num_heads=(None, None, 16, 24),
            windows=(None, None, 14, 7),
            out_dims=None),
    }

    default_arch = 'l1'

    def __init__(self,
                 arch: str | dict | None = None,
                 in_channels: int = 3,
                 out_indices: Sequence[int] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict | None = None,
                 act_cfg: dict | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 mlp_ratio: int = 4,
                 out_dims: str | Sequence[int] | None = 'arch',
                 cross_scale: str = 'before_norm',
                 layer_scale_init_value: float = 1e-6,
                 out_type: str = 'featmap',
                 pretrained: str | None = None) -> None:
        super().__init__(arch or self.default_arch, in_channels, out_indices,
                         frozen_stages, norm_eval, with_cp, drop_path_rate,
                         norm_cfg, act_cfg, init_cfg, pretrained)
        settings = self.arch
        dims = settings['embed_dims']
        self.out_dims = self._resolve_out_dims(out_dims)
        self.is_plain = len(dims) == 1
        if out_type not in ('featmap', 'cls_token')[:1 + self.is_plain]:
            raise ValueError(f"out_type={out_type!r} must be 'featmap', or "
                             "'cls_token' in a plain model")
        self.out_type = out_type

        act_cfg = self.act_cfg or dict(type='GELU')
        block = dict(
            mlp_ratio=mlp_ratio,
            layer_scale=layer_scale_init_value,
            act_cfg=act_cfg)
        depths = settings['depths'][:self.num_stages]
        drop_paths = iter(
            torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        if self.is_plain:
            self.stem = PatchTokens(in_channels, dims[0],
                                    settings['windows'] * 2)
        else:
            conv = dict(norm_cfg=self.norm_cfg)
            self.stem = nn.Sequential(
                ConvNormAct(
                    in_channels, dims[0] // 2, 3, 2, act_cfg=act_cfg, **conv),
                ConvNormAct(dims[0] // 2, dims[0], 3, 2, **conv))
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            blocks = []
            if i > 0:
                blocks.append(
                    nn.Sequential(
                        ConvNormAct(
                            dims[i - 1], dims[i], act_cfg=act_cfg, **conv),
                        ConvNormAct(
                            dims[i],
                            dims[i],
                            3,
                            2,
                            groups=dims[i],
                            act_cfg=act_cfg,
                            **conv), ConvNormAct(dims[i], dims[i], **conv)))
            for index in range(depth):
                if settings['windows'][i] is None:
                    blocks.append(
                        ConvNeXtBlock(
                            dims[i], drop_path=next(drop_paths), **block))
                    continue
                fca_block = FcaBlock if self.is_plain else WindowFcaBlock
                blocks.append(
                    fca_block(
                        dims[i],
                        settings['num_heads'][i],
                        (settings['windows'][i], ) * 2,
                        index=index,
                        is_last=index == depth - 1,
                        drop_path=next(drop_paths),
                        cross_scale=cross_scale,
                        norm_cfg=self.norm_cfg,
                        **block))
            self.stages.append(nn.Sequential(*blocks))
        self.outputs = nn.ModuleDict({
            str(i): OutputProjection(dims[i], self.out_dims[i])
            for i in self.out_indices
        } if self.out_dims else {})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self._freeze()

    def _resolve_arch(self, arch: str | dict) -> dict:
        settings = super()._resolve_arch(arch)
        if len(settings['embed_dims']) == 1:
            self.strides = (16, )
        return settings

    def _resolve_out_dims(
            self, out_dims: str | Sequence[int] | None
    ) -> tuple[int, ...] | None:
        if out_dims == 'arch':
            out_dims = self.arch['out_dims']
        if out_dims is None:
            return None
        stages = len(self.arch['embed_dims'])
        if isinstance(out_dims, str) or len(out_dims) != stages:
            raise ValueError(
                f"out_dims={out_dims!r} must be 'arch', None or a tuple of "
                f'{stages}, one width for each map of the arch')
        return tuple(out_dims)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps in ``out_indices``."""
        dims = self.out_dims or self.arch['embed_dims']
        return tuple(dims[i] for i in self.out_indices)

    def map_module(self, index: int) -> str:
        """Name of the last module behind which map ``index`` is taken."""
        return f'outputs.{index}' if self.out_dims else f'stages.{index}'

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Map ``index`` from map ``index - 1``, or from the stem's."""
        cross = None
        for block in self.stages[index]:
            if isinstance(block, WindowFcaBlock):
                x, merged = self.run_block(block, x, cross)
                cross = join(cross, merged)
            else:
                x = self.run_block(block, x)
        return x

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """:meth:`forward` without its checks."""
        if not self.is_plain:
            return [
                self._output(self.out_indices[n], out)
                for n, out in enumerate(super().forward_maps(x))
            ]
        tokens, size = self.stem(x)
        cross = None
        for block in self.stages[0]:
            tokens, merged = self.run_block(block, tokens, size, cross)
            cross = join(cross, merged)
        if self.out_type == 'cls_token':
            return [tokens[:, 0]]
        grid = tokens[:, 1:].contiguous().unflatten(1, size)
        return [self._output(0, grid.permute(0, 3, 1, 2))]

    def _output(self, index: int, x: Tensor) -> Tensor:
        return self.outputs[str(index)](x) if self.out_dims else x

    def _frozen_modules(self) -> list[nn.Module]:
        outputs = [
            self.outputs[str(i)] for i in range(self.frozen_stages)
            if str(i) in self.outputs
        ]
        return super()._frozen_modules() + outputs

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Layers of the authors' layer-wise decay (hybrid models).

        0 the stem, the downsampling behind stage 1, all depth biases and
        cross token factors; 1 and 2 the first two stages; 3 to 6 every three
        blocks of stage 3; 6 stage 4; 7 all that follows. A downsampling has
        the layer of what it follows.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: What precedes the backbone's own name.

        Returns:
            (layer, number of layers).
        """
        if self.is_plain:
            return super().get_layer_depth(param_name, prefix)
        place = self._place(param_name, prefix)
        if place is None:
            return 7, 8
        stage, block = place
        if stage < 0 or self._of_cross_tokens(param_name):
            return 0, 8
        if stage and not block:
            return (0, 2, 3)[stage - 1], 8
        return (1, 2, min(3 + (block - 1) // 3, 6), 6)[stage], 8

    def get_stage_depth(self,
                        param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Layers of the authors' stage-wise decay (hybrid models).

        0 the stem, all downsamplings, depth biases and cross token factors; 1
        to 4 the stages; 7 all that follows: 5 and 6 are empty.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: What precedes the backbone's own name.

        Returns:
            (layer, number of layers).
        """
        if self.is_plain:
            return super().get_stage_depth(param_name, prefix)
        place = self._place(param_name, prefix)
        if place is None:
            return 7, 8
        stage, block = place
        if self._of_cross_tokens(param_name) or (stage and not block):
            return 0, 8
        return stage + 1, 8

    @staticmethod
    def _of_cross_tokens(param_name: str) -> bool:
        return param_name.endswith(('.scale', '.depth_bias'))


@MODELS.register_module()
class CabViT(FcaFormer):
    """CabViT backbone: the networks of :class:`FcaFormer`, published before.

    Weights are exchangeable. The CabViT paper calls cross tokens digest tokens
    and hands the stages' own widths to the segmentation head (its section 4.2
    suspects a loss from that; FcaFormer then widened them).
    """

    arch_settings = {
        'p-l0': FcaFormer.arch_settings['l0'],
        'h-l1': FcaFormer.arch_settings['l1'],
        'h-l2': dict(FcaFormer.arch_settings['l2'], out_dims=None),
    }
    default_arch = 'h-l1'


def join(cross: Tensor | None, merged: Tensor | None) -> Tensor | None:
    """Cross tokens of the blocks so far, oldest first."""
    if cross is None or merged is None:
        return merged
    return torch.cat((cross, merged), 1)
