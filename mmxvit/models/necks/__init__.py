# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .conv_pool import ConvPool

__all__ = ['ConvPool']
