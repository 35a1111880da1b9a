# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmpretrain')

from mmpretrain.structures import DataSample  # noqa: E402

from mmxvit.analysis.complexity import complexity  # noqa: E402
from mmxvit.models.heads import lvt_head, plain  # noqa: E402
from mmxvit.models.heads.lvt_head import (  # noqa: E402
    Box,
    LVTClassifier,
    LVTClsHead,
)
from mmxvit.registry import MODELS  # noqa: E402


def make_classifier(num_classes=10, mix_alpha=1., backbone=None, **head):
    head = dict(type='LVTClsHead', num_classes=num_classes, in_channels=256,
                **head)
    return LVTClassifier(
        backbone=dict(type='mmxvit.LVT', out_indices=(3, ), **backbone or {}),
        head=MODELS.build(head),
        mix_alpha=mix_alpha)


def make_head(**kwargs):
    """A small head in float64, no parameter at a value that hides it."""
    head = LVTClsHead(5, 16, num_heads=2, **kwargs).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def make_samples(labels, token_scores=None):
    samples = [DataSample().set_gt_label(label) for label in labels]
    for sample, score in zip(samples, token_scores or [], strict=False):
        if score is not None:
            sample.gt_token_score = score
    return samples


def cross_entropy(scores, target):
    """Of soft labels, one term at a time."""
    rows = [
        -sum(t * s for t, s in zip(target_row, row - row.exp().sum().log(),
                                   strict=True))
        for row, target_row in zip(scores, target, strict=True)
    ]
    return sum(rows) / len(rows)


@pytest.mark.parametrize('blocks, parameters, macs', [
    (2, 5_521_844, 0.889e9),
    (0, 3_686_604, 0.862e9),
])
def test_counts_of_the_classifiers(blocks, parameters, macs):
    counted = complexity(
        make_classifier(1000, num_class_blocks=blocks), (3, 224, 224))
    assert counted.params == parameters
    assert counted.full == pytest.approx(macs, rel=1e-3)
    assert counted.executed <= counted.full


def test_counts_by_part():
    head = LVTClsHead(1000, 256)
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in head.named_children()
    }
    assert counts.pop('loss_module') == 0
    assert counts == dict(
        blocks=1_577_984, norm=512, fc=257_000, aux_fc=257_000)
    assert head.cls_token.numel() == 256


def literal_class_attention(head, x):
    """Class token and patches, one head and one token at a time."""
    token, patches = head.cls_token[0, 0], list(x.flatten(1).T)
    for block in head.blocks:
        normed = [block.norm1(t) for t in (token, *patches)]
        w_k, w_v = block.attn.kv.weight.chunk(2)
        q = block.attn.q.weight @ normed[0]
        mixed = []
        for part in (slice(0, 8), slice(8, 16)):
            exp = [
                torch.exp(torch.dot(q[part], (w_k @ t)[part]) / 8**0.5)
                for t in normed
            ]
            mixed.append(
                sum(e / sum(exp) * (w_v @ t)[part]
                    for e, t in zip(exp, normed, strict=True)))
        token = token + block.attn.proj(torch.cat(mixed))
        token = token + block.mlp(block.norm2(token))
    return head.norm(token), [head.norm(p) for p in patches]


def test_logits_are_class_plus_half_the_highest_patch():
    head = make_head()
    x = torch.randn(2, 16, 3, 2, dtype=torch.double)
    for image, logits in zip(x, head((x, )), strict=True):
        token, patches = literal_class_attention(head, image)
        highest = torch.stack([head.aux_fc(p) for p in patches]).amax(0)
        torch.testing.assert_close(logits, head.fc(token) + 0.5 * highest)


def test_mean_pool_head():
    head = make_head(num_class_blocks=0)
    x = torch.randn(2, 16, 3, 2, dtype=torch.double)
    tokens = head.norm(x.permute(0, 2, 3, 1))
    torch.testing.assert_close(head((x, )), head.fc(tokens.mean((1, 2))))
    assert not hasattr(head, 'aux_fc') and not hasattr(head, 'cls_token')
    losses = head.loss((x, ), make_samples([1, 4]))
    expected = F.cross_entropy(head((x, )), torch.tensor([1, 4]))
    assert losses.keys() == {'loss'}
    torch.testing.assert_close(losses['loss'], expected)


@pytest.mark.parametrize('with_tokens', [False, True, 'one'])
def test_losses_without_a_box(with_tokens):
    """An image without token labels: its label for all patches."""
    head = make_head()
    x = torch.randn(2, 16, 3, 2, dtype=torch.double)
    target = F.one_hot(torch.tensor([1, 4]), 5).double()
    patches = target[..., None, None].repeat(1, 1, 3, 2)
    given = [None, None]
    if with_tokens:
        patches[1] = torch.rand(5, 3, 2).softmax(0)
        given[1] = patches[1].clone()
    if with_tokens is True:
        patches[0] = torch.rand(5, 3, 2).softmax(0)
        given[0] = patches[0].clone()
    losses = head.loss((x, ), make_samples([1, 4], given))
    tokens = head.pre_logits((x, ))
    torch.testing.assert_close(losses['loss'],
                               cross_entropy(head.fc(tokens[:, 0]), target))
    scores = head.aux_fc(tokens[:, 1:]).flatten(0, 1)
    expected = 0.5 * cross_entropy(scores,
                                   patches.permute(0, 2, 3, 1).reshape(-1, 5))
    torch.testing.assert_close(losses['loss_aux'], expected)
    assert losses.keys() == {'loss', 'loss_aux'}


def test_soft_labels_of_images():
    head = make_head()
    x = torch.randn(2, 16, 3, 2, dtype=torch.double)
    scores = torch.rand(2, 5).softmax(1)
    samples = [DataSample().set_gt_score(s) for s in scores]
    tokens = head.pre_logits((x, ))
    expected = cross_entropy(head.fc(tokens[:, 0]), scores.double())
    torch.testing.assert_close(head.loss((x, ), samples)['loss'], expected)


def test_losses_with_a_box():
    """The class label is mixed by area; patches keep their own image's."""
    head = make_head()
    box = Box(0, 2, 1, 2)  # 2 of 6 places
    x = torch.randn(2, 16, 3, 2, dtype=torch.double)
    mixed = x.clone()
    mixed[0, :, :2, 1], mixed[1, :, :2, 1] = x[1, :, :2, 1], x[0, :, :2, 1]
    assert torch.equal(box.swap(x), mixed)
    target = F.one_hot(torch.tensor([1, 4]), 5).double()
    losses = head.loss((mixed, ), make_samples([1, 4]), box)
    tokens = head.pre_logits((mixed, ))
    expected = cross_entropy(
        head.fc(tokens[:, 0]), 2 / 3 * target + 1 / 3 * target.flip(0))
    torch.testing.assert_close(losses['loss'], expected)
    scores = head.aux_fc(tokens[:, 1:]).unflatten(1, (3, 2))
    owner = torch.tensor([[0, 1], [0, 1], [0, 0]])  # of image 0's places
    labels = torch.stack([owner, 1 - owner])
    expected = 0.5 * cross_entropy(
        scores.flatten(0, 2), target[labels.flatten()])
    torch.testing.assert_close(losses['loss_aux'], expected)


def test_patches_that_show_their_label_have_no_loss():
    """Token labels stay with their image through the mixing."""
    box = Box(1, 3, 0, 2)
    own = F.one_hot(torch.randint(5, (2, 4, 3)), 5).double()
    own = own.permute(0, 3, 1, 2)
    head = LVTClsHead(5, 5, num_heads=1)
    head.fc = head.aux_fc = torch.nn.Identity()
    samples = make_samples([0, 1], list(own))
    for shown, given in ((own, None), (box.swap(own), box)):
        tokens = F.pad(100 * shown.flatten(2), (1, 0)).transpose(1, 2)
        head.pre_logits = lambda feats, tokens=tokens: tokens
        assert head.loss((own, ), samples, given)['loss_aux'] < 1e-9
    assert head.loss((own, ), samples)['loss_aux'] > 1  # not mixed back


# What might be written by mistake in place of a step.
MISTAKES = [
    ('token = x[:, :1] + self', 'token = self'),
    ('self.q(x[:, :1])', 'self.q(x[:, -1:])'),
    ('self.kv(x).chunk', 'self.kv(x[:, 1:]).chunk'),  # patches alone
    ('torch.cat((token, x[:, 1:]), 1)', 'torch.cat((x[:, 1:], token), 1)'),
    ('.amax(1)', '.mean(1)'),
    ('+ self.aux_weight * patches', '+ patches'),
    ('return self.norm(x)\n\n    def forward', 'return x\n\n    def forward'),
    ('(1 - share) * target + share', 'share * target + (1 - share)'),
    ('share * target.flip(0)', 'share * target'),
    ("losses['loss_aux'] = self.aux_weight *", "losses['loss_aux'] ="),
    ('            scores = box.swap(scores)', '            pass'),
    ('x.flip(0)[...', 'x.roll(1, 2)[...'),
]


@pytest.mark.parametrize('right, wrong', MISTAKES)
def test_mistakes_are_noticed(right, wrong, monkeypatch):
    # layers and losses in one, so that the losses are on the mistaken layers
    source = inspect.getsource(plain) + inspect.getsource(lvt_head)
    assert source.count(right) == 1
    for line in ('@MODELS.register_module()\n',
                 'from .plain import ClassAttentionHead\n'):
        assert line in source
        source = source.replace(line, '')
    namespace = dict(
        __name__=lvt_head.__name__, __package__=lvt_head.__package__)
    exec(source.replace(right, wrong), namespace)
    for name in ('Box', 'LVTClsHead'):
        monkeypatch.setitem(globals(), name, namespace[name])
    with pytest.raises((AssertionError, RuntimeError)):
        test_logits_are_class_plus_half_the_highest_patch()
        test_losses_without_a_box(True)
        test_losses_with_a_box()


def test_wrong_token_labels():
    head = make_head()
    x = torch.randn(1, 16, 3, 2, dtype=torch.double)
    samples = make_samples([1], [torch.rand(5, 2, 3)])
    with pytest.raises(ValueError, match=r'\(5, 2, 3\), expected \(5, 3, 2\)'):
        head.loss((x, ), samples)


def test_predictions():
    model = make_classifier().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)
        samples = model(x, make_samples([0, 1]), mode='predict')
    assert logits.shape == (2, 10)
    for sample, row in zip(samples, logits, strict=True):
        torch.testing.assert_close(sample.pred_score, row.softmax(0))
        assert sample.pred_label == row.argmax()


@pytest.mark.parametrize('backbone', [{}, dict(with_cp=True)])
def test_maps_of_stage_1_are_mixed(backbone):
    model = make_classifier(backbone=backbone).train()
    net, box = model.backbone, Box(0, 1, 1, 3)
    x = torch.randn(3, 3, 64, 96)
    actual, = model._mixed_feats(x, box)
    y = net.stages[0](net.stem(x))
    expected = y.clone()
    for i in range(3):  # rows 0 to 8 and columns 8 to 24 of 16 x 24
        expected[i, :, 0:8, 8:24] = y[2 - i, :, 0:8, 8:24]
    for stage in net.stages[1:]:
        expected = stage(expected)
    torch.testing.assert_close(actual, expected)
    whole, = model._mixed_feats(x, Box(1, 1, 0, 3))
    torch.testing.assert_close(whole, model.extract_feat(x)[0])


def test_boxes_are_random():
    model = make_classifier()
    np.random.seed(0)
    boxes = [model._random_box((224, 225)) for _ in range(500)]
    assert all(0 <= b.top <= b.bottom <= 7 for b in boxes)
    assert all(0 <= b.left <= b.right <= 8 for b in boxes)
    covered = np.zeros((7, 8))
    for box in boxes:
        covered[box.top:box.bottom, box.left:box.right] += 1
    assert covered.min() > 20 and len(set(boxes)) > 50
    np.random.seed(0)
    assert model._random_box((224, 225)) == boxes[0]


def test_loss_mixes_in_training_only(monkeypatch):
    boxes = []
    loss = LVTClsHead.loss

    def record(self, feats, data_samples, box=None):
        boxes.append(box)
        return loss(self, feats, data_samples, box)

    monkeypatch.setattr(LVTClsHead, 'loss', record)
    model = make_classifier()
    x, samples = torch.randn(2, 3, 64, 64), make_samples([1, 2])
    losses = model.train()(x, samples, mode='loss')
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in model.parameters())
    model.eval()(x, samples, mode='loss')
    make_classifier(mix_alpha=0.).train()(x, samples, mode='loss')
    assert isinstance(boxes[0], Box) and boxes[1:] == [None, None]


def test_bfloat16_autocast():
    model = make_classifier().train()
    x, samples = torch.randn(2, 3, 64, 64), make_samples([1, 2])
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(x, samples, mode='loss')
    assert {v.dtype for v in losses.values()} == {torch.float}
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
