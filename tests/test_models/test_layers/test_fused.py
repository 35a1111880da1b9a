# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn as nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmxvit.models.attentions.linear import Linear
from mmxvit.models.backbones.lolvit import FeatureFusion, LOLViTBlock
from mmxvit.models.backbones.lvt import MLP
from mmxvit.models.layers import (
    FFN,
    ConvNormAct,
    GhostBlock,
    GhostConv,
    InvertedResidual,
    build_act,
    fused,
    layer_act,
)
from mmxvit.models.layers.conv import SMALL_MAP
from mmxvit.utils.compat import conv_pointwise

FUSED = 'mkldnn::_convolution_pointwise'
RUNS = conv_pointwise is not None


def operators(function):
    """Result of a function and the operators that ran."""
    with torch.profiler.profile() as profile:
        out = function()
    return out, {event.name for event in profile.events()}


@pytest.mark.parametrize('act', [
    nn.Identity(),
    build_act(dict(type='ReLU', inplace=True)),
    build_act(dict(type='SiLU')),
    build_act(dict(type='GELU')),
])
@pytest.mark.parametrize('layer, shape', [
    (nn.Conv2d(6, 8, 3, 2, 1), (2, 6, 9, 7)),
    (nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8, bias=False),
     (1, 8, 11, 12)),
    (Linear(256, 512), (2, 32, 17, 256)),
])
def test_layer_and_activation(layer, shape, act):
    x = torch.randn(shape)
    expected = act(layer(x))
    with torch.no_grad():
        out, names = operators(lambda: layer_act(layer, act, x))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert (FUSED in names) == RUNS


def test_where_it_cannot_run():
    """With autograd, hooks, other types and other activations."""
    x = torch.randn(1, 4, 6, 6)
    relu, conv = nn.ReLU(), nn.Conv2d(4, 4, 3)

    def runs(act=relu, conv=conv, x=x):
        out, names = operators(lambda: layer_act(conv, act, x))
        torch.testing.assert_close(out, act(conv(x)))
        return FUSED in names

    assert not runs()
    with torch.no_grad():
        assert runs() == RUNS
        assert not runs(nn.GELU(approximate='tanh'))
        assert not runs(nn.Tanh())
        assert not runs(conv=nn.Conv2d(4, 4, 3).double(), x=x.double())
        with torch.autocast('cpu', torch.bfloat16):
            assert not runs()
        with torch.backends.mkldnn.flags(enabled=False):
            assert not runs()
        for module in (conv, relu):
            seen = []
            handle = module.register_forward_hook(
                lambda *args, seen=seen: seen.append(args[2]))
            layer_act(conv, relu, x)
            assert len(seen) == 1
            handle.remove()


class Wrapper(nn.Module):
    """As those of LoRA: no weight, and more than the layer gives."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


class Shifted(nn.Conv2d):

    def forward(self, x):
        return super().forward(x) + 1


def patched():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    conv.forward = lambda x: x + 1
    return conv


@pytest.mark.parametrize('layer', [
    Wrapper(nn.Conv2d(4, 4, 3, padding=1)),
    Shifted(4, 4, 3, padding=1),
    patched(),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode='circular'),
    nn.Conv2d(4, 4, 3, padding='same'),
])
@pytest.mark.parametrize('grad', [True, False])
def test_layers_that_do_something_else_are_called(layer, grad):
    x, act = torch.randn(2, 4, 6, 6), nn.ReLU()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer_act(layer, act, x), act(layer(x)))
        # a depthwise convolution of LVT, that of a folded block
        mlp = MLP(4, 1, True, dict(type='ReLU'))
        mlp.depthwise = layer
        torch.testing.assert_close(
            mlp(x), mlp.fc2(mlp.act(layer(mlp.fc1(x)))))
        block = ConvNormAct(4, 4, 3, act_cfg=dict(type='ReLU')).eval()
        block.conv = layer
        torch.testing.assert_close(
            block(x), block.act(block.norm(layer(x))))


def test_derivatives_forward_and_errors_are_those_of_the_layer():
    conv, relu = nn.Conv2d(1, 1, 1), nn.Sigmoid()
    silu = nn.SiLU()
    x = torch.randn(1, 1, 3, 3)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(layer_act(conv, silu, dual)).tangent
        expected = forward_ad.unpack_dual(silu(conv(dual))).tangent
    torch.testing.assert_close(tangent, expected)
    with torch.no_grad():
        assert layer_act(conv, silu, x[0]).shape == (1, 3, 3)
        with pytest.raises(RuntimeError, match='same'):
            layer_act(conv.double(), relu, x)


def test_global_hooks_see_both():
    conv, relu, seen = nn.Conv2d(1, 1, 1), nn.ReLU(), []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *args: seen.append(module))
    try:
        with torch.no_grad():
            layer_act(conv, relu, torch.zeros(1, 1, 3, 3))
    finally:
        handle.remove()
    assert seen == [conv, relu]


def test_ffn_is_its_layers():
    layers = [nn.LayerNorm(256), Linear(256, 512), nn.GELU(),
              Linear(512, 256)]
    x = torch.randn(1, 1024, 256)  # enough for a convolution
    ffn = FFN(*layers)
    with torch.no_grad():
        out, names = operators(lambda: ffn(x))
        assert (FUSED in names) == RUNS
        torch.testing.assert_close(
            out, nn.Sequential(*layers)(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ffn[:1](x), layers[0](x))
    assert ffn[1] is layers[1]


def test_folded_block_without_autograd():
    layer = ConvNormAct(4, 8, 3, act_cfg=dict(type='SiLU')).eval()
    nn.init.normal_(layer.norm.running_mean)
    nn.init.uniform_(layer.norm.running_var, .5, 2)
    x = torch.randn(2, 4, 9, 7)
    expected = layer(x)
    with torch.no_grad():
        out, names = operators(lambda: layer(x))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert (FUSED in names) == RUNS


@pytest.mark.parametrize('block', [
    InvertedResidual(4, 4, 1, 2, 2, dict(type='BN'), dict(type='SiLU')),
    GhostBlock(4, 6, 2, True, dict(type='BN'), dict(type='ReLU')),
])
def test_gate_of_one_image_goes_into_weights(block):
    block.eval()
    nn.init.ones_(block.se.reduce.bias)  # none of its units is dead
    x = torch.randn(2, 4, 8, 9)
    gates = []
    block.se.expand.register_forward_hook(
        lambda module, args, out: gates.append(out))
    with torch.no_grad():
        both = block(x)
        for i in range(2):
            torch.testing.assert_close(
                block(x[i:i + 1]), both[i:i + 1], rtol=1e-5, atol=1e-5)
    assert (gates[1] - gates[2]).abs().max() > 0
    se, project = block.se, block.project
    hidden = torch.randn(2, se.expand.out_channels, 8, 9)
    with torch.no_grad():
        same, gate = se.before(project, hidden[:1])
        assert same.data_ptr() == hidden.data_ptr()
        torch.testing.assert_close(same * gate, se(same))
        for layer, x in ((project, hidden), (project, hidden[:0]),
                         (torch.nn.Identity(), hidden[:1])):
            assert len(se.before(layer, x)) == 1
        # who listens sees the map behind the gate
        for module in (se, project, next(iter(project.children()))):
            handle = module.register_forward_hook(lambda *args: None)
            map_, = se.before(project, hidden[:1])
            torch.testing.assert_close(map_, same * se.gate(same))
            handle.remove()
    assert len(se.before(project, hidden[:1])) == 1  # autograd


def test_gate_of_a_depthwise_block():
    block = ConvNormAct(4, 4, 3, groups=4).eval()
    x, gate = torch.randn(1, 4, 5, 5), torch.rand(1, 4, 1, 1)
    torch.testing.assert_close(block(x, gate), block(x * gate))


def test_flops_are_counted_without_autograd():
    layer = ConvNormAct(4, 8, 3, act_cfg=dict(type='SiLU')).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 4, 9, 7))
    assert counter.get_total_flops() == 2 * 8 * 4 * 9 * 63


NORMS = dict(BN=dict(type='BN'), GN=dict(type='GN', num_groups=1))


def make_block(name, norm, act):
    cfgs = NORMS[norm], dict(type=act)
    attn = dict(num_heads=2)
    blocks = dict(
        ghost=lambda: GhostBlock(4, 4, 1, False, *cfgs),
        ghost_se=lambda: GhostBlock(4, 6, 2, True, *cfgs),
        fusion=lambda: FeatureFusion(4, 6, 3, *cfgs),
        lol=lambda: LOLViTBlock(4, 6, 3, [0.], True, 'feature_fusion', True,
                                *cfgs, attn),
        lol_mobilevit=lambda: LOLViTBlock(4, 6, 3, [0.], True, 'mobilevit',
                                          True, *cfgs, attn))
    block = blocks[name]()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, .5, 2)
    return block.eval()


@pytest.mark.parametrize('act', ['ReLU', 'SiLU', 'GELU', 'Hardswish'])
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize(
    'name', ['ghost', 'ghost_se', 'fusion', 'lol', 'lol_mobilevit'])
def test_parts_of_large_maps_stay_apart(name, norm, act, monkeypatch):
    block = make_block(name, norm, act)
    x = torch.randn(2, 4, 9, 10)
    expected = block(x)
    monkeypatch.setattr(fused, '_LARGE_MAP', 1)
    for batch in (0, 1, 2):
        with torch.no_grad():
            out, names = operators(partial(block, x[:batch]))
        torch.testing.assert_close(
            out, expected[:batch], rtol=1e-5, atol=1e-5)
        assert (f'{FUSED}_' in names) == (
            RUNS and batch == 1 and norm == 'BN')
    out, names = operators(lambda: block(x))  # with autograd
    assert f'{FUSED}_' not in names
    torch.testing.assert_close(out, expected)


class Wrapper(nn.Module):
    """As LoRA and quantizers have: knows of one argument, a map."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return self.module(x)


@pytest.mark.parametrize('name, path', [
    *(('ghost_se', path) for path in (
        'expand', 'depthwise', 'project', 'se', 'expand.primary',
        'project.primary', 'project.primary.conv')),
    ('fusion', 'project'), ('fusion', 'expand'), ('lol', 'fuse'),
    ('lol', 'fuse.expand'), ('lol_mobilevit', 'fuse')])
def test_who_wraps_hooks_or_replaces_gets_a_map(name, path, monkeypatch):
    block = make_block(name, 'BN', 'ReLU')
    x = torch.randn(1, 4, 9, 10)
    expected = block(x)
    monkeypatch.setattr(fused, '_LARGE_MAP', 1)
    parent, _, leaf = path.rpartition('.')
    parent = block.get_submodule(parent)
    layer = getattr(parent, leaf)
    seen = []

    def look(module, args):
        seen.append(args[0])

    handle = layer.register_forward_pre_hook(look)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    handle.remove()
    forward = layer.forward
    layer.forward = lambda *args: seen.append(args[0]) or forward(*args)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    del layer.forward
    assert [type(value) for value in seen] == [torch.Tensor] * 2
    setattr(parent, leaf, Wrapper(layer))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(
                block(x), expected, rtol=1e-5, atol=1e-5)


def test_derived_ghost_convs_run():
    class Zero(GhostConv):

        def forward(self, x, gate=None):
            return 0 * super().forward(x, gate)

    block = make_block('ghost', 'BN', 'ReLU')
    block.project = Zero(8, 4).eval()
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(block(x), x)


def test_outputs_that_somebody_keeps_stay_as_they_are():
    """The shortcut is added in place to no others."""

    class Same(GhostConv):
        kept = torch.randn(1, 4, 5, 5)

        def forward(self, x, gate=None):
            return self.kept

    x = torch.randn(1, 4, 5, 5)
    block = make_block('ghost', 'BN', 'ReLU')
    seen = []
    block.project.register_forward_hook(
        lambda module, args, out: seen.extend([out, out.clone()]))
    with torch.no_grad():
        block(x)
        assert torch.equal(*seen)
        block.project = Same(8, 4).eval()
        before = Same.kept.clone()
        block(x)
    assert torch.equal(Same.kept, before)


def test_hooks_of_activations_run():
    block = ConvNormAct(4, 4, 3, act_cfg=dict(type='ReLU')).eval()
    seen = []
    block.act.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        block(torch.randn(1, 4, 5, 5))
    block.act.forward = torch.zeros_like
    with torch.no_grad():
        assert not block(torch.randn(1, 4, 5, 5)).any()
    assert len(seen) == 2


def test_maps_without_batch_and_vmap():
    block = ConvNormAct(4, 6, act_cfg=dict(type='GELU')).eval()
    ghost = make_block('ghost', 'BN', 'GELU')
    x = torch.randn(3, 4, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x[0]), block(x)[0])
        for module in (block, ghost):
            out = torch.func.vmap(module)(x[:, None])[:, 0]
            torch.testing.assert_close(out, module(x), rtol=1e-5, atol=1e-5)


def test_layout_does_not_depend_on_the_size():
    block = ConvNormAct(4, 6).eval()
    with torch.no_grad():
        for size in (30, 40):
            x = torch.randn(1, 4, size, size)
            assert block(x).is_contiguous()
            x = x.contiguous(memory_format=torch.channels_last)
            assert block(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='torch 2.1')
@pytest.mark.parametrize('name', ['ghost', 'ghost_se', 'fusion'])
def test_exported_with_free_sizes(name):
    block = make_block(name, 'BN', 'ReLU')
    free = torch.export.Dim
    sizes = {0: free('b', min=1, max=8), 2: free('h', min=8, max=512),
             3: free('w', min=8, max=512)}
    with torch.no_grad():
        exported = torch.export.export(
            block, (torch.randn(2, 4, 16, 20), ), dynamic_shapes=(sizes, ))
        x = torch.randn(3, 4, 10, 12)
        torch.testing.assert_close(exported.module()(x), block(x),
                                   rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('act', ['ReLU', 'SiLU', 'GELU'])
@pytest.mark.parametrize('affine', [True, False])
def test_small_maps_run_by_a_matrix_product(act, affine):
    block = ConvNormAct(6, 8, norm_cfg=dict(type='BN', affine=affine),
                        act_cfg=dict(type=act)).eval()
    nn.init.uniform_(block.norm.running_mean)
    nn.init.uniform_(block.norm.running_var, .5, 2)
    for size in (SMALL_MAP - 1, SMALL_MAP, SMALL_MAP + 1):
        x, gate = torch.randn(1, 6, 1, size), torch.rand(1, 6, 1, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        expected = block.act(block.norm(block.conv(x * gate)))
        with torch.no_grad():
            out, names = operators(partial(block, x, gate))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        assert ('aten::batch_norm' in names) == (size <= SMALL_MAP)


RECURRING = '''
import random, sys, torch, torch.nn as nn
from mmxvit.models.layers import layer_act

random.seed(0), torch.manual_seed(0), torch.set_num_threads(1)
act, wrong = nn.SiLU(), 0
layers = [nn.Conv2d(c, c, 1) if sys.argv[1] == 'pointwise' else
          nn.Conv2d(c, c, 3, padding=1, groups=c) for c in range(16, 112, 16)]
with torch.inference_mode():
    for _ in range(2000):
        layer, size = random.choice(layers), random.choice((14, 20, 28))
        x = torch.randn(1, layer.in_channels, size, size).contiguous(
            memory_format=torch.channels_last)
        out = layer_act(layer, act, x)
        with torch.backends.mkldnn.flags(enabled=False):
            wrong += not torch.allclose(out, act(layer(x)), atol=1e-4)
print(wrong)
'''


@pytest.mark.parametrize('kind', ['pointwise', 'depthwise'])
def test_layers_that_come_again_when_their_kernels_are_dropped(kind):
    """oneDNN keeps 9 kernels here, and free memory is overwritten."""
    result = subprocess.run(
        [sys.executable, '-c', RECURRING, kind], capture_output=True,
        text=True, env=dict(os.environ, MALLOC_PERTURB_='165',
                            ONEDNN_PRIMITIVE_CACHE_CAPACITY='9'))
    assert (result.returncode, result.stdout) == (0, '0\n'), result.stderr
