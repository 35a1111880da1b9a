# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Data sets of mmxvit: what the mm* packages lack."""
