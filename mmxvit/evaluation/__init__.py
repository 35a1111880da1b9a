# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Evaluation: what the mm* packages lack."""
