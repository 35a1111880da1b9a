# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

import mmxvit
from mmxvit import registry
from mmxvit.analysis.drop_in import HOSTS
from mmxvit.engine.checks import check_channels
from mmxvit.engine.command import UserError

DOCS = Path(__file__).resolve().parents[1] / 'docs'


def test_docs_build_without_warnings(tmp_path):
    result = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', DOCS,
         tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for page in (*DOCS.rglob('*.md'), *DOCS.rglob('*.ipynb')):
        html = tmp_path / page.relative_to(DOCS).with_suffix('.html')
        assert html.is_file()


def test_tables_are_those_of_the_code():
    result = subprocess.run(
        [sys.executable, 'tools/dev/generate_docs.py', '--check'],
        cwd=DOCS.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_sizes_in_the_model_zoo():
    page = (DOCS / 'model_zoo.md').read_text()
    sizes = re.findall(r' G at (.*?) \|', page)
    assert len(sizes) > 80
    assert {s for s in sizes if not re.fullmatch(r'\d+( x \d+)?', s)} == set()
    assert '800 x 1216' in sizes


def test_reference_is_complete():
    """All types for configs, and what ``import mmxvit`` gives."""
    pages = '\n'.join(p.read_text() for p in (DOCS / 'api').glob('*.md'))
    named = re.findall(r'^\.\. auto\w+:: (\S+)$', pages, re.M)
    assert len(named) == len(set(named))
    public = {f'mmxvit.{name}' for name in mmxvit.__all__
              if name != '__version__'}
    assert public <= set(named)
    types = set()
    for name in registry.__all__:
        own = getattr(registry, name)
        own.import_from_location()
        types |= {*own.module_dict, *getattr(own, 'lazy', ())}
    assert types - {name.rpartition('.')[2] for name in named} == set()


def test_drop_in_configs_work_as_printed(tmp_path):
    """They inherit from configs of the installed packages."""
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    page = (DOCS / 'user_guides' / 'drop_in.md').read_text()
    (copy, ) = re.findall(r'^cp .*', page, re.M)
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    subprocess.run(['bash', '-c', copy], check=True, cwd=tmp_path,
                   env=dict(os.environ, PATH=path), capture_output=True)
    configs = re.findall(r'^```python\n(_base_ = .*?)^```', page, re.M | re.S)
    assert len(configs) == len(HOSTS) + 2
    for number, text in enumerate(configs):
        file = tmp_path / f'{number}.py'
        file.write_text(text)
        cfg = Config.fromfile(file)
        assert cfg.model.backbone.type == 'mmxvit.XFormer'
        check_channels(cfg)
        # what the page says of wrong channels
        part = next(p for key in ('neck', 'decode_head', 'head')
                    if 'in_channels' in (p := cfg.model.get(key) or {}))
        if isinstance(part.in_channels, int):
            part.in_channels += 1
        else:
            part.in_channels = [c + 1 for c in part.in_channels]
        with pytest.raises(UserError, match='in_channels'):
            check_channels(cfg)
