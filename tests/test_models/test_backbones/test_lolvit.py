# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.registry import MODELS

from mmxvit.analysis.complexity import complexity
from mmxvit.models.attentions import FastWindowAttention
from mmxvit.models.backbones import LOLViT
from mmxvit.models.backbones.lolvit import FeatureFusion
from mmxvit.models.necks import ConvPool

# Rows of Tables 16 (S) and 17 (X), in their order.
TABLES = {
    's': (464, 2_448, 6_872, 6_696, 17_208, 163_927, 30_288, 295_703, 60_528,
          472_535),
    'x': (928, 3_440, 8_160, 10_976, 30_288, 269_943, 60_528, 468_439,
          109_728, 900_279),
}
TOTALS = {'s': 1_056_669, 'x': 1_862_709}


def num_parameters(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def blocks_of(model):
    """The LOLViT block of each of the last three stages."""
    return [stage[-1] for stage in model.stages[1:]]


@pytest.mark.parametrize('arch', TABLES)
def test_every_row_of_the_papers_tables(arch):
    model = LOLViT(arch)
    modules = [model.stem, *(b for stage in model.stages for b in stage)]
    assert tuple(map(num_parameters, modules)) == TABLES[arch]
    assert num_parameters(model) == TOTALS[arch]


@pytest.mark.parametrize('arch, channels', [('s', (48, 64, 96, 128)),
                                            ('x', (64, 96, 128, 192))])
def test_maps(arch, channels):
    model = LOLViT(arch)
    assert model.out_channels == channels
    assert model.out_strides == (4, 8, 16, 32)
    # the first Ghost block runs at stride 2
    sizes = []
    for block in model.stages[0]:
        block.register_forward_hook(
            lambda module, args, out: sizes.append(out.shape[2]))
    model.eval()(torch.randn(1, 3, 64, 64))
    assert sizes == [32, 16, 16]


@pytest.mark.parametrize('arch, total', [('s', 2.50), ('x', 3.39)])
def test_count_of_the_classifier(arch, total):
    model = LOLViT(arch)
    channels = model.out_channels[-1]
    classifier = num_parameters(model, ConvPool(channels, 1280),
                                torch.nn.Linear(1280, 1000))
    assert round(classifier / 1e6, 2) == total


def test_counts_of_table_11():
    """X, L = 2-4-3: 4.5 M, and 5.2 M with MobileViT's fusion."""
    for fusion, total in (('feature_fusion', 4_505_863),
                          ('mobilevit', 5_247_303)):
        model = LOLViT('x', num_layers=(2, 4, 3), fusion=fusion)
        assert num_parameters(model, ConvPool(192, 1280),
                              torch.nn.Linear(1280, 1000)) == total


def test_a_layer_has_87_parameters_beside_its_widths():
    for block, dims in zip(blocks_of(LOLViT('x')), (144, 192, 240),
                           strict=True):
        (layer, ) = block.layers
        rest = num_parameters(layer) - num_parameters(layer.ffn)
        assert rest == 87 and layer.attn.num_heads == 4
        assert num_parameters(layer.ffn) == 4 * dims**2 + 106 * dims


def test_projection_over_channels():
    """Query|Token and K|V of d -> 2d: 0.46 M more in X."""
    head, channel = LOLViT('x'), LOLViT('x', projection='channel')
    more = sum(4 * d * d + 4 * d - 80 for d in (144, 192, 240))
    assert num_parameters(channel) - num_parameters(head) == more
    assert round(more / 1e6, 2) == 0.46
    assert len(channel.eval()(torch.randn(1, 3, 97, 66))) == 4


@pytest.mark.parametrize('arch, size, macs', [
    ('s', 224, 0.327e9),
    ('s', 384, 0.960e9),
    ('x', 224, 0.522e9),
    ('x', 384, 1.533e9),
    ('x', 640, 4.258e9),
])
def test_macs(arch, size, macs):
    counted = complexity(LOLViT(arch), (3, size, size))
    assert counted.nominal['linear'] == pytest.approx(macs, rel=2e-3)
    # queries by keys of width d, twice
    tokens = [(size // s)**2 for s in (8, 16, 32)]
    keys = [size // 8, -(-size // 32), -(-size // 128)]
    dims = dict(s=(128, 160, 192), x=(144, 192, 240))[arch]
    assert counted.nominal['attention'] == sum(
        2 * t * k * d for t, k, d in zip(tokens, keys, dims, strict=True))
    assert counted.executed <= counted.full


def test_flops_of_table_1():
    """9.2 and 5.9 G: 2 x MACs at 640, norms as one operation, with head."""
    for arch, flops in (('x', 9.2), ('s', 5.9)):
        backbone = LOLViT(arch, out_indices=(3, ))
        counted = complexity(
            torch.nn.Sequential(backbone,
                                ConvPool(backbone.out_channels[0], 1280)),
            (3, 640, 640))
        macs = counted.full + counted.nominal['norm'] / 2 + 1280 * 1000
        assert 2 * macs / 1e9 == pytest.approx(flops, abs=0.06)


@pytest.mark.parametrize('kwargs', [
    dict(fold=(1, 1, 1)),
    dict(patch=(2, 2, 1)),
    dict(cache=False),
    dict(shortcut=False),
    dict(act_cfg=dict(type='SiLU')),
])
def test_options_without_weights_change_the_function(kwargs):
    default = LOLViT('s', num_layers=(1, 2, 1)).eval()
    model = MODELS.build(
        dict(type='mmxvit.LOLViT', arch='s', num_layers=(1, 2, 1), **kwargs))
    model.load_state_dict(default.state_dict())
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        out, usual = model.eval()(x)[-1], default(x)[-1]
    assert (out - usual).norm() > 1e-3 * usual.norm()


def test_feature_fusion_step_by_step():
    module = FeatureFusion(6, 4, 3, dict(type='BN'), dict(type='ReLU'))
    module.double().eval()
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 9, 8, dtype=torch.double)
    y = module.expand.norm(module.expand.conv(x)).relu()
    y = module.depthwise.norm(module.depthwise.conv(y)).relu()
    five, seven = module.parallel
    assert five.conv.kernel_size == (5, 5) and five.conv.groups == 4
    assert seven.conv.kernel_size == (7, 7) and seven.conv.groups == 4
    y = torch.cat([
        five.norm(five.conv(y[:, :4])).relu(),
        seven.norm(seven.conv(y[:, 4:])).relu()
    ], 1)
    expected = module.project.norm(module.project.conv(y))
    torch.testing.assert_close(module(x), expected)


def test_residuals_of_a_layer():
    """Without what a branch adds, the other one is left."""
    (layer, ) = blocks_of(LOLViT('s').eval())[0].layers
    x = torch.randn(1, 128, 5, 6)
    torch.nn.init.zeros_(layer.ffn.project.conv.weight)
    attended, _ = layer.attn(layer.norm1(x.permute(0, 2, 3, 1)))
    expected = x + attended.permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x)[0], expected)
    torch.nn.init.zeros_(layer.attn.key_value.weight)
    torch.nn.init.ones_(layer.ffn.project.conv.weight)
    normed = layer.norm2(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x)[0], x + layer.ffn(normed))


def test_fusion_sees_the_input_beside_the_tokens():
    block = blocks_of(LOLViT('s').eval())[0]
    x = torch.randn(1, 64, 5, 6)
    seen = []
    block.layers[-1].register_forward_hook(
        lambda module, args, out: seen.append(out[0]))
    block.fuse.register_forward_hook(
        lambda module, args, out: seen.extend([args[0], out]))
    out = block(x)
    tokens, fused, added = seen
    assert torch.equal(fused, torch.cat((x, tokens), 1))
    assert torch.equal(out, x + added)


def test_options_reach_their_block():
    model = LOLViT('s', num_layers=(1, 2, 3), fold=(1, 2, 4), patch=(3, 2, 1))
    blocks = blocks_of(model)
    assert [len(block.layers) for block in blocks] == [1, 2, 3]
    windows = [block.layers[-1].attn.window for block in blocks]
    assert windows == [3, 4, 4]
    kernels = [block.fuse.depthwise.conv.kernel_size[0] for block in blocks]
    assert kernels == [3, 3, 5]


def used_by_the_attentions(model, x):
    """(merged tokens given, merged tokens returned) of every layer."""
    seen = []
    handles = [
        m.register_forward_hook(
            lambda module, args, out: seen.append((args[1], out[1])))
        for m in model.modules() if isinstance(m, FastWindowAttention)
    ]
    outs = model(x)
    for handle in handles:
        handle.remove()
    return outs, seen


def test_cache_goes_from_the_first_layer_to_the_others_of_its_block():
    model = LOLViT('s', num_layers=(3, 1, 2)).eval()
    with torch.no_grad():
        _, seen = used_by_the_attentions(model, torch.randn(1, 3, 64, 96))
    given = [pair[0] for pair in seen]
    first, second, third, alone, start, end = (pair[1] for pair in seen)
    assert given[0] is None and given[3] is None and given[4] is None
    assert given[1] is given[2] is first is second is third
    assert given[5] is start is end and alone is not start


def test_without_cache_each_layer_merges_its_own_tokens():
    model = LOLViT('s', num_layers=(3, 1, 2), cache=False).eval()
    _, seen = used_by_the_attentions(model, torch.randn(1, 3, 64, 96))
    assert all(given is None for given, _ in seen)


def test_cache_does_nothing_where_a_block_has_one_layer():
    plain, caching = LOLViT('s', cache=False).eval(), LOLViT('s').eval()
    caching.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    for a, b in zip(plain(x), caching(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('with_cp', [False, True])
def test_cache_does_not_leak_between_calls(with_cp):
    model = LOLViT('s', num_layers=(2, 2, 2), with_cp=with_cp)
    model.train().requires_grad_()
    images = [torch.randn(2, 3, 64, 96), torch.randn(2, 3, 96, 64)]
    alone = []
    for x in images:
        model.zero_grad()
        model(x)[-1].square().sum().backward()
        alone.append(model.stem.conv.weight.grad.clone())
    model.zero_grad()
    losses = [model(x)[-1].square().sum() for x in images]
    for loss in reversed(losses):  # backward after both forwards
        loss.backward()
    torch.testing.assert_close(model.stem.conv.weight.grad, sum(alone))


def test_unused_half_of_the_cached_layers_still_has_a_gradient():
    """Distributed training stops at a parameter without one."""
    model = LOLViT('s', num_layers=(2, 2, 2)).train()
    sum(out.sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_batch_of_one_at_the_smallest_size():
    """One value per channel: no BatchNorm can train on that."""
    model = LOLViT('s')
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        model.train()(x)
    model.eval()
    assert all(out.isfinite().all() for out in model(x))
    grouped = LOLViT('s', norm_cfg=dict(type='GN', num_groups=4)).train()
    assert all(out.isfinite().all() for out in grouped(x))


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_layers=(1, 1)), 'num_layers'),
    (dict(num_layers=(1, 0, 1)), 'num_layers'),
    (dict(fold=(1, 2, 4, 8)), 'fold'),
    (dict(patch=(0, 1, 1)), 'patch'),
    (dict(projection='token'), "'head' or 'channel'"),
    (dict(fusion='sum'), "'feature_fusion' or 'mobilevit'"),
])
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LOLViT('s', **kwargs)


def test_arch_as_a_dict():
    arch = dict(
        LOLViT.arch_settings['s'],
        lol=(None, None, None, (32, 3)),
        num_heads=2)
    model = LOLViT(arch, num_layers=(2, ), fold=(4, ), patch=(1, ))
    (block, ) = blocks_of(model)[2:]
    assert len(block.layers) == 2 and block.layers[0].attn.num_heads == 2
    assert LOLViT.arch_settings['s']['num_heads'] == 4
    assert len(model(torch.randn(2, 3, 64, 64))) == 4


def test_golden_output():
    """Stored from the first release: any change of function is noticed."""
    model = LOLViT('s', num_layers=(1, 2, 1)).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(
                    value.shape, generator=generator, dtype=torch.double)
                fan = max(1, value[0].numel()) if value.dim() > 1 else 4
                value.copy_(
                    1 + 0.1 * noise if 'running_var' in name or
                    'length_scale' in name else (noise - 0.5) *
                    (12 / fan)**0.5)
        x = torch.rand((1, 3, 90, 70), generator=generator,
                       dtype=torch.double)
        outs = model(x)
    actual = torch.tensor([[out.mean(), out.std(), out.flatten()[7]]
                           for out in outs], dtype=torch.double)
    torch.testing.assert_close(actual, GOLDEN, rtol=1e-9, atol=1e-12)


GOLDEN = torch.tensor(
    [[0.317109946855219, 1.0212304280609967, 0.2513989406540604],
     [0.09725781711260088, 0.9608525476116139, 0.36560707631618217],
     [0.11841263936544302, 0.931635928384154, -1.2747163133495163],
     [-0.043517023063057825, 1.0736546388825607, 1.1601100902583186]],
    dtype=torch.double)
