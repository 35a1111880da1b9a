# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Code blocks of documentation pages, to be run as they are printed."""
import argparse
import ast
import contextlib
import io
import re
import runpy
import shlex
import sys
import textwrap
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r'^( *)```(\S*)[^`\n]*\n(.*?)^\1```$', re.M | re.S)


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


def pages() -> list[Path]:
    """All pages for users that may have commands or code."""
    return [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
            *sorted(ROOT.glob('configs/*/README.md')),
            *sorted(ROOT.glob('docs/**/*.md'))]


def commands(text: str) -> list[str]:
    """Commands of a shell block; one may go over several lines."""
    found, lines = [], []
    for line in text.splitlines():
        if lines or (line.strip() and not line.lstrip().startswith('#')):
            lines.append(line)
        if lines and not line.endswith('\\'):
            found.append('\n'.join(lines))
            lines = []
    return found


def inline_commands(page: Path) -> list[str]:
    """Commands of our tools that stand in a line of text or a table."""
    return code_commands(_BLOCK.sub('', page.read_text()))


def code_commands(text: str) -> list[str]:
    """Commands of our tools between single backquotes."""
    return [
        ' '.join(code.split())
        for code in re.findall(r'(?<!`)`([^`]+)`(?!`)', text)
        if TOOL.search(code) and ' ' in code
    ]


TOOL = re.compile(r'(?:^|\s)(?:\S*python )?((?:tools|demo)/\S+\.(?:py|sh))'
                  r'(?=\s|$)')
"""A command of this repository."""


class _Parsed(BaseException):
    """The command line was read; nothing else shall happen."""


def check_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let our tools read their command line, and do nothing else.

    Args:
        command: A whole command; one of another program is left alone.
        monkeypatch: Of the test.

    Raises:
        AssertionError: There is no such tool, or it does not take these
            arguments.
    """
    found = TOOL.search(command)
    if not found:
        return
    script, rest = found[1], command[found.end():]
    words = shlex.split(rest.replace('\\\n', ' '), comments=True)
    assert (ROOT / script).is_file(), f'{command}: no such file'
    if script.endswith('.sh'):  # hands the rest of its words on
        positional = dict(
            dist_train=['CONFIG'], dist_test=['CONFIG', 'CHECKPOINT'],
            slurm_train=['CONFIG'], slurm_test=['CONFIG', 'CHECKPOINT'])
        name = Path(script).stem
        count = len(positional[name]) + (2 if 'slurm' in name else 1)
        assert len(words) >= count, f'{command}: too few words'
        script = f'tools/{name.partition("_")[2]}.py'
        words = positional[name] + words[count:]
    read = argparse.ArgumentParser.parse_args
    error = io.StringIO()

    def parse_args(self, args=None, namespace=None):
        with contextlib.redirect_stderr(error):
            read(self, words, namespace)
        raise _Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        patch.setattr(sys, 'argv', [script, *words])
        patch.syspath_prepend((ROOT / script).parent)
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except _Parsed:
            return
        except SystemExit:
            pass
    raise AssertionError(f'{command}: {error.getvalue()}')


def run_python(page: Path) -> int:
    """Run the Python blocks of a page in the current folder.

    They share their names, as in one session.

    Returns:
        Values that were compared, see :func:`run_block`.
    """
    names: dict[str, Any] = {'__name__': '__main__'}
    return sum(run_block(snippet, names) for snippet in read_snippets(page)
               if snippet.language == 'python')


def run_block(snippet: Snippet, names: dict[str, Any]) -> int:
    """Run a Python block.

    Where the comment behind an expression is a Python literal, the value must
    be equal to it::

        model.out_strides  # (4, 8, 16, 32)

    Args:
        snippet: The block.
        names: Variables, those that it makes included.

    Returns:
        Values that were compared.

    Raises:
        AssertionError: A value is another one; names page and line.
        Exception: What the block raises, with the page in its traceback.
    """
    page, compared = snippet.page, 0
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
