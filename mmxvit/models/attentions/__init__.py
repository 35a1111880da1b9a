# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .convolutional_self import ConvolutionalSelfAttention
from .cross_feature import CrossFeatureAttention
from .fast_window import FastWindowAttention
from .forward_cross import ForwardCrossAttention, TokenMergeEnhance
from .recursive_atrous import RecursiveAtrousSelfAttention

__all__ = [
    'ConvolutionalSelfAttention',
    'CrossFeatureAttention',
    'FastWindowAttention',
    'ForwardCrossAttention',
    'RecursiveAtrousSelfAttention',
    'TokenMergeEnhance',
]
