# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel

from mmxvit.analysis import benchmark, memory
from mmxvit.analysis.benchmark import (
    WARMUP_ROUNDS,
    Settings,
    prepare,
    time_in_turns,
)
from mmxvit.analysis.memory import (
    bytes_per_image,
    measure_memory,
    peak_live_bytes,
)
from mmxvit.analysis.models import build_model, parse_model, run_model
from mmxvit.deployment.runtimes import PACKAGES
from mmxvit.models import XFormer

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/benchmark.py'


@pytest.mark.parametrize('text, expected', [
    ('mmxvit.XFormer:xformer', ('XFormer:xformer',
                                dict(type='mmxvit.XFormer', arch='xformer'))),
    ('mmdet.ResNet', ('ResNet', dict(type='mmdet.ResNet'))),
    ('mine = mmdet.ResNet', ('mine', dict(type='mmdet.ResNet'))),
    ("dict(type='a.B', arch='s', out_indices=(1, -2), x=dict(y=[None]))",
     ('B:s',
      dict(type='a.B', arch='s', out_indices=(1, -2), x=dict(y=[None])))),
    ("B-1=dict(type='a.B', arch={'depth': 2})",
     ('B-1', dict(type='a.B', arch=dict(depth=2)))),
    ('{"type": "a.B", "with_cp": true}', ('B', dict(type='a.B',
                                                    with_cp=True))),
])
def test_parse_model(text, expected):
    assert parse_model(text) == expected


@pytest.mark.parametrize('text', [
    "dict(type=__import__('os').getcwd())",
    "dict(type='a.B', x=list((1, 2)))",
    "dict(type='a.B', x=open(file='y'))",
    "dict(dict(type='a.B'))",
    "dict(type='a.B', **dict(x=1))",
    "{'type': 'a.B', **{}}",
    "dict(type='a.B', x=[i for i in 'ab'])",
    "dict(type='a.B'",
    "dict(arch='s')",
    '{"type": 3}',
])
def test_parse_model_takes_literals_only(text):
    with pytest.raises(ValueError):
        parse_model(text)


def test_parse_model_takes_a_path_with_an_equals_sign(tmp_path, monkeypatch):
    (tmp_path / 'lr=3').mkdir()
    (tmp_path / 'lr=3' / 'conf.py').write_text('model = dict(type="A")')
    for path in ('./lr=3/conf.py', str(tmp_path / 'lr=3/conf.py')):
        assert parse_model(path)[0] == 'conf'
        assert parse_model(f'mine={path}')[0] == 'mine'


def test_parse_model_names_similar_configs(tmp_path):
    (tmp_path / 'yolov3_xformer.py').write_text('model = dict(type="A")')
    assert parse_model(f'y={tmp_path / "yolov3_xformer.py"}')[0] == 'y'
    with pytest.raises(ValueError, match='yolov3_xformer.py'):
        parse_model(str(tmp_path / 'yolov3_xfomer.py'))


def test_steps_take_turns():
    calls, lines = [], []
    steps = {n: lambda n=n: calls.append(n) for n in 'abc'}
    seconds = time_in_turns(steps, 4, 0., lambda: None, lines.append)
    assert calls == list('abc') * (WARMUP_ROUNDS + 4)
    assert [len(s) for s in seconds.values()] == [4, 4, 4]
    assert lines[WARMUP_ROUNDS].startswith('round 1/4, a ')


def test_rounds_go_on_for_the_least_time():
    def step():
        torch.zeros(1 << 20)

    seconds = time_in_turns({'a': step}, 1, .02, lambda: None, lambda s: None)
    assert sum(seconds['a']) >= .02


PIXELS = 10 * 12
UNIT = 4 * PIXELS  # bytes of one float32 channel


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def images() -> torch.Tensor:
    return torch.zeros(1, 3, 10, 12)


@pytest.fixture(params=[True, False])
def storage_identity(request, monkeypatch):
    """Both ways to follow a storage, the second for torch < 2.2."""
    if request.param and not memory.STORAGE_HAS_IDENTITY:
        pytest.skip('needs torch >= 2.2')
    monkeypatch.setattr(memory, 'STORAGE_HAS_IDENTITY', request.param)


@pytest.mark.parametrize('net, channels', [
    # input 3, conv 8, relu 8: all alive when ReLU returns
    (nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(),
                   nn.Conv2d(8, 4, 1, bias=False)), 3 + 8 + 8),
    # in place nothing new; the second conv decides
    (nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(inplace=True),
                   nn.Conv2d(8, 9, 1, bias=False)), 3 + 8 + 9),
    # a view is no memory, nor is a transposed weight
    (nn.Sequential(nn.Flatten(2), nn.Linear(PIXELS, PIXELS, bias=False)), 6),
])
@pytest.mark.usefixtures('storage_identity')
def test_peak_of_live_tensors(net, channels):
    assert peak_live_bytes(net.eval(), images()) == channels * UNIT


def test_peak_does_not_depend_on_what_ran_before():
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU())
    first = peak_live_bytes(net, images())
    assert peak_live_bytes(net, images()) == first == 19 * UNIT


def test_training_keeps_what_backward_needs():
    # each output is kept for backward, by autograd alone
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), *[nn.Sigmoid() for _ in range(6)])
    assert peak_live_bytes(net, images()) == 3 * 3 * UNIT
    if memory.STORAGE_HAS_IDENTITY:
        assert peak_live_bytes(net, images(), train=True) >= 7 * 3 * UNIT


def test_steps_of_a_few_images_tell_of_larger_batches():
    """Where the peak is may change a little with the batch."""
    model = build_model(dict(type='mmxvit.LOLViT', arch='s')).train()
    added = bytes_per_image(model, (64, 64))
    peaks = [
        peak_live_bytes(model, torch.randn(batch, 3, 64, 64), train=True)
        for batch in (4, 12)
    ]
    assert added == pytest.approx((peaks[1] - peaks[0]) / 8, rel=0.05)
    assert added > 3 * 64 * 64 * 4


def test_training_memory_tool(monkeypatch, capsys):
    tool = TOOL.with_name('training_memory.py')
    run_tool(monkeypatch, 'mmxvit.LOLViT:s', '--size', '64', tool=tool)
    row = capsys.readouterr().out.splitlines()[2].strip('| ').split(' | ')
    assert row[:3] == ['LOLViT:s', '1,056,669', '20']
    plain, saving = map(int, row[3:])
    assert 0 < saving < plain
    with pytest.raises(SystemExit, match=r'training_memory\.py: error: '):
        run_tool(monkeypatch, 'Nothing', tool=tool)


@pytest.mark.usefixtures('one_thread')
def test_memory_of_a_config_with_modules_of_its_own(tmp_path, monkeypatch):
    """The new process has to import them as well."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_models.py').write_text('''
import torch
from mmengine.registry import MODELS

@MODELS.register_module(force=True)
class MyModel(torch.nn.Conv2d):
    pass
''')
    file = tmp_path / 'mine.py'
    file.write_text('''
custom_imports = dict(imports=['my_models'])
model = dict(type='MyModel', in_channels=3, out_channels=4, kernel_size=1)
''')
    _, cfg = parse_model(str(file))
    settings = Settings(((8, 8), ), threads=1)
    memory = measure_memory(cfg, settings, tuned=False)
    assert memory[8, 8]['weights'] == 4 * (4 * 3 + 4)
    assert memory[8, 8]['peak_live'] == 4 * 64 * (3 + 4)


@pytest.mark.parametrize('keywords, named', [
    (dict(archh='xformer'), 'archh'),
    (dict(self=1), 'self'),
])
def test_keyword_that_a_class_does_not_take(keywords, named):
    with pytest.raises(ValueError, match=f'mmxvit.XFormer: .*{named}'):
        build_model(dict(type='mmxvit.XFormer', **keywords))


def test_mistake_inside_a_class_keeps_its_traceback(monkeypatch):
    from mmengine.registry import MODELS

    def broken():
        return 1 + '1'

    monkeypatch.setitem(MODELS._module_dict, 'Broken', broken)
    with pytest.raises(TypeError):
        build_model(dict(type='Broken'))


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('model', [
    dict(type='mmxvit.LOLViT', out_indices=(0, )),
    dict(type='mmpretrain.MobileViT', arch='xx_small'),
])
def test_fuse_is_the_same_for_all(model):
    if model['type'].startswith('mmpretrain'):
        pytest.importorskip('mmpretrain')
    norms = [
        sum(isinstance(m, nn.BatchNorm2d) for m in prepare(
            model, Settings(((64, 64), ), fuse=fused)).modules())
        for fused in (False, True)
    ]
    assert norms[0] > norms[1] == 0


def test_fuse_is_for_inference():
    with pytest.raises(ValueError, match='fuse'):
        Settings(((8, 8), ), mode='train', fuse=True)


def run_tool(monkeypatch, *args: str, tool: Path = TOOL) -> None:
    spec = importlib.util.spec_from_file_location(tool.stem, tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [tool.name, *args])
    module.main()


FULL = 'full=mmxvit.XFormer:xformer'
PART = "part=dict(type='mmxvit.XFormer', out_indices=(0, ))"
QUICK = ('--rounds', '2', '--min-time', '0', '--threads', '1')


@pytest.mark.usefixtures('one_thread')
def test_tool_infer(monkeypatch, capsys, tmp_path):
    table, plot = tmp_path / 'new' / 'b.csv', tmp_path / 'b.png'
    run_tool(monkeypatch, FULL, PART, '--sizes', '32', '64x32',
             '--baseline', 'part', '--csv', str(table), '--plot',
             str(plot), *QUICK)
    with open(table, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(r['model'], r['height'], r['width']) for r in rows] == [
        ('full', '32', '32'), ('part', '32', '32'),
        ('full', '64', '32'), ('part', '64', '32')
    ]
    for row in rows:
        low, mid, high = (
            float(row[f'{k}_ms']) for k in ('p10', 'median', 'p90'))
        assert 0 < low <= mid <= high
        assert row['steps'] == '2'
        assert (float(row['ratio']) == 1) == (row['model'] == 'part')
        assert row['allocator'] in ('tuned', 'default')
        assert row['torch'] == torch.__version__
        assert row['device_name'] and row['date']
        assert float(row['peak_process_mib']) > float(row['peak_live_mib'])
    small, large = rows[1], rows[3]
    assert float(large['peak_live_mib']) > float(small['peak_live_mib']) > 0
    # 4,803,158 parameters in float32, and the statistics of BatchNorm
    weights = float(rows[0]['weights_mib'])
    assert weights == float(rows[2]['weights_mib'])
    assert 4_803_158 * 4 < weights * 2**20 < 4_850_000 * 4
    assert plot.read_bytes().startswith(b'\x89PNG')
    out = capsys.readouterr()
    assert '64x32 (ratio to part)' in out.out
    assert 'building full' in out.err
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, FULL, '--csv', str(table))
    assert 'exists' in capsys.readouterr().err


def test_tool_runtimes(monkeypatch, capsys, tmp_path):
    for package in ('onnx', *PACKAGES):
        pytest.importorskip(package)
    table = tmp_path / 'b.csv'
    run_tool(monkeypatch, FULL, PART, '--sizes', '32', '--runtimes',
             '--csv', str(table), *QUICK)
    with open(table, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(r['runtime'], r['model']) for r in rows] == [
        (runtime, model) for runtime in ('torch', *PACKAGES)
        for model in ('full', 'part')]
    assert all(float(r['median_ms']) > 0 and r['fuse'] == 'True'
               for r in rows)
    assert 'in openvino' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, FULL, '--runtimes', '--dtype', 'bfloat16',
                 '--compile')
    assert '--runtimes cannot be used with --dtype, --compile' in \
        capsys.readouterr().err


@pytest.mark.usefixtures('one_thread')
def test_tool_train(monkeypatch, capsys):
    run_tool(monkeypatch, FULL, PART, '--sizes', '32', '--mode', 'train',
             '--batch', '2', '--dtype', 'bfloat16', '--channels-last',
             '--no-memory', *QUICK)
    assert 'train, batch 2, bfloat16' in capsys.readouterr().out


@pytest.mark.parametrize('args, message', [
    ((FULL, FULL), 'two models'),
    ((FULL, '--baseline', 'x'), 'expected one of full'),
    (("dict(type=open('x'))", ), 'call other than dict'),
    ((FULL, '--rounds', '0'), 'at least 1'),
    (("dict(type='mmxvit.XFormer', archh='xformer')", ), "argument 'archh'"),
])
def test_tool_refuses(monkeypatch, capsys, args, message):
    with pytest.raises(SystemExit) as end:
        run_tool(monkeypatch, *args)
    assert message in f'{end.value} {capsys.readouterr().err}'


@pytest.mark.usefixtures('one_thread')
def test_sizes_too_large_for_a_gpu(monkeypatch, capsys, tmp_path):
    """They are said to be so; the others and their ratios stay."""
    real = benchmark.run_model

    def run(model, images):
        if isinstance(model, XFormer) and images.shape[-1] > 32:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return real(model, images)

    monkeypatch.setattr(benchmark, 'run_model', run)
    table, plot = tmp_path / 'b.csv', tmp_path / 'b.png'
    run_tool(monkeypatch, FULL, 'mmxvit.LOLViT:s', '--sizes', '32', '64',
             '--no-memory', '--csv', str(table), '--plot', str(plot), *QUICK)
    with open(table, newline='') as file:
        rows = {(r['model'], r['height']): r for r in csv.DictReader(file)}
    assert float(rows['full', '32']['median_ms']) > 0
    assert rows['full', '64']['median_ms'] == 'OOM'
    assert rows['full', '64']['steps'] == '0'
    assert float(rows['LOLViT:s', '64']['median_ms']) > 0
    assert rows['LOLViT:s', '64']['ratio'] == ''
    assert 'OOM' in capsys.readouterr().out
    assert plot.exists()
    # at no size enough for one of the two
    run_tool(monkeypatch, FULL, 'mmxvit.LOLViT:s', '--sizes', '64',
             '--no-memory', '--plot', str(tmp_path / 'c.png'), *QUICK)


def test_compiled_models_get_their_samples():
    """Two-stage detectors read sizes from them."""

    class Detector(BaseModel):

        def forward(self, inputs, data_samples=None, mode='tensor'):
            height, width = data_samples[0].img_shape
            return inputs.sum() * height / width

    model, images = Detector(), torch.rand(1, 3, 4, 8)
    compiled = torch.compile(model, backend='eager')
    assert torch.equal(run_model(compiled, images), run_model(model, images))
