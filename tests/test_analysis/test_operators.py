# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import csv
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from mmxvit.analysis.operators import (
    KINDS,
    REST,
    machine_rates,
    operator_times,
    profile_tables,
)

from .test_benchmark import FULL, PART, one_thread, run_tool  # noqa: F401

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/profile_operators.py'
CONV, ATTENTION, ACTIVATION, COPY, NORM = KINDS


class Attention(nn.Module):

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


class Twice(nn.Module):

    def forward(self, x):
        return torch.cat((x, x), 1)


@pytest.mark.parametrize('layer, kind', [
    (nn.Conv2d(8, 8, 3), CONV),
    (nn.Conv2d(8, 8, 1), CONV),
    (nn.Linear(32, 16), CONV),
    (nn.Sequential(nn.Flatten(2), nn.Linear(1024, 16, bias=False)), CONV),
    (Attention(), ATTENTION),
    (nn.Softmax(1), ATTENTION),
    (nn.GELU(), ACTIVATION),
    (nn.SiLU(inplace=True), ACTIVATION),
    (nn.ReLU(), ACTIVATION),
    (nn.ReLU6(), ACTIVATION),
    (nn.Hardswish(), ACTIVATION),
    (nn.Sigmoid(), ACTIVATION),
    (Twice(), COPY),
    (nn.ZeroPad2d(2), COPY),
    (nn.BatchNorm2d(8), NORM),
    (nn.LayerNorm(32), NORM),
    (nn.GroupNorm(2, 8), NORM),
    (nn.AvgPool2d(2), REST),
])
def test_kinds_of_operators(layer, kind):
    times = operator_times(layer.eval(), torch.rand(2, 8, 32, 32), 2)
    assert set(times.seconds) == {*KINDS, REST}
    assert times.calls > 0
    assert times.seconds[kind] > 0
    # views and the like around it are REST; small products copy their bias
    assert all(value == 0 for other, value in times.seconds.items()
               if other not in (kind, COPY, REST))


def test_rates_are_work_over_time():
    rates = machine_rates(.05)
    assert set(rates) == {'matmul', 'conv'}
    assert all(1e8 < rate < 1e14 for rate in rates.values())


def test_table():
    row = dict(
        model='A', height=224, width=200, median_ms=20., executed_gmac=.5,
        calls=7, matmul_gmac_s=99.6, conv_gmac_s=120.2, threads=2,
        allocator='tuned', device_name='A CPU', cpu_count=4, torch='2.8.0',
        commit='commit 1234567', date='2026-01-02T03:04:05+0000',
        **dict.fromkeys(KINDS, 2.), **{REST: 6.})
    lines = profile_tables([row, dict(row, height=512)]).split('\n')
    assert 'A CPU (4 CPUs), 2 threads' in lines[0]
    assert lines[0].endswith('machine: 100 GMAC/s, the best 3x3 convolution: '
                             '120.')
    # 10 + 6 ms of operators; 0.5 G in 20 ms
    assert lines[4] == ('| A | 20 | 16 | 7 | 25 | 12% | 12% | 12% | 12% | 12% '
                        '| 38% |')
    assert lines[6].startswith('| 512 x 200 |')
    assert {line.count('|') for line in lines[2:5]} == {12}


@pytest.mark.usefixtures('one_thread')
def test_tool(monkeypatch, capsys, tmp_path):
    table = tmp_path / 'new' / 'profile.csv'
    run_tool(monkeypatch, FULL, PART, '--sizes', '32', '64', '--rounds', '2',
             '--threads', '1', '--csv', str(table), tool=TOOL)
    out = capsys.readouterr().out
    with open(table, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(r['model'], r['height']) for r in rows] == [
        ('full', '32'), ('part', '32'), ('full', '64'), ('part', '64')]
    assert profile_tables(rows) in out
    for full, part in (rows[:2], rows[2:]):
        assert int(full['calls']) > int(part['calls']) > 0
        assert float(full['executed_gmac']) > float(part['executed_gmac']) > 0
        assert float(full[CONV]) > 0
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, FULL, '--csv', str(table), tool=TOOL)
    assert 'exists' in capsys.readouterr().err


@pytest.mark.parametrize('args, message', [
    ((FULL, FULL), 'two models'),
    (("dict(type=open('x'))", ), 'call other than dict'),
    ((FULL, '--sizes', '0'), 'at least 1'),
    (("dict(type='mmxvit.XFormer', archh='xformer')", ), "argument 'archh'"),
])
def test_tool_refuses(monkeypatch, capsys, args, message):
    with pytest.raises(SystemExit) as end:
        run_tool(monkeypatch, *args, tool=TOOL)
    assert message in f'{end.value} {capsys.readouterr().err}'
