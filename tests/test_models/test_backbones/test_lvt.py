# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.registry import MODELS

from mmxvit.analysis.complexity import complexity
from mmxvit.models.backbones import LVT


def num_parameters(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def test_counts_by_part():
    model = LVT()
    assert num_parameters(model) == 3_429_092
    # the paper's stage 1 includes the first patch embedding
    assert num_parameters(model.stem, model.stages[0]) == 179_396
    assert [num_parameters(stage) for stage in model.stages[1:]
            ] == [345_536, 931_680, 1_972_480]
    assert model.out_channels == (64, 64, 160, 256)
    # no norm behind the stages
    assert {n.split('.')[0] for n, _ in model.named_parameters()
            } == {'stem', 'stages'}


def test_counts_of_the_scaled_model():
    """The paper prints 24.8 M and, with its head, 5.2 G."""
    counted = complexity(LVT('lvt-scaled'), (3, 224, 224))
    assert counted.params == 24_686_790
    assert counted.full == pytest.approx(5.06e9, rel=0.01)


# without the 27.5 M of a classifier's class attention at 224
@pytest.mark.parametrize('recursions, size, macs', [
    (1, (224, 224), 0.784e9 - 27.5e6),
    (2, (224, 224), 0.889e9 - 27.5e6),
    (3, (224, 224), 0.993e9 - 27.5e6),
    (4, (224, 224), 1.098e9 - 27.5e6),
    (2, (512, 512), 5.315e9),
    (2, (800, 1200), 29.19e9),
])
def test_work(recursions, size, macs):
    model = LVT(recursions=recursions)
    counted = complexity(model, (3, *size))
    assert counted.params == 3_429_092
    assert counted.full == pytest.approx(macs, rel=1e-3)
    assert counted.executed <= counted.full


def test_recursions_change_the_function_only():
    x = torch.randn(1, 3, 64, 64)
    two, three = LVT().eval(), LVT(recursions=3).eval()
    three.load_state_dict(two.state_dict())
    torch.testing.assert_close(two(x)[0], three(x)[0])
    assert not torch.equal(two(x)[1], three(x)[1])


def test_options():
    model = MODELS.build(
        dict(
            type='mmxvit.LVT',
            act_cfg=dict(type='ReLU'),
            norm_cfg=dict(type='SyncBN'),
            recursions=1))
    acts = [type(m).__name__ for m in model.modules()]
    assert acts.count('ReLU') == 8 and 'GELU' not in acts
    assert acts.count('ChannelNorm') == 20 and 'SyncBatchNorm' not in acts
    with pytest.raises(ValueError, match='recursions=0'):
        LVT(recursions=0)


def test_arch_as_a_dict():
    arch = dict(
        LVT.arch_settings['lvt'], depths=(1, 1, 3, 1), mlp_ratios=(2, 2, 2, 2))
    model = LVT(arch)
    assert [len(stage) for stage in model.stages] == [1, 2, 4, 2]
    assert model.stages[0][0].mlp.fc1.out_channels == 128
    assert LVT.arch_settings['lvt']['depths'] == (2, 2, 2, 2)


def test_initial_weights():
    """Normal of sqrt(2 / fan_out), truncated normal of 0.02; zero biases."""
    model = LVT()

    def std(module):
        return pytest.approx(module.weight.std().item(), rel=0.05)

    csa, rasa = model.stages[0][0].attn, model.stages[2][1].attn
    assert std(csa.values) == (2 / (9 * 64))**0.5
    assert std(model.stem.proj) == (2 / (49 * 64))**0.5
    assert std(model.stages[3][0].proj) == (2 / (9 * 256))**0.5
    assert std(rasa.reduce) == (2 / (4 * 160))**0.5
    assert std(rasa.q_conv) == (2 / (9 * 160))**0.5
    for module in (csa.weights, csa.proj, rasa.q, rasa.kv, rasa.proj,
                   model.stages[0][0].mlp.fc1, model.stages[0][0].mlp.fc2):
        assert std(module) == 0.02
    for module in (csa.weights, csa.proj, rasa.proj, rasa.reduce,
                   model.stages[0][0].mlp.fc1):
        assert not module.bias.any()
    # but of what comes before a norm over the channels of a token
    for i, module in enumerate((
            model.stem.proj, *(model.stages[j][0].proj for j in (1, 2, 3)))):
        assert module.bias.std() > 0, i


def test_every_location_reaches_the_last_map():
    """RASA is global; also what its reduction leaves over is seen."""
    model = LVT().double().eval()
    x = torch.randn(1, 3, 52, 52, dtype=torch.double, requires_grad=True)
    model(x)[-1][0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_golden_output():
    """Stored once: any change of the function is noticed."""
    model = LVT().double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            noise = torch.rand(
                value.shape, generator=generator, dtype=torch.double)
            fan = max(1, value[0].numel()) if value.dim() > 1 else 4
            value.copy_((noise - 0.5) * (12 / fan)**0.5)
        x = torch.rand((1, 3, 90, 70), generator=generator,
                       dtype=torch.double)
        outs = model(x)
    actual = torch.tensor([[out.mean(), out.std(), out.flatten()[7]]
                           for out in outs], dtype=torch.double)
    torch.testing.assert_close(actual, GOLDEN, rtol=1e-9, atol=1e-12)


GOLDEN = torch.tensor(
    [[-0.04585316249286112, 1.6946421002706493, -1.7707270976987557],
     [0.26659047832096755, 1.5064898989527835, 2.9673324991779473],
     [0.4357011697206615, 1.4878529984393198, 1.1163060646252723],
     [0.2025936881270004, 1.474866390362174, 2.2736741642509504]],
    dtype=torch.double)
