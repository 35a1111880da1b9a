# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import csv
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmxvit.analysis import paper_plots, paper_tables
from mmxvit.analysis.models import build_model
from mmxvit.analysis.paper_tables import Measured

TABLES = '''
lolvit-0:
  paper: LOLViT
  title: 'Table 0: small'
  sizes: [64]
  counting: full
  device: a CPU
  rows:
    - model: LOLViT-S
      config: lolvit/lolvit-s_8xb128_in1k
      params: '2.5'
      results: {top-1: '67.43'}
    - model: MobileNetV2
      peer: mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py
      results: {top-1: '71.9'}
    - model: another
      not built: a secret
      results: {top-1: '99.9'}
lolvit-9:
  paper: LOLViT
  title: 'Table 9: empty'
  sizes: []
  counting: full
  rows:
    - model: another
      not built: a secret
'''


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder with two small tables and their counts."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('tables')
    (folder / 'tables.yml').write_text(TABLES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_tables, 'TABLES', folder / 'tables.yml')
        patch.setattr(paper_tables, 'COUNTS', folder / 'counts.json')
        rows = paper_tables.sources(paper_tables.load_tables())
        counts = {s: paper_tables.count(r) for s, r in rows.items()}
        paper_tables.save_counts(counts)
        paper_tables.load_counts.cache_clear()
        assert paper_tables.load_counts() == counts
    return folder


@pytest.fixture(autouse=True)
def small_tables(files, monkeypatch):
    monkeypatch.setattr(paper_tables, 'TABLES', files / 'tables.yml')
    monkeypatch.setattr(paper_tables, 'COUNTS', files / 'counts.json')
    paper_tables.load_counts.cache_clear()
    yield
    paper_tables.load_counts.cache_clear()


@pytest.fixture
def main(script):
    return script('tools/analysis_tools/paper_tables.py').main


def test_prints_markdown(main, capsys):
    main([])
    out = capsys.readouterr().out
    assert '## LOLViT, Table 0: small (lolvit-0)' in out
    assert '| another | not built: a secret |' in out
    assert '| 67.43 |' in out
    assert 'Table 9' in out


def test_latency_of_all_rows_in_one_run(main, tmp_path):
    main(['--table', 'lolvit-0', '--latency', '--no-memory', '--rounds', '1',
          '--min-time', '0', '--format', 'csv', '--out', 'new', '--speeds',
          'speeds'])
    with open('new/lolvit-0.csv', newline='') as file:
        ours, peer, other = csv.DictReader(file)
    assert float(ours['ms at 64, here']) > 0
    assert float(peer['ms at 64, here']) > 0
    assert other['ms at 64, here'] == ''
    assert not any('MiB' in name for name in ours)
    kept = Measured.load(Path('speeds/lolvit-0.json'))
    seconds = [v[64, 64] for v in kept.seconds.values()]
    assert [f'{s * 1e3:.1f}' for s in seconds] == [
        ours['ms at 64, here'], peer['ms at 64, here']]


@pytest.mark.slow
def test_memory_and_conditions(main, capsys, monkeypatch):
    monkeypatch.setattr(paper_plots, 'RESOLUTIONS', 'lolvit-0')
    quick = ['--table', 'lolvit-0', '--rounds', '1', '--min-time', '0']
    main([*quick, '--latency'])
    out = capsys.readouterr().out
    assert 'MiB at 64, here' in out
    assert 'batch 1, float32' in out
    main([*quick, '--plots', 'plots'])
    assert cv2.imread('plots/memory_size.png').std() > 1


def test_pictures(main, monkeypatch):
    main(['--format', 'png', '--out', 'png'])
    for name in ('lolvit-0', 'lolvit-9'):
        assert cv2.imread(f'png/{name}.png').std() > 1
    monkeypatch.setattr(paper_plots, 'RESOLUTIONS', 'lolvit-0')
    main(['--table', 'lolvit-0', '--plots', 'plots', '--no-memory',
          '--rounds', '1', '--min-time', '0'])
    assert sorted(p.name for p in Path('plots').iterdir()) == [
        'accuracy_latency.png', 'accuracy_params.png', 'latency_size.png']


@pytest.mark.slow
def test_each_model_at_the_size_of_its_test(files, main, monkeypatch):
    """MobileViT at 256, and LeViT, which takes no other size than 224."""
    rows = [('lolvit/lolvit-s_8xb128_in1k', 'config'),
            ('mmpretrain::mobilevit/mobilevit-xxsmall_8xb128_in1k.py', 'peer'),
            ('mmpretrain::levit/levit-128s_8xb256_in1k.py', 'peer')]
    head = TABLES[:TABLES.index('    - model')].replace('[64]', '[]')
    Path('tables.yml').write_text(head + ''.join(
        f'    - model: a{i}\n      {kind}: {name}\n'
        "      results: {top-1: '70'}\n"
        for i, (name, kind) in enumerate(rows)))
    monkeypatch.setattr(paper_tables, 'TABLES', Path('tables.yml'))
    monkeypatch.setattr(paper_tables, 'COUNTS', Path('counts.json'))
    paper_tables.save_counts({
        s: paper_tables.count(r)
        for s, r in paper_tables.sources(paper_tables.load_tables()).items()})
    paper_tables.load_counts.cache_clear()
    sizes = []
    measure = paper_plots.measure_speed
    monkeypatch.setattr(
        paper_plots, 'measure_speed', lambda rows, settings, *args: (
            sizes.append((len(rows), *settings.sizes)),
            measure(rows, settings, *args))[1])
    main(['--plots', 'plots', '--rounds', '1', '--min-time', '0'])
    assert sizes == [(2, (224, 224)), (1, (256, 256))]
    assert cv2.imread('plots/accuracy_latency.png').std() > 1


def test_conditions_stand_with_the_latencies(main, capsys):
    main(['--table', 'lolvit-0', '--latency', '--no-memory', '--rounds', '1',
          '--min-time', '0'])
    out = capsys.readouterr().out
    assert 'medians of at least 1 steps in turns, batch 1, float32' in out
    assert time.strftime('%Y-%m-%dT') in out
    assert f'torch {torch.__version__}, ' in out
    assert re.search(r'commit [0-9a-f]{7,}|version ', out)


def test_mistakes(main, failure, capsys):
    Path('have').mkdir()
    Path('have/lolvit-0.csv').write_text('mine')
    Path('have/lolvit-0.json').write_text('mine')
    for argv in (['--format', 'csv', '--out', 'have'],
                 ['--format', 'png'], ['--checkpoints', 'nowhere'],
                 ['--table', 'xformer-99'], ['--speeds', 'new'],
                 ['--latency', '--speeds', 'have'],
                 ['--plots', 'new', '--latency'],
                 ['--plots', 'new', '--out', 'new', '--format', 'png']):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
    assert Path('have/lolvit-0.csv').read_text() == 'mine'
    assert Path('have/lolvit-0.json').read_text() == 'mine'
    assert 'none has top-1' in failure(
        main, '--table', 'lolvit-9', '--plots', 'plots')
    Path('have/mine.pth').touch()
    assert 'called lolvit-s_8xb128_in1k.pth, mobilenet-v2_8xb32_in1k.pth' in (
        failure(main, '--checkpoints', 'have'))


def test_checkpoints_are_tested_as_by_the_test_command(
        main, tmp_path, capsys):
    for label in range(2):
        folder = tmp_path / f'imagenet/val/class{label}'
        folder.mkdir(parents=True)
        for i in range(2):
            image = np.random.RandomState(i).randint(
                0, 256, (40, 50, 3), np.uint8)
            cv2.imwrite(str(folder / f'{i}.JPEG'), image)
    row = paper_tables.load_tables()['lolvit-0'].rows[0]
    model = build_model(paper_tables.row_model(row))
    with torch.no_grad():  # always class 0: half of the images
        model.head.fc.weight.zero_()
        model.head.fc.bias.copy_(-torch.arange(1000.))
    Path('weights').mkdir()
    weights = 'weights/lolvit-s_8xb128_in1k.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), weights)
    options = ['data_root=imagenet', 'test_dataloader.num_workers=0',
               'test_dataloader.persistent_workers=False',
               'test_dataloader.dataset.metainfo.classes=[a,b]']
    Path('weights/typo.pth').touch()
    main(['--table', 'lolvit-0', '--checkpoints', 'weights', '--format',
          'csv', '--out', 'out', '--cfg-options', *options])
    assert 'of no row of these tables: typo.pth\n' in capsys.readouterr().err
    with open('out/lolvit-0.csv', newline='') as file:
        ours, peer, _ = csv.DictReader(file)
    assert (ours['top-1, paper'], ours['top-1, tested here']) == (
        '67.43', '50.00')
    assert peer['top-1, tested here'] == ''
