# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""
import json
import re
from pathlib import Path

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

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


def setup(app: Sphinx) -> None:
    app.add_source_suffix('.ipynb', 'notebook')
    app.add_source_parser(NotebookParser)
