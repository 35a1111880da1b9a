# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Inferencers: where those of the mm* packages do not do."""
from .det_inferencer import DetInferencer

__all__ = ['DetInferencer']
