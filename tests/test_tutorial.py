# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The notebook of the documentation."""
import json

import pytest

from .snippets import ROOT, check_arguments, code_commands

NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
SHORT = {'train=200': 'train=8', 'epochs = 4': 'epochs = 2'}


def test_committed_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())['cells']:
        assert not cell.get('outputs')
        assert cell.get('execution_count') is None
        assert cell['metadata'] == {}


def test_commands_in_its_text(monkeypatch):
    found = [
        command for cell in json.loads(NOTEBOOK.read_text())['cells']
        if cell['cell_type'] == 'markdown'
        for command in code_commands(''.join(cell['source']))]
    assert len(found) == 2
    for command in found:
        check_arguments(command, monkeypatch)


@pytest.mark.parametrize('changes', [
    pytest.param(SHORT, id='short'),
    pytest.param({}, id='whole', marks=pytest.mark.slow),
])
def test_runs_from_start_to_end(changes, monkeypatch, tmp_path):
    """By Jupyter, in a new folder."""
    pytest.importorskip('mmdet')
    nbformat = pytest.importorskip('nbformat')
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(tmp_path / 'runtime'))
    text = NOTEBOOK.read_text()
    for printed, short in changes.items():
        assert text.count(printed) == 1
        text = text.replace(printed, short)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name='python3',
        resources=dict(metadata=dict(path=str(tmp_path)))).execute()

    outputs = [o for c in notebook.cells for o in c.get('outputs', ())]
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    assert len(pictures) == 3  # data, predictions, attention
    assert not any(o.output_type == 'error' for o in outputs)
    (scores, ) = (o.text for o in outputs
                  if o.get('text', '').startswith('loss ['))
    if not changes:  # it has learned something
        ap50 = json.loads(scores.split('AP50 (boxes) ')[1])
        assert ap50[-1] > .1
