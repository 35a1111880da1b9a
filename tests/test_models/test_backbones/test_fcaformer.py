# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What the papers and the published models say of FcaFormer and CabViT."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope

from mmxvit.analysis.complexity import complexity
from mmxvit.models.backbones import CabViT, FcaFormer
from mmxvit.models.backbones.fcaformer import FcaBlock, WindowFcaBlock

COUNTS = [
    (FcaFormer, 'l0', 5_677_584),
    (FcaFormer, 'l1', 5_865_920),
    (FcaFormer, 'l2', 16_334_390),
    (FcaFormer, 'l3', 27_380_460),
    (FcaFormer, 'l4', 64_867_668),
    (CabViT, 'p-l0', 5_677_584),
    (CabViT, 'h-l1', 5_865_920),
    (CabViT, 'h-l2', 15_793_910),
]


def num_parameters(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


@pytest.mark.parametrize('family, arch, count', COUNTS)
def test_counts(family, arch, count):
    assert num_parameters(family(arch)) == count


def test_parts_of_the_plain_model():
    model = FcaFormer('l0')
    named = dict(model.named_parameters())

    def count(*endings):
        return sum(p.numel() for n, p in named.items() if n.endswith(endings))

    assert num_parameters(model.stem.conv) == 147_648
    assert model.stem.cls_token.numel() == 192
    assert model.stem.pos_embed.numel() == 37_824
    assert count('tme.merge.weight') == 103_488
    assert sum(num_parameters(b.tme.enhance) for b in model.stages[0]
               ) == 25_344
    assert count('position_bias') == 7_056
    assert count('depth_bias') == 3_168
    assert count('attn.scale') == 1_056
    assert count('cross_norm.weight', 'cross_norm.bias') == 4_224
    assert count('gamma1', 'gamma2') == 4_608
    assert sum(num_parameters(b.ffn[0]) for b in model.stages[0]) == 4_608


@pytest.mark.parametrize('arch, macs', [
    ('l0', 1.417e9),
    ('l1', 1.374e9),
    ('l2', 3.602e9),
    ('l3', 6.651e9),
    ('l4', 14.49e9),
])
def test_macs_at_224(arch, macs):
    counted = complexity(FcaFormer(arch, out_dims=None))
    assert counted.full == pytest.approx(macs, rel=1e-3)
    assert counted.executed <= counted.full


def test_macs_of_the_detection_backbone():
    counted = complexity(FcaFormer('l2'), (3, 512, 512))
    assert counted.full == pytest.approx(27.98e9, rel=1e-3)
    # padding needs no FFN, and nobody needs queries of cross tokens
    assert counted.executed < 0.83 * counted.full


@pytest.mark.parametrize('family, arch, channels, count', [
    (FcaFormer, 'l2', [96, 192, 384, 768], 48_755_554),
    (CabViT, 'h-l2', [96, 192, 320, 480], 46_117_922),
])
def test_upernet_of_the_papers(family, arch, channels, count):
    """46 M in both papers: the stages' own widths."""
    pytest.importorskip('mmseg')
    head = dict(
        channels=512, num_classes=150, norm_cfg=dict(type='BN'),
        align_corners=False, in_index=[0, 1, 2, 3], dropout_ratio=0.1)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(type=f'mmxvit.{family.__name__}', arch=arch),
                decode_head=dict(
                    head, type='UPerHead', in_channels=channels,
                    pool_scales=(1, 2, 3, 6)),
                auxiliary_head=dict(
                    head, type='FCNHead', channels=256, in_index=2,
                    in_channels=channels[2], num_convs=1,
                    concat_input=False)))
    assert num_parameters(model) == count


def test_both_papers_have_one_network():
    a, b = FcaFormer('l2', out_dims=None), CabViT('h-l2')
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 3, 64, 96)
    for one, other in zip(a.eval()(x), b.eval()(x), strict=True):
        assert torch.equal(one, other)


def scatter(model):
    """Weights that leave a trace: default layer scales are 1e-6."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and 'norm' not in name:
                parameter.normal_(1, 0.3)
            elif 'bias' in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize('index', [0, 1])
def test_windows_one_by_one(index):
    """A padded map equals its windows, each run as a whole map."""
    block = scatter(
        WindowFcaBlock(
            8, 2, (7, 7), index=index, is_last=False, mlp_ratio=2,
            drop_path=0., layer_scale=1., cross_scale='before_norm',
            norm_cfg=dict(type='BN'), act_cfg=dict(type='GELU'))).eval()
    block = block.double()
    x = torch.randn(2, 8, 9, 16, dtype=torch.double)
    cross = torch.randn(2 * 6, 4, 8, dtype=torch.double) if index else None
    out, merged = block(x, cross)
    # 9 x 16 to 14 x 21: 5 rows and 5 columns of zeros
    padded = F.pad(x, (0, 5, 0, 5) if index else (5, 0, 5, 0))
    expected = torch.empty_like(padded)
    tokens = []
    for image in range(2):
        for row in range(2):
            for col in range(3):
                part = (slice(7 * row, 7 * row + 7), slice(
                    7 * col, 7 * col + 7))
                number = 6 * image + 3 * row + col
                window, token = block(
                    padded[image:image + 1, :, part[0], part[1]],
                    None if cross is None else cross[number:number + 1])
                expected[image, :, part[0], part[1]] = window[0]
                tokens.append(token)
    start = 0 if index else 5
    torch.testing.assert_close(
        out, expected[:, :, start:start + 9, start:start + 16])
    torch.testing.assert_close(merged, torch.cat(tokens))


def test_cross_tokens_reach_every_later_block_of_their_stage():
    model = FcaFormer('l1').eval()
    seen = {}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            if isinstance(block, FcaBlock):
                block.register_forward_pre_hook(
                    lambda module, args, key=(i, j): seen.update(
                        {key: None if args[1] is None else args[1].shape}))
    model(torch.randn(1, 3, 256, 256))  # 16 x 16 and 8 x 8 tokens: 4 windows
    assert seen == {
        (2, 1): None,
        **{(2, j): (4, 16 * (j - 1), 192)
           for j in range(2, 7)},
        (3, 1): None,
        (3, 2): (4, 4, 320),
    }


def test_dense_equals_classifier_at_224():
    """One window covers the map: positions are those of the classifier."""
    dense, plain = scatter(FcaFormer('l2')), FcaFormer('l2', out_dims=None)
    plain.load_state_dict(dense.state_dict(), strict=False)
    x = torch.randn(1, 3, 224, 224)
    maps, native = dense.eval()(x), plain.eval()(x)
    for i, (a, b) in enumerate(zip(maps, native, strict=True)):
        torch.testing.assert_close(a, dense.outputs[str(i)](b))


def test_class_token_of_the_plain_model():
    model = scatter(FcaFormer('l0', out_type='cls_token')).eval()
    dense = FcaFormer('l0')
    dense.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 224, 224)
    tokens = []
    model.stages[0][-1].register_forward_hook(
        lambda module, args, out: tokens.append(out[0]))
    vector, = model(x)
    grid, = dense.eval()(x)
    assert vector.shape == (2, 192) and grid.shape == (2, 192, 14, 14)
    assert torch.equal(vector, tokens[0][:, 0])
    torch.testing.assert_close(grid.flatten(2).mT, tokens[0][:, 1:])


def test_class_token_passes_the_convolutions_by():
    block = scatter(FcaFormer('l0').stages[0][0]).eval()
    x = torch.randn(1, 1 + 6, 192)
    inputs = []
    block.tme.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0]))
    attended, _ = block.attend(x, (2, 3), None)
    assert inputs[0].shape == (1, 192, 2, 3)
    y = x + block.gamma1 * block.attn(block.norm1(x), (2, 3))
    torch.testing.assert_close(attended[:, 0], y[:, 0])
    torch.testing.assert_close(inputs[0].flatten(2).mT, y[:, 1:])


def test_positions_at_the_size_of_training_are_used_as_they_are():
    stem = FcaFormer('l0').stem
    x = torch.randn(1, 3, 224, 224)
    tokens, grid = stem(x)
    assert grid == (14, 14)
    expected = stem.conv(x).flatten(2).mT + stem.pos_embed[:, 1:]
    assert torch.equal(tokens[:, 1:], expected)


@pytest.mark.parametrize('arch, out_dims, channels', [
    ('l2', 'arch', (96, 192, 384, 768)),
    ('l2', None, (96, 192, 320, 480)),
    ('l2', (8, 16, 24, 32), (8, 16, 24, 32)),
    ('l1', 'arch', (64, 128, 192, 320)),
    ('l0', 'arch', (192, )),
    ('l0', (64, ), (64, )),
])
def test_output_widths(arch, out_dims, channels):
    model = FcaFormer(arch, out_dims=out_dims)
    assert model.out_channels == channels
    maps = model(torch.randn(2, 3, 32, 32))
    assert tuple(m.shape[1] for m in maps) == channels


def test_projections_are_built_for_requested_maps_only():
    model = FcaFormer('l2', out_indices=(1, 2), frozen_stages=2)
    assert list(model.outputs) == ['1', '2']
    assert not any(p.requires_grad for p in model.outputs['1'].parameters())
    assert all(p.requires_grad for p in model.outputs['2'].parameters())


def test_a_classifier_starts_a_detector(tmp_path):
    """Its checkpoint has no projections; anything else it must have."""
    source = FcaFormer('l2', out_dims=None)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    model = FcaFormer('l2', pretrained=str(tmp_path / 'a.pth'))
    model.init_weights()
    assert torch.equal(model.stem[0].conv.weight, source.stem[0].conv.weight)
    state['backbone.outputs.0.conv.weight'] = torch.zeros(96, 96, 1, 1)
    torch.save(dict(state_dict=state), tmp_path / 'b.pth')
    model = FcaFormer('l2', pretrained=str(tmp_path / 'b.pth'))
    with pytest.raises(RuntimeError, match='missing outputs.1.conv.weight'):
        model.init_weights()


def test_layer_depth_of_the_authors():
    model = FcaFormer('l2')

    def depth(name):
        return model.get_layer_depth(f'backbone.{name}', 'backbone.')

    assert depth('stem.0.conv.weight') == (0, 8)
    assert depth('stages.0.1.fc1.weight') == (1, 8)
    assert depth('stages.1.0.0.conv.weight') == (0, 8)  # downsampling
    assert depth('stages.1.1.fc1.weight') == (2, 8)
    assert depth('stages.2.0.0.conv.weight') == (2, 8)
    blocks = [depth(f'stages.2.{b}.norm1.weight')[0] for b in range(1, 8)]
    assert blocks == [3, 3, 3, 4, 4, 4, 5]
    assert depth('stages.2.4.attn.position_bias') == (4, 8)
    assert depth('stages.2.4.attn.depth_bias') == (0, 8)
    assert depth('stages.2.4.attn.scale') == (0, 8)
    assert depth('stages.3.0.2.norm.bias') == (3, 8)
    assert depth('stages.3.1.gamma1') == (6, 8)
    assert depth('outputs.3.norm.weight') == (7, 8)


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='l1', out_type='cls_token'), "out_type='cls_token'"),
    (dict(arch='l0', out_type='tokens'), "out_type='tokens'"),
    (dict(arch='l1', out_dims=(1, 2)), 'one width for each map'),
    (dict(arch='l1', out_dims='wide'), "'arch', None or a tuple of 4"),
    (dict(arch='l0', out_indices=(1, )), 'out_indices'),
    (dict(arch='l1', cross_scale='x'), 'cross_scale'),
])
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FcaFormer(**kwargs)
