# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .conv import ConvNormAct, InvertedResidual, SqueezeExcite
from .drop import DropPath
from .fused import FFN, join, layer_act
from .ghost import GhostBlock, GhostConv
from .norm_act import build_act, build_norm

__all__ = [
    'FFN', 'ConvNormAct', 'DropPath', 'GhostBlock', 'GhostConv',
    'InvertedResidual', 'SqueezeExcite', 'build_act', 'build_norm', 'join',
    'layer_act'
]
