# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Code blocks of documentation pages, to be run as they are printed."""
import ast
import io
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r'^( *)```(\S*)\n(.*?)^\1```$', re.M | re.S)


class Snippet(NamedTuple):
    """A fenced block; ``line`` is that of its first line in the page."""
    page: Path
    line: int
    language: str
    text: str


def read_snippets(page: Path) -> list[Snippet]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Snippet(page, text.count('\n', 0, block.start(3)) + 1, block[2],
                textwrap.dedent(block[3])) for block in _BLOCK.finditer(text)
    ]


def run_python(page: Path) -> int:
    """Run the Python blocks of a page in the current folder.

    They share their names, as in one session. Where the comment behind an
    expression is a Python literal, the value must be equal to it::

        model.out_strides  # (4, 8, 16, 32)

    Returns:
        Values that were compared.

    Raises:
        AssertionError: A value is another one; names page and line.
        Exception: What a block raises, with the page in its traceback.
    """
    names: dict[str, Any] = {'__name__': '__main__'}
    compared = 0
    for snippet in read_snippets(page):
        if snippet.language != 'python':
            continue
        comments = _literal_comments(snippet.text)
        for node in ast.parse(snippet.text).body:
            expected = comments.get(node.end_lineno)
            is_value = isinstance(node, ast.Expr) and expected is not None
            ast.increment_lineno(node, snippet.line - 1)
            if not is_value:
                exec(compile(ast.Module([node], []), page, 'exec'), names)
                continue
            value = eval(
                compile(ast.Expression(node.value), page, 'eval'), names)
            assert value == ast.literal_eval(expected), (
                f'{page}:{node.lineno}: printed {expected}, got {value!r}')
            compared += 1
    return compared


def _literal_comments(text: str) -> dict[int, str]:
    """Comments that are literals, by line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comment = token.string.lstrip('# ')
            try:
                ast.literal_eval(comment)
            except (SyntaxError, ValueError):
                continue
            found[token.start[0]] = comment
    return found


def link_clone(folder: Path) -> None:
    """Make a folder look like the root of the clone.

    What commands write into it does not reach the clone.
    """
    for path in ROOT.iterdir():
        if not path.name.startswith('.') and path.name not in (
                'data', 'work_dirs'):
            (folder / path.name).symlink_to(path)
