# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Models made ready for use: BatchNorms folded away, ONNX files."""
