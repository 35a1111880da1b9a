# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""
import json
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

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
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3
exclude_patterns = ['_build']

html_theme = 'furo'
html_title = f'mmxvit {release}'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_math_renderer = 'mathml'


class NotebookParser(MystParser):
    """Notebooks as pages: their Markdown, their code, a link to the file."""
    supported = ('notebook', )

    def parse(self, inputstring: str, document: nodes.document) -> None:
        name = Path(document['source']).name
        parts = []
        for cell in json.loads(inputstring)['cells']:
            text = ''.join(cell['source'])
            if cell['cell_type'] == 'code':
                text = f'```python\n{text}\n```'
            parts.append(text)
        # under the title
        parts.insert(1, f'Download: {{download}}`{name}`')
        super().parse('\n\n'.join(parts), document)


def _write_math(display: str) -> tuple:
    """Formulas as MathML, which browsers draw without scripts or network."""

    def visit(translator: Any, node: nodes.Node) -> None:
        translator.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app: Sphinx) -> None:
    app.add_source_suffix('.ipynb', 'notebook')
    app.add_source_parser(NotebookParser)
    app.add_html_math_renderer('mathml', _write_math('inline'),
                               _write_math('block'))
