# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""model-index.yml and what it imports against the configs and models."""
import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmxvit.analysis.complexity import complexity
from mmxvit.analysis.models import build_model, model_of_config

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


def test_every_config_but_examples_and_peers_is_listed_once():
    expected = [
        path.relative_to(ROOT).as_posix() for path in CONFIGS
        if not EXAMPLES.fullmatch(path.stem) and Config.fromfile(
            path).model.backbone.type.startswith('mmxvit.')
    ]
    assert sorted(m['Config'] for m in MODELS) == expected


@pytest.mark.parametrize(
    'collection', COLLECTIONS, ids=[c['Name'] for c in COLLECTIONS])
def test_collection_names_files_that_exist(collection):
    assert (ROOT / collection['README']).is_file()
    assert (ROOT / collection['Code']['Path']).is_file()
    assert collection['Paper']['URL'].startswith('https://')


@every_model
def test_figures_are_those_of_the_config(model):
    path = ROOT / model['Config']
    assert model['Name'] == path.stem
    assert model['In Collection'] in [c['Name'] for c in COLLECTIONS]
    cfg, meta = Config.fromfile(path), model['Metadata']
    assert meta['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    size = meta['FLOPs Image Size']
    counted = complexity(build_model(model_of_config(cfg)), (3, size, size))
    counting = meta.get('FLOPs Counting', 'paper')
    assert counting in ('paper', 'full')
    assert (meta['Parameters'], meta['FLOPs']) == (
        counted.params, getattr(counted, counting))


@every_model
def test_only_the_papers_results_without_weights(model):
    """An accuracy without a checkpoint to prove it is not ours."""
    if not model.get('Weights'):
        assert not any(r['Metrics'] for r in model['Results'])


@every_model
def test_readme_has_the_figures(model):
    readme = (ROOT / model['Config']).with_name('README.md').read_text()
    assert f'{model["Metadata"]["Parameters"]:,}' in readme
    assert f'{model["Metadata"]["FLOPs"] / 1e9:.3f}' in readme


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
