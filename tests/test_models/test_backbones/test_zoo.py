# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What every arch of every family has to do."""
import copy
import inspect
import itertools
import math
import warnings

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS

from mmxvit.hub import list_archs
from mmxvit.models import backbones

ZOO = [
    ('XFormer', 'xformer'),
    ('FcaFormer', 'l0'),
    ('FcaFormer', 'l1'),
    ('FcaFormer', 'l2'),
    ('FcaFormer', 'l3'),
    ('FcaFormer', 'l4'),
    ('CabViT', 'p-l0'),
    ('CabViT', 'h-l1'),
    ('CabViT', 'h-l2'),
    ('LOLViT', 's'),
    ('LOLViT', 'x'),
    ('LVT', 'lvt'),
    ('LVT', 'lvt-scaled'),
]
every_arch = pytest.mark.parametrize('family, arch', ZOO)
# larger, or other names for the same modules
SLOW = [('FcaFormer', 'l3'), ('FcaFormer', 'l4'), ('CabViT', 'p-l0'),
        ('CabViT', 'h-l2'), ('LVT', 'lvt-scaled')]
zoo = pytest.mark.parametrize('family, arch', [
    pytest.param(*entry, marks=pytest.mark.slow) if entry in SLOW else entry
    for entry in ZOO
])


def build(family, arch, **kwargs):
    return MODELS.build(dict(type=f'mmxvit.{family}', arch=arch, **kwargs))


def maps_of(model):
    return range(len(model.strides))


def subsets(items):
    return [
        c for n in range(1, len(items) + 1)
        for c in itertools.combinations(items, n)
    ]


def test_zoo_is_complete():
    assert sorted(ZOO) == sorted((name, arch)
                                 for name, archs in list_archs().items()
                                 for arch in archs)


@every_arch
@pytest.mark.parametrize('size', [(32, 32), (224, 224), (97, 130), (256, 320),
                                  (301, 230)])
def test_shapes_at_any_size(family, arch, size):
    model = build(family, arch)
    model.eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    assert isinstance(outs, tuple)
    assert len(outs) == len(model.out_channels) == len(model.out_strides)
    for out, channels, stride in zip(
            outs, model.out_channels, model.out_strides, strict=True):
        assert out.shape == (1, channels, *(math.ceil(s / stride)
                                            for s in size))
        assert out.is_contiguous() and out.isfinite().all()


@zoo
def test_every_subset_of_maps(family, arch):
    """Equal maps; later stages not built; a gradient for each parameter."""
    full = build(family, arch)
    x = torch.randn(2, 3, 64, 64)
    full.eval()
    expected = full(x)
    for indices in subsets(maps_of(full)):
        model = build(family, arch, out_indices=indices)
        assert model.out_indices == indices
        assert model.out_strides == tuple(full.strides[i] for i in indices)
        assert model.out_channels == tuple(full.out_channels[i]
                                           for i in indices)
        missing, _ = model.load_state_dict(full.state_dict(), strict=False)
        assert not missing
        model.eval()
        outs = model(x)
        for i, out in zip(indices, outs, strict=True):
            torch.testing.assert_close(out, expected[i])
        for training in (True, False):
            model.train(training).zero_grad()
            sum(out.square().sum() for out in model(x)).backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                # BatchNorm of the batch takes out a factor in front of it,
                # LOLViT's norm2.weight, whose gradient is rounding then
                assert training or parameter.grad.abs().sum() > 0, name


@zoo
def test_batch_invariance_and_determinism(family, arch):
    model = build(family, arch).double()
    model.eval()
    x = torch.randn(3, 3, 96, 64, dtype=torch.double)
    with torch.no_grad():
        batch, again = model(x), model(x)
        alone = [model(x[i:i + 1]) for i in range(3)]
    for level, out in enumerate(batch):
        assert torch.equal(out, again[level])
        torch.testing.assert_close(
            out, torch.cat([single[level] for single in alone]), rtol=1e-9,
            atol=1e-9)


@zoo
def test_checkpointing_equals_plain(family, arch):
    plain = build(family, arch, drop_path_rate=0.3)
    saving = build(family, arch, drop_path_rate=0.3, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96)
    results = []
    for model in (plain, saving):
        model.train()
        model.zero_grad()
        torch.manual_seed(1)
        outs = model(x)
        sum(out.square().mean() for out in outs).backward()
        results.append((outs, [p.grad for p in model.parameters()],
                        list(model.buffers())))
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


@zoo
def test_checkpointing_allows_two_backward_passes(family, arch):
    model = build(family, arch, with_cp=True)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    outs = model(torch.randn(2, 3, 64, 64))
    after_forward = [norm.running_mean.clone() for norm in norms]
    outs[0].sum().backward(retain_graph=True)
    outs[-1].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.stages.parameters())
    for norm, mean in zip(norms, after_forward, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert norm.num_batches_tracked == 1


@zoo
def test_trains_with_one_image(family, arch):
    model = build(family, arch)
    model.train()
    outs = model(torch.randn(1, 3, 65, 71))
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@zoo
def test_frozen_stages(family, arch):
    model = build(family, arch)
    for k in range(-1, len(maps_of(model)) + 1):
        model = build(family, arch, frozen_stages=k)
        model.train()
        frozen = [] if k < 0 else [model.stem, *model.stages[:k]]
        free = [model.stem] if k < 0 else []
        free += list(model.stages[max(k, 0):])
        for modules, is_free in ((frozen, False), (free, True)):
            for module in modules:
                assert module.training is is_free
                for child in module.modules():
                    assert child.training is is_free
                for parameter in module.parameters():
                    assert parameter.requires_grad is is_free
        if k <= len(maps_of(model)) - 1:
            outs = model(torch.randn(2, 3, 64, 64))
            outs[-1].sum().backward()
            assert all(p.grad is None for m in frozen for p in m.parameters())
        model.eval()
        assert not any(module.training for module in model.modules())


@zoo
def test_train_and_eval_return_the_model(family, arch):
    model = build(family, arch)
    assert model.train() is model
    assert model.eval() is model


@zoo
def test_norm_eval(family, arch):
    model = build(family, arch, norm_eval=True)
    model.train()
    norms = [
        m for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    model(torch.randn(2, 3, 64, 64))
    for norm, state in zip(norms, before, strict=True):
        assert not norm.training and norm.weight.requires_grad
        for key, value in norm.state_dict().items():
            assert torch.equal(value, state[key])


@zoo
def test_norm_cfg_replaces_batch_norms_only(family, arch):
    def count(model, kind):
        return sum(isinstance(m, kind) for m in model.modules())

    usual = build(family, arch)
    grouped = build(family, arch, norm_cfg=dict(type='GN', num_groups=1))
    batch_norm = nn.modules.batchnorm._BatchNorm
    assert count(grouped, batch_norm) == 0
    assert count(grouped, nn.GroupNorm) == count(usual, batch_norm)
    assert count(grouped, nn.LayerNorm) == count(usual, nn.LayerNorm)
    grouped(torch.randn(1, 3, 32, 32))
    sync = build(family, arch, norm_cfg=dict(type='SyncBN'))
    sync.eval()
    sync(torch.randn(1, 3, 32, 32))
    fixed = build(family, arch, norm_cfg=dict(type='BN', requires_grad=False))
    assert not any(p.requires_grad for m in fixed.modules()
                   if isinstance(m, batch_norm) for p in m.parameters())


@zoo
def test_drop_path_rises_linearly(family, arch):
    model = build(family, arch, drop_path_rate=0.2)
    rates = [
        m.p for m in model.modules() if type(m).__name__ == 'DropPath'
    ]
    expected = torch.linspace(0, 0.2, len(rates))
    torch.testing.assert_close(torch.tensor(rates), expected)
    x = torch.randn(16, 3, 32, 32)  # some sample drops a branch, if few do
    model.train()
    assert not torch.equal(model(x)[-1], model(x)[-1])


@zoo
def test_layer_depth(family, arch):
    model = build(family, arch)
    names = [name for name, _ in model.named_parameters()]
    depths = []
    for name in names:
        depth, layers = model.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert (depth, layers) == model.get_layer_depth(name)
        assert 0 <= depth < layers
        depths.append(depth)
    assert min(depths) == 0
    head_depth, layers = model.get_layer_depth('head.fc.weight', 'backbone.')
    # behind the last stage, where heads are, may be layers of the backbone
    in_stages = [d for n, d in zip(names, depths, strict=True)
                 if n.startswith('stages.')]
    assert head_depth == layers - 1 == max(in_stages) + 1 >= max(depths)
    assert in_stages[-1] == max(in_stages)


@zoo
def test_state_dict_and_pretrained(family, arch, tmp_path):
    source = build(family, arch)
    path = tmp_path / 'classifier.pth'
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(10, 10)
    torch.save(dict(state_dict=state, meta={}), path)
    x = torch.randn(1, 3, 64, 64)
    source.eval()
    weights = dict(type='Pretrained', checkpoint=str(path))
    for kwargs in (dict(init_cfg=dict(weights, prefix='backbone.')),
                   dict(init_cfg=dict(weights, prefix='backbone')),
                   dict(pretrained=str(path))):
        model = build(family, arch, **kwargs)
        model.init_weights()
        model.eval()
        for a, b in zip(model(x), source(x), strict=True):
            torch.testing.assert_close(a, b)
    part = build(family, arch, out_indices=(0, ), pretrained=str(path))
    part.init_weights()
    torch.testing.assert_close(part.eval()(x)[0], source(x)[0])


@zoo
def test_pretrained_of_another_model(family, arch, tmp_path):
    path = tmp_path / 'other.pth'
    state = {
        f'backbone.{k}': v
        for k, v in build(family, arch).state_dict().items()
    }
    key = next(k for k in state if k.endswith('conv.weight'))
    torch.save(dict(state_dict={k: v for k, v in state.items() if k != key}),
               path)
    with pytest.raises(RuntimeError) as error:
        build(family, arch, pretrained=str(path)).init_weights()
    assert str(path) in str(error.value)
    assert f'missing {key[len("backbone."):]}' in str(error.value)
    state[key] = torch.zeros(1, 2, 3, 3)
    torch.save(dict(state_dict=state), path)
    with pytest.raises(RuntimeError, match='size mismatch'):
        build(family, arch, pretrained=str(path)).init_weights()


@zoo
def test_versions_reach_the_load_hooks(family, arch, tmp_path):
    holder = nn.Module()
    holder.backbone = build(family, arch)
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=holder.state_dict()), path)
    model = build(family, arch, pretrained=str(path))
    seen = []
    # not public in torch 2.1
    model._register_load_state_dict_pre_hook(
        lambda state, prefix, metadata, *args: seen.append(metadata))
    model.init_weights()
    assert [metadata.get('version') for metadata in seen] == [1]


@zoo
@pytest.mark.parametrize('key, value', [
    ('pretrained', 'open-mmlab://resnet50_v1c'),
    ('init_cfg', 'timm://resnet50'),
])
def test_weights_of_stock_configs_are_ignored(family, arch, key, value):
    kwargs = {
        'pretrained': value
    } if key == 'pretrained' else {
        'init_cfg': dict(type='Pretrained', checkpoint=value)
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model = build(family, arch, **kwargs)
    messages = [str(w.message) for w in caught if value in str(w.message)]
    assert len(messages) == 1 and key in messages[0]
    model.init_weights()
    # a stock segmentor's `pretrained` beside an init_cfg of ours
    own = dict(type='Pretrained', checkpoint='own.pth')
    if key == 'pretrained':
        model = build(family, arch, pretrained=value, init_cfg=own)
        assert model.init_cfg == own


@zoo
def test_bfloat16_autocast(family, arch):
    model = build(family, arch)
    model.train()
    x = torch.randn(4, 3, 128, 128)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            outs = model(x)
    for out, exact in zip(outs, expected, strict=True):
        assert out.isfinite().all()
        error = (out.float() - exact).norm() / exact.norm()
        assert error < 0.15  # 8 bits through all layers; noise would give 1
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = sum(out.float().square().mean() for out in model(x))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@zoo
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_on_a_gpu(family, arch, dtype):
    model = build(family, arch).cuda()
    model.train()
    x = 1000 * torch.randn(4, 3, 128, 128, device='cuda')
    with torch.autocast('cuda', dtype):
        outs = model(x)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.usefixtures('half_on_cpu')
@zoo
@pytest.mark.parametrize('training', [True, False])
def test_float16_autocast(family, arch, training):
    model = build(family, arch)
    model.train(training)
    x = torch.randn(2, 3, 64, 96)
    with torch.autocast('cpu', torch.float16):
        try:
            outs = model(x)
        except RuntimeError as error:
            if "not implemented for 'Half'" in str(error):
                pytest.skip(str(error))
            raise
        loss = sum(out.float().square().mean() for out in outs)
    loss.backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@zoo
def test_padding_does_not_blow_up_gradients(family, arch):
    """Of images of which half is nothing but padding."""
    model = build(family, arch).train()
    images = torch.randn(2, 3, 96, 96)
    norms = []
    for padded in (False, True):
        if padded:
            images[..., 48:] = 0.
        model.zero_grad()
        sum(x.square().mean() for x in model(images)).backward()
        norms.append(torch.stack(
            [p.grad.norm() for p in model.parameters()]).norm())
    assert norms[1] < 20 * norms[0], norms


@zoo
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('value', ['x1000', 'zero', 'constant'])
def test_extreme_images_stay_finite(family, arch, value, training, half):
    model = build(family, arch)
    model.train(training)
    size = (2, 3, 65, 98)
    x = dict(
        x1000=1000 * torch.randn(size),
        zero=torch.zeros(size),
        constant=torch.full(size, 3.))[value]
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        outs = model(x)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@zoo
def test_layout_in_is_layout_out(family, arch):
    model = build(family, arch)
    model.eval()
    x = torch.randn(2, 3, 64, 96)
    last = x.contiguous(memory_format=torch.channels_last)
    for a, b in zip(model(x), model(last), strict=True):
        assert a.is_contiguous()
        assert b.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b)


@zoo
def test_jit_trace_at_another_size(family, arch):
    model = build(family, arch)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64))
    for size in ((64, 64), (96, 128), (97, 130)):
        x = torch.randn(1, 3, *size)
        for a, b in zip(traced(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@zoo
def test_compiles_without_a_graph_break(family, arch):
    model = build(family, arch)
    model.eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(a, b)


@zoo
def test_bad_input(family, arch):
    model = build(family, arch)
    name = type(model).__name__
    with pytest.raises(ValueError, match=f'{name}.*smallest input is'):
        model(torch.randn(1, 3, model.min_size - 1, 64))
    with pytest.raises(ValueError, match='shape'):
        model(torch.randn(1, 4, 64, 64))
    with pytest.raises(ValueError, match='shape'):
        model(torch.randn(3, 64, 64))
    assert build(family, arch, in_channels=4)(torch.randn(2, 4, 64, 64))


@zoo
@pytest.mark.parametrize('out_indices', [(4, ), (-1, ), (0, 0), (1, 0), ()])
def test_bad_out_indices(family, arch, out_indices):
    with pytest.raises(ValueError, match='out_indices'):
        build(family, arch, out_indices=out_indices)


COMMON = [
    'arch', 'in_channels', 'out_indices', 'frozen_stages', 'norm_eval',
    'with_cp', 'drop_path_rate', 'norm_cfg', 'act_cfg', 'init_cfg'
]


@pytest.mark.parametrize('family', list_archs())
def test_keywords_have_the_same_names_and_order(family):
    names = list(inspect.signature(getattr(backbones, family)).parameters)
    assert names[:len(COMMON)] == COMMON and names[-1] == 'pretrained'


@zoo
@pytest.mark.parametrize('path', ['', True, dict(type='Pretrained')])
def test_pretrained_that_is_no_path(family, arch, path):
    with pytest.raises(ValueError, match='path or URL'):
        if isinstance(path, dict):
            build(family, arch, init_cfg=path)
        else:
            build(family, arch, pretrained=path)


@zoo
def test_arch_with_another_number_of_stages(family, arch):
    settings = getattr(backbones, family).arch_settings[arch]
    longer = {k: (*v, v[-1]) if isinstance(v, tuple) else v
              for k, v in settings.items()}
    with pytest.raises(ValueError, match='one for every stage'):
        build(family, longer)
    one = next(k for k, v in settings.items() if isinstance(v, tuple))
    with pytest.raises(ValueError, match='one for every stage'):
        build(family, dict(settings, **{one: longer[one]}))


@zoo
def test_bad_arguments(family, arch):
    with pytest.raises(ValueError, match=repr(arch)):
        build(family, 'no-such-arch')
    with pytest.raises(ValueError, match='keys'):
        build(family, dict(depth=3))
    with pytest.raises(ValueError, match='frozen_stages=9'):
        build(family, arch, frozen_stages=9)
    with pytest.raises(ValueError, match='drop_path_rate'):
        build(family, arch, drop_path_rate=1.)
    usual = build(family, arch)
    if any(isinstance(m, nn.BatchNorm2d) for m in usual.modules()):
        with pytest.raises(ValueError, match='norm_cfg'):
            build(family, arch, norm_cfg=dict(type='NoNorm'))
    with pytest.raises(ValueError, match='not both'):
        build(family, arch, pretrained='a.pth', init_cfg=dict(type='x'))
