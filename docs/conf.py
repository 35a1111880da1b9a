# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""
import re
import sys
from pathlib import Path

_root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_root))  # the reference is that of this clone
_version = _root / 'mmxvit' / 'version.py'

project = 'mmxvit'
author = 'mmxvit contributors'
copyright = author
release = re.search(r"__version__ = '(.+)'", _version.read_text())[1]

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 79
myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 3
exclude_patterns = ['_build']

html_theme = 'furo'
html_title = f'mmxvit {release}'
