# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What training scripts wrap weights in, and what is wrong with files."""
import argparse
import hashlib
import os
import runpy
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmxvit.converters import common, fcaformer, lvt
from mmxvit.engine.command import UserError
from mmxvit.models import LVT, FcaFormer

from ..golden import Golden

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'model_converters'


def tool(family):
    return TOOLS / f'{family}_to_mmxvit.py'


MAIN = {family: runpy.run_path(str(tool(family)))['main']
        for family in ('lvt', 'fcaformer', 'cabvit')}


@pytest.fixture(scope='module')
def dense():
    """An LVT backbone; the names of its classifier's begin alike."""
    return Golden('lvt_dense').state_dict()


@pytest.fixture(scope='module')
def classifier():
    """FcaFormer-L1."""
    return Golden('fcaformer_l1').state_dict()


@pytest.fixture
def convert(tmp_path):
    """Save an object, convert the file, load the result."""

    def run(checkpoint, *options, family='lvt', **save_options):
        torch.save(checkpoint, tmp_path / 'source.pth', **save_options)
        MAIN[family]([str(tmp_path / 'source.pth'),
                      str(tmp_path / 'out/converted.pth'), *options])
        return torch.load(tmp_path / 'out/converted.pth', weights_only=True)

    return run


@pytest.fixture
def refuse(convert, tmp_path, capsys):
    """Message of a conversion that has to end with status 1, without files."""

    def run(*args, **kwargs):
        command = tool(kwargs.get('family', 'lvt'))
        with pytest.raises(SystemExit) as error:
            convert(*args, **kwargs)
        message = str(error.value)
        assert message.startswith('error: ') and command.is_file()
        assert str(tmp_path / 'source.pth') in message
        assert not (tmp_path / 'out').exists()
        assert not capsys.readouterr().out
        return message

    return run


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope='module')
def expected(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp('plain')
    torch.save(dense, folder / 'source.pth')
    MAIN['lvt']([str(folder / 'source.pth'), str(folder / 'out.pth')])
    return torch.load(folder / 'out.pth', weights_only=True)['state_dict']


def test_all_that_the_model_has(expected):
    model = LVT()
    assert list(expected) == [f'backbone.{k}' for k in model.state_dict()]
    model.load_state_dict({k.removeprefix('backbone.'): v
                           for k, v in expected.items()})


def test_meta(convert, dense, tmp_path):
    converted = convert(dense)
    source = (tmp_path / 'source.pth').read_bytes()
    assert set(converted) == {'state_dict', 'meta'}
    assert converted['meta'] == dict(
        family='LVT', arch='lvt', kind='dense',
        sha256=hashlib.sha256(source).hexdigest())


def deit(state):
    """DeiT's main.py."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    return dict(
        model=state, optimizer=optimizer.state_dict(),
        lr_scheduler=dict(base_values=[0.1], t_in_epochs=True), epoch=299,
        scaler=dict(scale=65536.), args=argparse.Namespace(lr=0.1, data='x'))


def timm(state):
    return dict(
        epoch=9, arch='lvt', state_dict=state, optimizer={}, version=2,
        args=argparse.Namespace(model='lvt'), amp_scaler={},
        metric=np.float64(74.8), loss=torch.tensor(2.))


def mmcv(state):
    state = OrderedDict(state)
    state._metadata = OrderedDict({'': dict(version=1)})
    return dict(
        meta=dict(epoch=36, iter=7, config='model = dict()', CLASSES=('a', ),
                  time='Mon', hook_msgs={}),
        state_dict=state, optimizer=dict(state={}, param_groups=[]))


def mmengine(state):
    return dict(
        state_dict=state, meta=dict(epoch=1), message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([1.], [1])),
            runtime_info=dict(best=np.int64(3), scores=np.arange(3.))))


def modules(state, prefix='module.'):
    return {prefix + key: value for key, value in state.items()}


WRAPPERS = dict(
    plain=dict,
    deit=deit,
    timm=timm,
    mmcv=mmcv,
    mmengine=mmengine,
    ddp=modules,
    ddp_twice=lambda s: modules(s, 'module.module.'),
    deit_ddp=lambda s: deit(modules(s)),
    nested=lambda s: dict(model=dict(state_dict=modules(s), epoch=3)),
    nested_again=lambda s: dict(state_dict=dict(model=dict(module=s))),
    model_named=lambda s: dict(model='lvt', state_dict=s),
    parameters=lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point()
                          else v for k, v in s.items()})


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers(convert, dense, expected, wrap):
    assert same(convert(wrap(dense))['state_dict'], expected)


def test_format_of_old_torch(convert, dense, expected):
    converted = convert(mmcv(dense), _use_new_zipfile_serialization=False)
    assert same(converted['state_dict'], expected)


@pytest.mark.parametrize('wrap', [
    lambda s, ema: dict(deit(s), model_ema=ema),
    lambda s, ema: dict(timm(s), state_dict_ema=modules(ema)),
    lambda s, ema: dict(deit(s), model_ema=dict(state_dict=ema)),
    lambda s, ema: dict(state_dict=dict(model=s, model_ema=ema)),
    lambda s, ema: dict(model=dict(model_ema=ema)),
], ids=['deit', 'timm', 'nested', 'nested beside', 'alone'])
def test_moving_average(convert, refuse, dense, expected, wrap):
    other = {k: v + 1 for k, v in dense.items()}
    checkpoint = wrap(other, dense)
    if 'model_ema' in checkpoint.get('model', ()):
        assert 'has only a moving average' in refuse(checkpoint)
    else:
        plain = convert(checkpoint)['state_dict']
        assert plain.keys() == expected.keys() and not same(plain, expected)
    assert same(convert(checkpoint, '--ema', '--force')['state_dict'],
                expected)


@pytest.mark.parametrize('wrap', [dict, timm,
                                  lambda s: dict(deit(s), model_ema=None)])
def test_no_moving_average(refuse, dense, wrap):
    message = refuse(wrap(dense), '--ema')
    assert 'has no moving average' in message and 'without --ema' in message


def detector(state):
    """A two-stage detector that mmcv 1.x has saved."""
    parts = ('neck.lateral_convs.0.conv.weight', 'rpn_head.rpn_conv.weight',
             'rpn_head.rpn_conv.bias', 'roi_head.bbox_head.fc_cls.weight')
    return mmcv({**modules(state, 'backbone.'),
                 **{key: torch.zeros(1) for key in parts}})


def segmentor(state):
    parts = ('decode_head.conv_seg.weight', 'decode_head.bn.running_mean',
             'decode_head.bn.num_batches_tracked',
             'auxiliary_head.0.conv_seg.weight')
    return mmcv(modules({**modules(state, 'backbone.'),
                         **{key: torch.zeros(1) for key in parts}}))


@pytest.mark.parametrize('wrap, left_out', [
    (detector, 'neck (1 entries), rpn_head (2 entries), roi_head (1 entries)'),
    (segmentor, 'decode_head (3 entries), auxiliary_head (1 entries)'),
    (lambda s: modules(s, 'backbone.'), None),
], ids=['detector', 'segmentor', 'its backbone'])
@pytest.mark.parametrize('family', ['lvt', 'fcaformer'])
def test_backbone_of_a_whole_model(convert, dense, expected, capsys, wrap,
                                   left_out, family):
    """An LVT's own names begin with ``backbone.`` a second time."""
    if family == 'fcaformer':
        dense = Golden('fcaformer_l2_dense').state_dict()
        expected = convert(dense, family=family)['state_dict']
        capsys.readouterr()
    converted = convert(wrap(dense), '--force', family=family)
    assert same(converted['state_dict'], expected)
    assert converted['meta']['kind'] == 'dense'
    lines = capsys.readouterr().out.splitlines()
    assert [x for x in lines if x.startswith('left out')] == (
        [f'left out: {left_out}'] if left_out else [])


def test_what_is_said(convert, classifier, tmp_path, capsys):
    convert(deit(classifier), family='fcaformer')
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path}/source.pth: FcaFormer, arch l1, classifier, 320 entries',
        f'{tmp_path}/out/converted.pth: written, 316 under backbone., '
        '4 under head.'
    ]


def test_counters_may_be_absent(convert, classifier, capsys):
    counters = [k for k in classifier if k.endswith('num_batches_tracked')]
    old = {k: v for k, v in classifier.items() if k not in counters}
    converted = convert(old, family='fcaformer')['state_dict']
    assert f'set to 0: {len(counters)} counters' in capsys.readouterr().out
    counted = {k: v + 5 if k in counters else v
               for k, v in classifier.items()}
    full = convert(counted, '--force', family='fcaformer')['state_dict']
    assert list(full) == list(converted)
    for key, value in full.items():
        if key.endswith('num_batches_tracked'):
            assert value == 5 and converted[key] == 0
            assert converted[key].dtype == value.dtype
        else:
            assert torch.equal(converted[key], value)
    FcaFormer('l1', out_dims=None).load_state_dict({
        k.removeprefix('backbone.'): v for k, v in converted.items()
        if k.startswith('backbone.')})


def test_number_of_classes_is_read_off(convert, classifier):
    tuned = dict(classifier)
    for key in ('head.weight', 'head.bias'):
        tuned[key] = tuned[key][:7]
    converted = convert(tuned, family='fcaformer')
    assert converted['state_dict']['head.fc.weight'].shape == (7, 320)


def test_tensors_of_their_own(convert, dense):
    """No views of the storages that the source has."""
    pool = torch.cat([v.flatten() for v in dense.values()])
    views = pool.split([v.numel() for v in dense.values()])
    state = {k: view.view(v.shape)
             for (k, v), view in zip(dense.items(), views, strict=True)}
    key = 'backbone.0.1.0.mlp.fc1.weight'
    state[key] = torch.nn.Parameter(state[key].t().contiguous()).t()
    converted = convert(state)['state_dict']
    pointers = {v.untyped_storage().data_ptr() for v in converted.values()}
    assert len(pointers) == len(converted)
    for value in converted.values():
        assert type(value) is torch.Tensor and not value.requires_grad
        assert value.is_contiguous() and value.device.type == 'cpu'
        assert value.untyped_storage().nbytes() == (
            value.numel() * value.element_size())


@pytest.mark.parametrize('change, listed', [
    (lambda s: s.update({'extra.weight': torch.zeros(1)}),
     'unknown (1):\n  extra.weight'),
    (lambda s: s.update(neck=torch.zeros(1), epoch=3),
     'unknown (1):\n  epoch'),
    (lambda s: s.update({'backbone.4.0.proj.weight': torch.zeros(1)}),
     'unknown (1):\n  backbone.4.0.proj.weight'),
    (lambda s: s.update({'backbone.3.1.2.norm1.weight': torch.zeros(256)}),
     'unknown (1):\n  backbone.3.1.2.norm1.weight'),
    (lambda s: s.update({'backbone.0.0.proj.weight_g': torch.zeros(256)}),
     'unknown (1):\n  backbone.0.0.proj.weight_g'),
    (lambda s: s.pop('backbone.2.1.1.attn.proj.bias'),
     'missing (1):\n  backbone.2.1.1.attn.proj.bias '
     '(ours: backbone.stages.2.2.attn.proj.bias)'),
    (lambda s: s.update({'backbone.2.1.1.norm1.bias': torch.zeros(161)}),
     'of another shape or type (1):\n'
     '  backbone.2.1.1.norm1.bias: (161,) here, expected (160,)'),
    (lambda s: s.update({'backbone.0.1.0.attn.attn.bias': torch.zeros(7)}),
     'of another shape or type (1):\n'
     '  backbone.0.1.0.attn.attn.bias: (7,)'),
    (lambda s: s.update({'backbone.2.1.1.norm1.bias': torch.zeros(
        160, dtype=torch.long)}),
     'of another shape or type (1):\n  backbone.2.1.1.norm1.bias: torch.int64 '
     'here, expected torch.float32'),
    (lambda s: s.update({'backbone.2.1.1.norm1.bias': 'text'}),
     'unknown (1):\n  backbone.2.1.1.norm1.bias\nmissing (1):'),
], ids=['entry', 'number', 'stage', 'block', 'leaf', 'missing', 'shape',
        'no reshape', 'integers', 'no tensor'])
def test_unknown_missing_misshapen_entries(refuse, dense, change, listed):
    state = dict(dense)
    change(state)
    state.pop('neck', None)
    message = refuse(state)
    assert 'is not exactly LVT, arch lvt, dense' in message
    assert listed in message


def test_all_of_them_are_listed(refuse, dense):
    state = {f'extra.{i}': torch.zeros(1) for i in range(50)}
    message = refuse({**dense, **state})
    assert all(f'\n  {key}\n' in message for key in state)


@pytest.mark.parametrize('family, name', [
    (lvt, 'lvt_cls'), (lvt, 'lvt_dense'), (fcaformer, 'fcaformer_l1'),
    (fcaformer, 'fcaformer_l2_dense')
], ids=['LVT', 'LVT dense', 'FcaFormer', 'FcaFormer dense'])
def test_each_entry_is_missed(family, name, monkeypatch):
    """Whichever is absent, arch and kind are still recognised."""
    pytest.importorskip('mmpretrain')
    state = {entry: torch.empty(shape, device='meta')
             for entry, shape, _ in Golden(name).entries}
    arch, kind = family.detect(state)
    full = common._expected(family, arch, kind, {
        family.rename(k, kind): v for k, v in state.items()})
    monkeypatch.setattr(common, '_expected', lambda *args: full)
    assert set(full[0]) == {family.rename(key, kind) for key in state}
    for key in state:
        if key.endswith('num_batches_tracked'):
            continue
        rest = {k: v for k, v in state.items() if k != key}
        with pytest.raises(UserError) as error:
            common.convert(family, rest)
        report = str(error.value).splitlines()[1:3]
        assert report == ['missing (1):',
                          f'  {key} (ours: {family.rename(key, kind)})']


def test_unknown_part_of_a_whole_model(refuse, dense):
    checkpoint = detector(dense)
    checkpoint['state_dict']['extra.weight'] = torch.zeros(1)
    assert 'unknown (1):\n  extra.weight\n' in refuse(checkpoint)


def test_two_names_for_one_entry(refuse, classifier):
    state = dict(classifier)
    key = 'layer_0.blocks.0.norm.weight'
    state[key.replace('.0.', '.00.')] = state[key]
    assert 'unknown (1):\n  layer_0.blocks.00.norm.weight' in refuse(
        state, family='fcaformer')
    assert 'with and without "module."' in refuse(
        {**classifier, f'module.{key}': state[key]}, family='fcaformer')


def gammas(depths, dims):
    """What tells the archs of FcaFormer apart."""
    return {
        f'layer_{stage}.blocks.{i}.{"gamma" if stage < 2 else "gamma_1"}':
        torch.zeros(dims[stage])
        for stage in range(4) for i in range(depths[stage])
    }


def test_another_family(refuse, dense, classifier):
    for state, family, name, right in (
            (dense, 'fcaformer', 'LVT (arch lvt, dense)', 'lvt'),
            (detector(dense), 'cabvit', 'LVT (arch lvt, dense)', 'lvt'),
            (classifier, 'lvt', 'FcaFormer (arch l1, classifier)',
             'fcaformer'),
            # CabViT has the smaller of FcaFormer's networks only
            (gammas((3, 6, 12, 3), (96, 192, 320, 512)), 'cabvit',
             'FcaFormer (arch l3, dense)', 'fcaformer')):
        message = refuse(state, family=family)
        assert f'is of another family, {name}' in message
        assert f'use tools/model_converters/{right}_to_mmxvit.py' in message
        assert tool(right).is_file()


def test_another_model(refuse, dense):
    from torch.nn import Linear
    message = refuse(Linear(2, 2).state_dict())
    assert 'is no LVT: no entry backbone.0.1.*' in message
    assert 'Its entries are weight, bias' in message
    message = refuse(gammas((1, 1, 1, 1), (8, 8, 8, 8)), family='cabvit')
    assert 'is no CabViT: widths [8, 8, 8, 8]' in message
    message = refuse(modules(gammas((1, 1, 1, 1), (8, 8, 8, 8)), 'backbone.'),
                     family='cabvit')
    assert "under 'backbone.', widths [8, 8, 8, 8]" in message
    state = {k: torch.tensor(0.) for k in gammas((1, 1, 1, 1), (1, ) * 4)}
    assert 'is no FcaFormer' in refuse(state, family='fcaformer')


def test_converted_already(refuse, expected):
    message = refuse(dict(state_dict=expected, meta={}))
    assert 'has the names of mmxvit already' in message


@pytest.mark.parametrize('checkpoint, message', [
    ({}, 'nothing'),
    (dict(state_dict={}, epoch=3), 'has no weights'),
    (dict(net=dict(weight=torch.zeros(1)), epoch=3), 'but net, epoch'),
])
def test_no_weights(refuse, checkpoint, message):
    assert message in refuse(checkpoint)


class Evil:

    def __reduce__(self):
        return os.mkdir, ('made', )


@pytest.mark.parametrize('where', ['state_dict', 'args'])
def test_code_is_refused_and_never_run(refuse, dense, tmp_path, where):
    checkpoint = {'state_dict': dense, where: Evil()}
    message = refuse(checkpoint)
    assert 'asks to run posix.mkdir' in message
    assert not Path('made').exists()
    torch.load(tmp_path / 'source.pth', weights_only=False)
    assert Path('made').exists()  # it would do harm


def test_unreadable_source(dense, tmp_path):
    source, target = tmp_path / 'source.pth', tmp_path / 'out.pth'
    torch.save(dense, source)
    whole = source.read_bytes()
    for content, message in ((whole[:len(whole) // 2], 'truncated'),
                             (b'', 'is empty'), (b'text', 'not a PyTorch')):
        source.write_bytes(content)
        with pytest.raises(SystemExit, match=rf'source\.pth.*{message}'):
            MAIN['lvt']([str(source), str(target)])
    with pytest.raises(SystemExit, match='no such file; that folder has sou'):
        MAIN['lvt']([str(tmp_path / 'surce.pth'), str(target)])
    with pytest.raises(SystemExit, match='is a folder'):
        MAIN['lvt']([str(tmp_path), str(target)])
    assert not target.exists()


def test_existing_target(convert, dense, expected, tmp_path):
    target = tmp_path / 'out' / 'converted.pth'
    target.parent.mkdir()
    target.write_text('mine')
    with pytest.raises(SystemExit, match='exists already.*--force'):
        convert(dense)
    with pytest.raises(SystemExit, match=r'unknown \(1\)'):
        convert(dict(dense, extra=torch.zeros(1)), '--force')
    assert target.read_text() == 'mine'
    assert same(convert(dense, '--force')['state_dict'], expected)
    assert os.listdir(target.parent) == ['converted.pth']


def test_target_that_cannot_be_written(dense, tmp_path):
    source = tmp_path / 'source.pth'
    torch.save(dense, source)
    before = source.read_bytes()
    for target, message in ((source, 'is the file to convert'),
                            (tmp_path, 'is a folder'),
                            (source / 'out.pth', 'cannot be written')):
        with pytest.raises(SystemExit, match=message):
            MAIN['lvt']([str(source), str(target), '--force'])
    assert source.read_bytes() == before
    assert os.listdir(tmp_path) == ['source.pth']


def test_without_mmpretrain(convert, classifier, tmp_path):
    """Whoever needs the backbone only can convert a classifier."""
    expected = convert(classifier, family='fcaformer')
    code = ('import runpy, sys; sys.modules["mmpretrain"] = None; '
            f'sys.argv[0] = {str(tool("fcaformer"))!r}; '
            'runpy.run_path(sys.argv[0], run_name="__main__")')
    command = [sys.executable, '-W', 'ignore', '-c', code,
               str(tmp_path / 'source.pth'), str(tmp_path / 'new.pth')]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ('not checked whether all entries of the head are there: '
            'mmxvit.LayerNormClsHead: needs mmpretrain') in result.stdout
    converted = torch.load(tmp_path / 'new.pth', weights_only=True)
    assert same(converted['state_dict'], expected['state_dict'])
    assert converted['meta'] == expected['meta']
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and not again.stdout
    assert again.stderr.strip() == (
        f'error: {tmp_path}/new.pth: exists already; remove it, choose '
        'another name or give --force')


def test_classifier_of_token_means(convert):
    """LVT's second kind of classifier, which has no class attention."""
    state = {k: v for k, v in Golden('lvt_cls').state_dict().items()
             if not k.startswith(('cls_token', 'post_network.', 'aux_head.'))}
    converted = convert(state)
    assert converted['meta']['kind'] == 'classifier-mean'
    heads = [k for k in converted['state_dict'] if k.startswith('head.')]
    assert sorted(heads) == ['head.fc.bias', 'head.fc.weight',
                             'head.norm.bias', 'head.norm.weight']


@pytest.mark.parametrize('family', ['fcaformer', 'cabvit'])
def test_widths_of_output_projections_are_read_off(convert, family):
    state = Golden('fcaformer_l2_dense').state_dict()
    converted = convert(state, family=family)
    arch = dict(fcaformer='l2', cabvit='h-l2')[family]
    assert (converted['meta']['arch'], converted['meta']['kind']) == (arch,
                                                                     'dense')
    weight = converted['state_dict']['backbone.outputs.3.conv.weight']
    assert weight.shape == (768, 480, 1, 1)
    # the same networks without: what is left are the stages
    native = {k: v for k, v in state.items()
              if not k.startswith(('head', 'norm'))}
    stages = convert(native, '--force', family=family)['state_dict']
    assert len(stages) == len(converted['state_dict']) - 12
    assert not any('outputs' in key for key in stages)


def test_a_part_of_the_output_projections_is_missed(refuse):
    state = Golden('fcaformer_l2_dense').state_dict()
    del state['norm2.weight']
    message = refuse(state, family='fcaformer')
    assert 'norm2.weight (ours: backbone.outputs.2.norm.weight)' in message


def test_numbers_that_are_none(refuse, dense):
    state = dict(dense)
    state['backbone.0.0.norm.bias'] = torch.full((64, ), torch.nan)
    assert 'not finite (1):\n  backbone.0.0.norm.bias' in refuse(state)


@pytest.mark.parametrize('extra', [ConfigDict(a=1), slice(1),
                                   frozenset([1])])
def test_objects_of_other_scripts_only(refuse, dense, extra):
    """What MMEngine's runner may save is let through nowhere else."""
    assert 'asks to run' in refuse(dict(state_dict=dense, meta=extra))
