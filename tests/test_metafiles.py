# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""model-index.yml and what it imports against the configs and models."""
import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmxvit.analysis.paper_tables import load_counts, load_tables

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / 'model-index.yml'
METAFILES = [ROOT / f for f in yaml.safe_load(INDEX.read_text())['Import']]
CONFIGS = sorted(p for p in ROOT.glob('configs/*/*.py')
                 if p.parent.name != '_base_')
# examples on data of this project or of the user, nothing to compare with
EXAMPLES = re.compile(r'.*_(shapes|bccd)')


def entries(key: str) -> list[dict]:
    return [e for f in METAFILES for e in yaml.safe_load(f.read_text())[key]]


COLLECTIONS = entries('Collections')
MODELS = entries('Models')
every_model = pytest.mark.parametrize(
    'model', MODELS, ids=[m['Name'] for m in MODELS])


def test_index_imports_every_metafile():
    assert sorted(METAFILES) == sorted(ROOT.glob('configs/*/metafile.yml'))


def test_every_config_but_examples_is_listed_once():
    expected = [path.relative_to(ROOT).as_posix() for path in CONFIGS
                if not EXAMPLES.fullmatch(path.stem)]
    assert sorted(m['Config'] for m in MODELS) == expected


@every_model
def test_peers_are_in_a_collection_of_their_own(model):
    backbone = Config.fromfile(ROOT / model['Config']).model.backbone.type
    assert model['In Collection'].endswith(' peers') != backbone.startswith(
        'mmxvit.')


@pytest.mark.parametrize(
    'collection', COLLECTIONS, ids=[c['Name'] for c in COLLECTIONS])
def test_collection_names_files_that_exist(collection):
    assert (ROOT / collection['README']).is_file()
    if not collection['Name'].endswith(' peers'):
        assert (ROOT / collection['Code']['Path']).is_file()
    assert collection['Paper']['URL'].startswith('https://')


@every_model
def test_figures_are_those_of_the_config(model):
    path = ROOT / model['Config']
    assert model['Name'] == path.stem
    assert model['In Collection'] in [c['Name'] for c in COLLECTIONS]
    cfg, meta = Config.fromfile(path), model['Metadata']
    assert meta['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    # tests/test_analysis/test_paper_tables.py compares these with the models
    counted = load_counts()[f'{path.parent.name}/{path.stem}']
    size = meta['FLOPs Image Size']
    size = (size, size) if isinstance(size, int) else tuple(
        map(int, size.split('x')))
    flops = counted.flops(size, meta.get('FLOPs Counting', 'paper'))
    assert (meta['Parameters'], meta['FLOPs']) == (counted.params, flops)


@every_model
def test_lists_are_of_words(model):
    """`mim search` turns them into lower case, and ends at a number."""
    for value in model['Metadata'].values():
        if isinstance(value, list):
            assert all(isinstance(item, str) for item in value)


@every_model
def test_only_the_papers_results_without_weights(model):
    """An accuracy without a checkpoint to prove it is not ours."""
    if not model.get('Weights'):
        assert not any(r['Metrics'] for r in model['Results'])


@every_model
def test_readme_has_the_figures(model):
    path = ROOT / model['Config']
    readme = path.with_name('README.md').read_text()
    assert f'{path.name})' in readme
    assert f'{model["Metadata"]["Parameters"]:,}' in readme


METRICS = {
    'AP': 'box AP', 'AP at 320': 'box AP', 'box AP': 'box AP',
    'mask AP': 'mask AP', 'mAP at IoU 0.5': 'mAP at IoU 0.5', 'PQ': 'PQ',
    'mIoU': 'mIoU', 'mIoU (lane)': 'mIoU (lane)',
    'mIoU (drivable)': 'mIoU (drivable)', 'top-1': 'Top 1 Accuracy'
}
"""Columns of the tables in the words of the metafiles."""


def test_results_in_the_metafiles_are_those_of_the_tables():
    results = {}  # of a peer in the tables of two papers: those of the first
    for table in load_tables().values():
        for row in table.rows:
            of_row = results.setdefault(f'configs/{row.source}.py', {})
            for key, value in row.results.items():
                if key in METRICS:
                    of_row.setdefault(METRICS[key], float(value))
    for model in MODELS:
        assert model['Metadata'].get('Paper Results', {}) == results[
            model['Config']], model['Name']


def test_readmes_link_to_what_exists():
    for readme in ROOT.glob('configs/*/README.md'):
        links = re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', readme.read_text())
        assert links
        for link in links:
            assert (readme.parent / link).is_file(), link


def test_mim_and_mmpretrain_can_read_the_index():
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(INDEX))
    index.build_models_with_collections()
    assert {m.name for m in index.models} == {m['Name'] for m in MODELS}
    for model in index.models:
        assert model.full_model.paper['URL'].startswith('https://')
        assert [(r.task, r.metrics) for r in model.results]
