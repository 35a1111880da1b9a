# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmxvit.analysis.complexity import PARTS, complexity
from mmxvit.analysis.models import build_model, parse_model
from mmxvit.analysis.paper_measures import METRICS
from mmxvit.analysis.paper_plots import top1_rows
from mmxvit.analysis.paper_tables import (
    COUNTINGS,
    Counts,
    Measured,
    Row,
    Table,
    agrees,
    cells,
    config_path,
    count,
    load_counts,
    load_tables,
    markdown,
    remarks,
    sources,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
TABLES = load_tables()
SOURCES = sources(TABLES)
every_table = pytest.mark.parametrize('name', TABLES)


def params_agree(params: int, row: Row) -> bool:
    """Whether a number of parameters is the printed one of a row."""
    if row.part:
        return f'{params:,}' == row.params
    return agrees(params / 1e6, row.params)


def test_all_tables_are_there():
    numbers = dict(xformer=(2, 3, 4, 5), lvt=(3, 4, 5, 7),
                   fcaformer=range(1, 7), cabvit=range(1, 5),
                   lolvit=(1, *range(3, 9), 16, 17))
    expected = [f'{paper}-{n}' for paper, of_it in numbers.items()
                for n in of_it]
    printed = [n for n, t in TABLES.items() if '(not in the' not in t.title]
    assert printed == expected
    for name, table in TABLES.items():
        assert table.paper.lower() == name.partition('-')[0]


def test_rows_that_are_not_built():
    """As many as stand in the tables; a new one must be wanted."""
    assert {
        name: missing for name, table in TABLES.items()
        if (missing := sum(bool(r.not_built) for r in table.rows))
    } == {
        'xformer-2': 1, 'xformer-3': 4, 'xformer-4': 1, 'lvt-3': 10,
        'fcaformer-1': 1, 'fcaformer-2': 11, 'fcaformer-3': 1,
        'fcaformer-4': 1, 'fcaformer-5': 5, 'cabvit-1': 1, 'cabvit-2': 14,
        'cabvit-3': 1, 'cabvit-4': 4, 'lolvit-3': 1, 'lolvit-5': 6,
        'lolvit-6': 2, 'lolvit-7': 7, 'lolvit-8': 1
    }


@every_table
def test_rows_are_complete(name):
    table = TABLES[name]
    for row in table.rows:
        assert sum(map(bool, (row.config, row.peer, row.not_built))) == 1, row
        assert row.source or not (
            row.options or row.part or row.note or row.differs), row
        if row.config or row.peer and find_spec(row.peer.split('::')[0]):
            assert config_path(row).is_file(), row
        assert row.counting in COUNTINGS, row
        assert len(row.flops) in (0, len(row.sizes)), row
        for figure in [*row.flops, row.params, row.backbone_params]:
            assert not figure or float(figure.replace(',', '')) > 0, row


@every_table
def test_figures_are_those_of_the_paper_or_explained(name):
    for row in TABLES[name].rows:
        if not row.source:
            continue
        counted = load_counts()[row.source]
        pairs = [
            (counted.flops(s, row.counting) / 1e9, p)
            for s, p in zip(row.sizes, row.flops, strict=bool(row.flops))]
        differs = []
        if row.params and not params_agree(counted.params_of(row), row):
            differs.append('params')
        if row.backbone_params and not agrees(
                counted.parts['backbone'] / 1e6, row.backbone_params):
            differs.append('backbone params')
        if any(not agrees(value, p) for value, p in pairs):
            differs.append('flops')
        assert row.differs == differs, row.model
        assert row.note or not differs, row.model


@pytest.mark.parametrize(
    'file', sorted((CONFIGS.parent / 'docs/data/speeds').glob('*.json')),
    ids=lambda file: file.stem)
def test_kept_speeds_are_of_these_rows(file):
    measured, table = Measured.load(file), TABLES[file.stem]
    rows = {row.source for row in table.rows if row.source}
    assert measured.sizes == table.speed_sizes
    assert measured.batch == table.batch
    for values in measured.seconds, measured.peak_bytes:
        assert not values or values.keys() == rows
        for sizes in values.values():
            assert sizes.keys() == set(table.speed_sizes)


def test_counts_are_of_these_rows():
    counts = load_counts()
    assert counts.keys() == SOURCES.keys()
    for source, rows in SOURCES.items():
        assert counts[source].macs.keys() == {
            size for row in rows for size in row.sizes}
        for row in rows:
            assert counts[source].params_of(row) <= counts[source].params


FAST = ('xformer/xformer_8xb128_in1k', 'lolvit/lolvit-s_8xb128_in1k',
        'lvt/lvt_8xb128_in1k', 'fcaformer/fcaformer-l0_8xb128_in1k',
        'fcaformer/fcaformer-l2_8xb128_in1k',
        'cabvit/cabvit-p-l0_8xb128_in1k', 'cabvit/cabvit-h-l2_8xb128_in1k',
        'mmpretrain::mobilevit/mobilevit-small_8xb128_in1k.py',
        'xformer/yolov3_mobilenetv2_8xb24-320-300e_coco',
        'xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024')


@pytest.mark.parametrize('source', [
    pytest.param(s, marks=() if s in FAST else pytest.mark.slow)
    for s in SOURCES
])
def test_counts_are_those_of_the_models(source):
    rows = SOURCES[source]
    package = (rows[0].peer or '').partition('::')[0]
    if package:
        pytest.importorskip(package)
    assert count(rows) == load_counts()[source]


@pytest.mark.parametrize('text', [
    'mmxvit.XFormer:xformer', 'mmxvit.LVT:lvt', 'mmxvit.FcaFormer:l1',
    'mmxvit.LOLViT:s',
    "dict(type='mmpretrain.SwinTransformer', arch='tiny', "
    'pad_small_map=True)'])
def test_shapes_alone_give_the_same_counts(text):
    pytest.importorskip('mmpretrain')
    model = build_model(parse_model(text)[1])
    counted = complexity(model, (3, 96, 64), shapes_only=True)
    assert counted == complexity(model, (3, 96, 64))
    # and the model still runs on values
    assert counted == complexity(model, (3, 96, 64))


@pytest.mark.parametrize('value, printed, expected', [
    (4.867, '4.9', True), (4.95, '4.9', False), (262.4, '262', True),
    (40.287, '40.2', False), (2.0, '2.0', True)])
def test_agrees(value, printed, expected):
    assert agrees(value, printed) == expected


def macs(linear, attention=0, norm=0, elementwise=0):
    return dict(zip(PARTS, (linear, attention, norm, elementwise),
                    strict=True))


def test_countings():
    counts = Counts(0, {}, {(8, 8): macs(100, 10, 4, 1)})
    assert {name: counts.flops((8, 8), name) for name in COUNTINGS} == dict(
        linear=100, full=110, paper=105, doubled=224)


@pytest.fixture
def table():
    return Table(
        'P', 'Table 1: things', [(224, 224)], 'paper',
        [Row('ours', config='a/ours', params='1.2', flops=['3.0'],
             sizes=[(224, 224)], counting='paper', results={'top-1': '70.0'},
             speed={'FPS': '9'}, note='because'),
         Row('wide', config='a/ours', options={'model.width': 2},
             sizes=[(64, 128)], counting='full'),
         Row('theirs', not_built='not published', params='5',
             sizes=[(224, 224)], counting='paper',
             results={'top-1': '71.0'})],
        device='a Titan')


@pytest.fixture
def counts():
    return {
        'a/ours': Counts(1234567, {}, {(224, 224): macs(2_900_000_000,
                                                        norm=100_000_000)}),
        'a/ours {"model.width": 2}': Counts(
            2000000, {}, {(64, 128): macs(4_000_000_000, 500_000_000)}),
    }


def test_cells(table, counts):
    head, *rows = cells(table, counts)
    assert [dict(zip(head, row, strict=True)) for row in rows] == [
        {'model': 'ours', 'parameters': '1,234,567',
         'parameters, paper': '1.2 M', 'G FLOPs at 224': '3.000',
         'G FLOPs, paper': '3.0', 'G MACs with attention': '2.900',
         'FPS, paper': '9', 'top-1, paper': '70.0', 'config': 'a/ours'},
        {'model': 'wide', 'parameters': '2,000,000', 'parameters, paper': '',
         'G FLOPs at 224': '4.500 at 64 x 128', 'G FLOPs, paper': '',
         'G MACs with attention': '4.500 at 64 x 128', 'FPS, paper': '',
         'top-1, paper': '', 'config': 'a/ours {"model.width": 2}'},
        {'model': 'theirs', 'parameters': 'not built: not published',
         'parameters, paper': '5 M', 'G FLOPs at 224': '',
         'G FLOPs, paper': '', 'G MACs with attention': '', 'FPS, paper': '',
         'top-1, paper': '71.0', 'config': ''}]


def test_what_was_measured_is_beside_the_papers(table, counts):
    measured = Measured([(224, 224)], {'a/ours': {(224, 224): .02}},
                        {'a/ours': {(224, 224): 3 << 20}}, 4, 'Measured so.')
    head, *rows = cells(table, counts, '../', measured,
                        {'a/ours': {'top-1': 12.345}})
    first, _, last = (dict(zip(head, row, strict=True)) for row in rows)
    assert first['model'] == '[ours](../a/ours.py)'
    assert (first['ms at 224, here'], first['images/s at 224, here'],
            first['MiB at 224, here']) == ('20.0', '200.0', '3')
    assert (first['top-1, paper'], first['top-1, tested here']) == (
        '70.0', '12.35')
    assert last['ms at 224, here'] == last['top-1, tested here'] == ''
    assert 'Measured so.' in remarks(table, measured)[0]


def test_accuracies_of_another_size_are_not_tested(table, counts):
    table.rows[0].tested_at = 384
    head, first, *_ = cells(
        table, counts, tested={'a/ours': {'top-1': 12.345}})
    assert 'top-1, tested here' not in head
    assert '12.35' not in first
    assert not any(row is table.rows[0]
                   for row in top1_rows(dict(table=table)))


def test_accuracies_are_of_the_size_of_the_test_or_say_so():
    """LOLViT's table has rows at 384, its configs test at 224."""
    rows = TABLES['lolvit-3'].rows
    assert [r.model for r in rows if r.tested_at] == [
        'LOLViT-X at 384', 'LOLViT-S at 384']
    plotted = [r.model for r in top1_rows(TABLES)]
    assert 'LOLViT-X' in ' '.join(plotted)
    assert 'LOLViT-X at 384' not in plotted


def test_measured_speeds_are_kept_in_a_file(tmp_path):
    # a GPU had too little memory for the second size
    measured = Measured(
        [(224, 224), (512, 1024)],
        {'a/ours {"x": 1}': {(224, 224): .02, (512, 1024): .5}},
        {'a/ours {"x": 1}': {(224, 224): 3 << 20}}, 4, 'Measured so.')
    measured.save(tmp_path / 'speeds.json')
    assert Measured.load(tmp_path / 'speeds.json') == measured


def test_images_per_second_stand_where_the_paper_prints_them(table, counts):
    measured = Measured([(224, 224)], {'a/ours': {(224, 224): .02}}, {}, 4,
                        '')
    for row in table.rows:
        row.speed = {'ms at 224': '9'} if row.speed else {}
    head = cells(table, counts, measured=measured)[0]
    assert 'ms at 224, here' in head
    assert 'images/s at 224, here' not in head


def test_no_accuracy_is_shown_as_ours_unless_tested():
    for table in TABLES.values():
        head = cells(table, load_counts())[0]
        for row in table.rows:
            for name in [*row.results, *row.speed]:
                assert f'{name}, paper' in head
                assert name not in head


def test_remarks(table):
    below = remarks(table)
    assert below == [
        "FLOPs: multiply-adds of convolutions, linear layers and norms, as "
        "mmcv 1.x counted. Accuracies are the paper's; nothing was trained "
        "here. The paper's speeds are of a Titan.", '* ours: because.',
        '* As its authors counted, wide: multiply-adds of convolutions, '
        'linear layers and attention.']


def test_markdown_has_as_many_cells_in_each_line(counts, table):
    lines = markdown(table, counts).split('\n\n')[0].split('\n')
    assert Counter(line.count(' | ') for line in lines) == {8: 5}
    assert '`a/ours`' in lines[2]


def test_every_column_of_a_headline_result_can_be_tested():
    columns = {name for table in TABLES.values() for row in table.rows
               for name in row.results}
    assert columns - METRICS.keys() == {
        'PQ on test-dev', 'PQ things on test-dev', 'PQ stuff on test-dev',
        'top-1 on Mini ImageNet'}
