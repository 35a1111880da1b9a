# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.registry import MODELS

from mmxvit.models.backbones import XFormer
from mmxvit.models.necks import ConvPool


def num_parameters(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def test_counts_of_the_default_structure():
    model = XFormer()
    assert num_parameters(model) == 4_803_158
    assert num_parameters(model.stem) == 464
    # stages 1 and 2 of the paper feed map 0
    assert num_parameters(model.stages[0][0]) == 4_161
    assert num_parameters(model.stages[0][1:]) == 91_786
    assert [num_parameters(stage) for stage in model.stages[1:]
            ] == [631_078, 1_306_473, 2_769_196]
    block = model.stages[1][1]
    assert num_parameters(block.local, block.embed) == 97_248
    assert num_parameters(block.fuse) == 207_552
    assert [num_parameters(layer) for layer in block.layers] == [139_745] * 2
    assert num_parameters(block.layers[0].attn) == 55_793
    assert model.out_channels == (64, 96, 128, 160)


def test_counts_of_the_classifier():
    assert num_parameters(ConvPool(160, 640)) == 103_680
    classifier = 4_803_158 + 103_680 + 641_000
    assert classifier == 5_547_838


def test_fallback_reading():
    """Plain MobileViT fusion and SE of hidden / 8 widths."""
    model = XFormer(se_squeeze=('hidden', 8), fusion='mobilevit')
    total = num_parameters(model) + 103_680 + 641_000
    assert round(total / 1e6, 3) == 5.532


@pytest.mark.parametrize('kwargs', [
    dict(heads=4),
    dict(norm_dim='token'),
    dict(se_squeeze=('hidden', 4)),
    dict(fusion='mobilevit'),
    dict(act_cfg=dict(type='ReLU')),
])
def test_inferred_choices_are_options(kwargs):
    model = MODELS.build(dict(type='mmxvit.XFormer', **kwargs))
    assert len(model(torch.randn(2, 3, 64, 64))) == 4
    default = XFormer()
    assert repr(model) != repr(default) or kwargs in (dict(heads=4),
                                                      dict(norm_dim='token'))


@pytest.mark.parametrize('kwargs, message', [
    (dict(fusion='sum'), "'tokens' or 'mobilevit'"),
    (dict(heads=7), 'multiple of'),
    (dict(norm_dim='x'), 'norm_dim'),
    (dict(se_squeeze=('out', 4)), 'se_squeeze'),
])
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        XFormer(**kwargs)


def test_arch_as_a_dict():
    arch = dict(
        XFormer.arch_settings['xformer'],
        xf=(None, (24, 1, 2), (24, 1, 2), (24, 1, 2)),
        qkv_dims=16)
    model = XFormer(arch)
    assert len(model.stages[1][1].layers) == 1
    assert XFormer.arch_settings['xformer']['qkv_dims'] == 96


def test_attention_runs_within_the_places_of_a_patch():
    """P = 4 groups: one place's tokens do not reach another's in a layer."""
    block = XFormer().stages[1][1].eval()
    layer = block.layers[0]
    y = torch.randn(1, 4, 16, 144)
    changed = y.clone()
    changed[:, 2] += torch.randn(16, 144)
    a, b = layer(y, (4, 4)), layer(changed, (4, 4))
    same = [bool(torch.equal(a[:, p], b[:, p])) for p in range(4)]
    assert same == [True, True, False, True]


def test_unfold_and_fold_are_inverse():
    block = XFormer().stages[1][1].eval()
    block.layers = torch.nn.ModuleList()
    seen = []
    block.fuse.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][:, 96:]))
    block.embed.register_forward_hook(
        lambda module, args, out: seen.append(out))
    with torch.no_grad():
        block(torch.randn(2, 96, 6, 10))
    assert torch.equal(*seen)


def test_golden_output():
    """Stored from the first release: any change of function is noticed."""
    torch.manual_seed(0)
    model = XFormer().double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(
                    value.shape, generator=generator, dtype=torch.double)
                fan = max(1, value[0].numel()) if value.dim() > 1 else 4
                value.copy_(1 + 0.1 * noise if 'running_var' in name else
                            (noise - 0.5) * (12 / fan)**0.5)
        x = torch.rand((1, 3, 90, 70), generator=generator,
                       dtype=torch.double)
        outs = model(x)
    actual = torch.tensor([[out.mean(), out.std(), out.flatten()[7]]
                           for out in outs], dtype=torch.double)
    torch.testing.assert_close(actual, GOLDEN, rtol=1e-9, atol=1e-12)


GOLDEN = torch.tensor(
    [[-0.1036659305771558, 0.9010205646685651, 0.7807973478728819],
     [0.07566189020026692, 0.37752671214392164, 0.278782679751209],
     [0.13060610967036326, 0.40923712308654225, 0.02310295503116056],
     [0.1297769333700019, 0.42197729481528135, 0.2732843120584621]],
    dtype=torch.double)
