# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .conv_pool import ConvPool
from .yolo_pan import YOLOPAN

__all__ = ['ConvPool', 'YOLOPAN']
