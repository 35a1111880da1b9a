# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .cross_feature import CrossFeatureAttention

__all__ = ['CrossFeatureAttention']
