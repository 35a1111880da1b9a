# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / 'docs'


def test_docs_build_without_warnings(tmp_path):
    result = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', DOCS,
         tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for page in DOCS.rglob('*.md'):
        html = tmp_path / page.relative_to(DOCS).with_suffix('.html')
        assert html.is_file()
