# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The notebook of the documentation."""
import json
from pathlib import Path

import pytest

from .snippets import ROOT

NOTEBOOK = ROOT / 'docs/tutorial.ipynb'


def test_committed_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())['cells']:
        assert not cell.get('outputs')
        assert cell.get('execution_count') is None
        assert cell['metadata'] == {}


def test_runs_from_start_to_end(monkeypatch):
    """In a new folder, by Jupyter; what it shows is what it says."""
    pytest.importorskip('mmdet')
    nbformat = pytest.importorskip('nbformat')
    client = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(
        notebook, timeout=900, kernel_name='python3',
        resources=dict(metadata=dict(path=str(Path.cwd())))).execute()
    pictures = [
        output for cell in notebook.cells
        for output in cell.get('outputs', ())
        if 'image/png' in output.get('data', {})
    ]
    assert len(pictures) == 3
    assert Path('tutorial/run/epoch_12.pth').is_file()
