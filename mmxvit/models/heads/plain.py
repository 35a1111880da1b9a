# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Heads of the classifiers without losses: torch and MMEngine only.

Their parameters have the names that they have in mmpretrain's heads, so that
checkpoints go both ways.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from ..attentions.utils import widen


class LinearHead(nn.Module):
    """One linear layer, as mmpretrain's LinearClsHead.

    Args:
        num_classes: Classes.
        in_channels: Channels C of the neck's vector.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Vectors (B, C), the last is taken -> (B, C)"""
        return feats[-1]

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits, (B, num_classes)."""
        return self.fc(self.pre_logits(feats))


class LayerNormHead(LinearHead):
    """Global mean, LayerNorm, linear layer (FcaFormer, CabViT).

    Args:
        num_classes: Classes.
        in_channels: Channels C of the backbone's last map.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.norm = nn.LayerNorm(in_channels)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, H, W) or vectors (B, C) -> (B, C) of the last one."""
        x = feats[-1]
        return self.norm(x.mean((2, 3)) if x.dim() == 4 else x)


class ClassAttention(nn.Module):
    """Attention of the class token to itself and the patches.

    Args:
        embed_dims: Width d of the tokens.
        num_heads: Heads.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims, bias=False)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, d), the class token first -> (B, 1, d)"""
        q, k, v = [
            t.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.q(x[:, :1]), *self.kv(x).chunk(2, 2))]
        with torch.autocast(x.device.type, enabled=False):
            out = F.scaled_dot_product_attention(widen(q), widen(k), widen(v))
        return self.proj(out.transpose(1, 2).flatten(2).to(x.dtype))

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """MACs of the linear layers and of q k^T and its product with v."""
        batch, tokens, dims = inputs[0].shape
        return dict(
            linear=batch * (2 + 2 * tokens) * dims**2,
            attention=2 * batch * tokens * dims)


class ClassBlock(nn.Module):
    """Transformer block that updates the class token only.

    Args:
        embed_dims: Width d of the tokens.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLP / d.
    """

    def __init__(self, embed_dims: int, num_heads: int,
                 mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = ClassAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dims, mlp_ratio * embed_dims), nn.GELU(),
            nn.Linear(mlp_ratio * embed_dims, embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, d), the class token first -> the same shape"""
        token = x[:, :1] + self.attn(self.norm1(x))
        token = token + self.mlp(self.norm2(token))
        return torch.cat((token, x[:, 1:]), 1)


class ClassAttentionHead(BaseModule):
    """Class attention, one linear layer for the class, one for patches (LVT).

    arXiv 2112.10809, section 4.1, which refers to CaiT (class attention,
    arXiv 2103.17239) and VOLO (2106.13112). The logits are those of the class
    token plus ``aux_weight`` times the highest over the patches.

    Args:
        num_classes: Classes.
        in_channels: Channels d of the backbone's last map.
        num_class_blocks: Class-attention blocks. 0: the head of a plain
            classifier, mean of the tokens and one linear layer.
        num_heads: Heads of the class attention.
        mlp_ratio: Hidden width of their MLPs / d.
        aux_weight: Weight of the patches in the logits.
        kwargs: Of the next base class.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 num_class_blocks: int = 2,
                 num_heads: int = 8,
                 mlp_ratio: int = 4,
                 aux_weight: float = 0.5,
                 **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.aux_weight = aux_weight
        self.blocks = nn.ModuleList(
            ClassBlock(in_channels, num_heads, mlp_ratio)
            for _ in range(num_class_blocks))
        self.norm = nn.LayerNorm(in_channels)
        self.fc = nn.Linear(in_channels, num_classes)
        if num_class_blocks:
            self.cls_token = nn.Parameter(torch.empty(1, 1, in_channels))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            self.aux_fc = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Tokens in front of the linear layers.

        Args:
            feats: Maps of the backbone; the last, (B, d, h, w), is used.

        Returns:
            (B, 1 + h w, d), the class token first; (B, d) without class
            blocks.
        """
        x = feats[-1].flatten(2).transpose(1, 2)
        if not self.blocks:
            return self.norm(x).mean(1)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits, (B, num_classes)."""
        x = self.pre_logits(feats)
        if not self.blocks:
            return self.fc(x)
        patches = self.aux_fc(x[:, 1:]).amax(1)
        return self.fc(x[:, 0]) + self.aux_weight * patches
