# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The shipped configs, for the tests that go through all of them."""
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(p for p in ROOT.glob('*/*.py') if p.parent.name != '_base_')


def marked(slow: set[str]) -> list:
    """All configs as parameters of a test, some marked as slow."""
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=pytest.mark.slow if path.stem in slow else ())
        for path in CONFIGS
    ]


def few_proposals(cfg: Config) -> None:
    """For two-stage detectors: random weights propose a thousand boxes."""
    if 'roi_head' in cfg.model:
        for part in (cfg.model.train_cfg.rpn_proposal,
                     cfg.model.test_cfg.rpn):
            part.max_per_img = 30


def small_crops(cfg: Config) -> None:
    """For segmentors: they pad all images to the size of their crops."""
    preprocessor = cfg.model.get('data_preprocessor', {})
    if 'size' in preprocessor:
        preprocessor.size = (64, 64)
