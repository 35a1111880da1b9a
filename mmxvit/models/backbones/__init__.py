# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .fcaformer import CabViT, FcaFormer
from .lolvit import LOLViT
from .lvt import LVT
from .xformer import XFormer

__all__ = ['CabViT', 'FcaFormer', 'LOLViT', 'LVT', 'XFormer']
