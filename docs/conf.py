# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""
import re
from pathlib import Path

_version = Path(__file__).resolve().parents[1] / 'mmxvit' / 'version.py'

project = 'mmxvit'
author = 'mmxvit contributors'
copyright = author
release = re.search(r"__version__ = '(.+)'", _version.read_text())[1]

extensions = ['myst_parser']
myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 3
exclude_patterns = ['_build']

html_theme = 'furo'
html_title = f'mmxvit {release}'
