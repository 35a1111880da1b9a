# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .xformer import XFormer

__all__ = ['XFormer']
