# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import math
from pathlib import Path

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmdet')

from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmxvit.analysis.complexity import complexity  # noqa: E402
from mmxvit.analysis.models import build_model, model_of_config  # noqa: E402

STRIDES = (8, 16)
ALPHA, BETA, TOPK = 0.5, 6., 3
WEIGHTS = dict(loss_cls=0.5, loss_bbox=7.5, loss_dfl=1.5)


def make_head(num_classes=3, reg_max=6, topk=TOPK, **kwargs):
    return MODELS.build(
        dict(
            type='mmxvit.YOLODFLHead',
            num_classes=num_classes,
            in_channels=(4, 6),
            reg_channels=8,
            cls_channels=5,
            strides=STRIDES,
            reg_max=reg_max,
            train_cfg=dict(
                assigner=dict(type='TaskAlignedAssigner', topk=topk),
                alpha=ALPHA,
                beta=BETA),
            test_cfg=ConfigDict(
                nms_pre=100,
                score_thr=0.05,
                nms=dict(type='nms', iou_threshold=0.7),
                max_per_img=10),
            **kwargs))


def make_maps(batch=2, height=6, width=8, **kwargs):
    return (torch.randn(batch, 4, height, width, **kwargs),
            torch.randn(batch, 6, height // 2, width // 2, **kwargs))


def objects(boxes, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long))


def metas(count):
    return [dict(img_shape=(48, 64), scale_factor=(1., 1.))] * count


# a large object, a small one within it, one apart, one outside of the image
SOME = objects([[3, 2, 60, 46], [10, 12, 26, 22], [40, 20, 63, 47],
                [70, 50, 90, 60]], [0, 2, 2, 1])
OTHER = objects([[5, 5, 60, 44]], [1])
NONE = objects([], [])


# The slow literal reference: Python numbers and lists, one place at a time.
def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def iou(a, b):
    width = max(0., min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0., min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


def ciou(a, b):
    """Zheng et al., arXiv 2005.03572, Eq. 7 to 10."""
    overlap = iou(a, b)
    centres = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2)**2 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i]))**2
                   for i in (0, 1))
    v = 4 / math.pi**2 * (
        math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan(
            (a[2] - a[0]) / (a[3] - a[1])))**2
    alpha = v / (1 - overlap + v) if overlap > 0.5 else 0
    return overlap - centres / diagonal - alpha * v


def places(scores, logits, reg_max):
    """Of one image: (x, y, stride, class logits, 4 distributions)."""
    found = []
    for stride, score, logit in zip(STRIDES, scores, logits, strict=True):
        for row in range(score.shape[1]):
            for col in range(score.shape[2]):
                values = logit[:, row, col].tolist()
                found.append(
                    ((col + 0.5) * stride, (row + 0.5) * stride, stride,
                     score[:, row, col].tolist(),
                     [values[i * reg_max:(i + 1) * reg_max]
                      for i in range(4)]))
    return found


def box_of(place):
    x, y, stride, _, distributions = place
    left, top, right, bottom = (
        stride * sum(k * p for k, p in enumerate(softmax(d)))
        for d in distributions)
    return [x - left, y - top, x + right, y + bottom]


def assign(found, truth, topk=TOPK):
    """{place: (object, soft label)}, TOOD section 3.2."""
    boxes, labels = truth.bboxes.tolist(), truth.labels.tolist()
    chosen = {}
    alignment = {}
    for j, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        ranked = []
        for i, place in enumerate(found):
            if box[0] < place[0] < box[2] and box[1] < place[1] < box[3]:
                overlap = iou(box_of(place), box)
                t = sigmoid(place[3][label])**ALPHA * overlap**BETA
                alignment[i, j] = t, overlap
                ranked.append((t, i))
        for t, i in sorted(ranked, reverse=True)[:topk]:
            if t > 0:
                chosen.setdefault(i, []).append(j)
    owner = {i: max(js, key=lambda j: alignment[i, j][1])
             for i, js in chosen.items()}
    soft = {}
    for i, j in owner.items():
        mine = [alignment[k, j] for k in owner if owner[k] == j]
        best_t, best_iou = (max(values) for values in zip(*mine, strict=True))
        soft[i] = j, alignment[i, j][0] / best_t * best_iou
    return soft


def reference_losses(scores, logits, truths, reg_max):
    cls = box = dfl = total = 0.
    for image, truth in enumerate(truths):
        found = places([s[image] for s in scores], [t[image] for t in logits],
                       reg_max)
        soft = assign(found, truth)
        for i, place in enumerate(found):
            j, quality = soft.get(i, (None, 0.))
            for c, logit in enumerate(place[3]):
                is_own = j is not None and truth.labels[j] == c
                target = quality if is_own else 0.
                p = sigmoid(logit)
                cls -= target * math.log(p) + (1 - target) * math.log(1 - p)
            if j is None:
                continue
            total += quality
            true = truth.bboxes[j].tolist()
            box += quality * (1 - ciou(box_of(place), true))
            x, y, stride, _, distributions = place
            distances = (x - true[0], y - true[1], true[2] - x, true[3] - y)
            for distance, d in zip(distances, distributions, strict=True):
                target = min(max(distance / stride, 0), reg_max - 1 - 0.01)
                low = int(target)
                p = softmax(d)
                dfl -= quality / 4 * (
                    (low + 1 - target) * math.log(p[low]) +
                    (target - low) * math.log(p[low + 1]))
    total = max(total, 1.)
    return {name: WEIGHTS[name] * value / total
            for name, value in (('loss_cls', cls), ('loss_bbox', box),
                                ('loss_dfl', dfl))}


def random_outputs(batch, dtype=torch.double):
    """Boxes of all sizes, confident and not."""
    return tuple([
        2 * torch.randn(batch, channels, *size, dtype=dtype)
        for size in ((6, 8), (3, 4))
    ] for channels in (3, 4 * 6))


@pytest.mark.parametrize('truths', [
    [SOME], [SOME, OTHER], [NONE, SOME, NONE], [OTHER, NONE], [NONE, NONE]
])
@pytest.mark.parametrize('seed', range(3))
def test_losses_equal_the_equations(truths, seed):
    torch.manual_seed(seed)
    scores, logits = random_outputs(len(truths))
    head = make_head()
    losses = head.loss_by_feat(scores, logits, truths, metas(len(truths)))
    expected = reference_losses(scores, logits, truths, 6)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_the_reference_has_what_it_is_for():
    """The cases above: shared places, distances that are cut off."""
    scores, logits = random_outputs(1)
    found = places([s[0] for s in scores], [t[0] for t in logits], 6)
    soft = assign(found, SOME)
    objects_found = [j for j, _ in soft.values()]
    assert set(objects_found) == {0, 1, 2}
    assert len(objects_found) < 3 * TOPK  # two objects wanted one place
    assert any(max(found[i][0] - 3, 60 - found[i][0]) > 5 * found[i][2]
               for i, (j, _) in soft.items() if j == 0)


@pytest.mark.parametrize('target, bins', [
    (0.125, {0: 0.875, 1: 0.125}),
    (2., {2: 1.}),
    (2.25, {2: 0.75, 3: 0.25}),
    (4.99, {4: 0.01, 5: 0.99}),
    (7., {4: 0.01, 5: 0.99}),  # beyond the last bin
])
def test_distances_become_two_neighbouring_bins(target, bins):
    """The gradient of the loss is p - target for each of the four sides."""
    head = make_head(topk=1)
    x, y = 3.5 * 8, 2.5 * 8
    truth = objects(
        [x - 8 * target, y - 8 * 1.5, x + 8 * 1.5, y + 8 * 1.5], [0])
    scores, logits = random_outputs(1)
    for score, logit in zip(scores, logits, strict=True):
        score.fill_(-9.)
        logit.zero_()
    scores[0][0, 0, 2, 3] = 9.  # the only candidate
    logits[0].requires_grad_()
    loss = head.loss_by_feat(scores, logits, [truth], metas(1))['loss_dfl']
    grad, = torch.autograd.grad(loss, logits[0])
    left = grad[0, :6, 2, 3]
    quality = loss.item() / 1.5 / math.log(6)  # uniform: log 6 on each side
    expected = torch.full((6, ), 1 / 6).double()
    for k, share in bins.items():
        expected[k] -= share
    torch.testing.assert_close(left / (1.5 * quality / 4), expected)
    grad[0, :, 2, 3] = 0
    assert not grad.any()


def test_small_objects_have_places_from_the_first_step():
    """All untrained boxes contain a small object; only places in it count."""
    head = make_head(reg_max=16)
    truth = objects([[11, 11, 14, 14], [33, 19, 38, 22]], [0, 1])
    scores, logits = head(make_maps(1))
    losses = head.loss_by_feat(scores, logits, [truth], metas(1))
    assert losses['loss_bbox'] > 0
    with torch.no_grad():
        points = torch.tensor([[12., 12.], [36., 20.], [20., 20.]])
        boxes = torch.cat((points - 60, points + 60), 1)
        labels, positive, found = head._targets(
            torch.full((3, 3), 0.1), torch.cat((boxes, points), 1), truth)
    assert positive.tolist() == [True, True, False]
    assert found[:2].tolist() == truth.bboxes.tolist()
    assert (labels > 0).tolist() == [[True, False, False],
                                     [False, True, False], [False] * 3]


@pytest.mark.parametrize('truths', [[NONE, NONE], [SOME, NONE, OTHER]])
def test_every_parameter_gets_a_finite_gradient(truths):
    """Also without any object: distributed training needs it."""
    head = make_head()
    samples = metas(len(truths))
    outs = head(make_maps(len(truths)))
    losses = head.loss_by_feat(*outs, truths, samples)
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if not any(len(truth) for truth in truths):
        assert losses['loss_bbox'] == losses['loss_dfl'] == 0
        assert losses['loss_cls'] > 0
        assert not any(p.grad.any() for p in head.reg_branches.parameters())


def test_degenerate_and_extreme_input_stays_finite():
    head = make_head()
    truth = objects([[8, 8, 8, 20], [0, 0, 6400, 4800], [-50, -50, 9, 9]],
                    [0, 1, 2])
    for scale in (0., 1., 1e4):
        scores, logits = ([(scale * t).requires_grad_() for t in maps]
                          for maps in random_outputs(1, torch.float))
        losses = head.loss_by_feat(scores, logits, [truth], metas(1))
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert all(t.grad.isfinite().all() for t in [*scores, *logits])


def test_losses_under_autocast():
    head = make_head()
    x = make_maps()
    truths = [SOME, OTHER]
    with torch.no_grad():
        expected = head.loss_by_feat(*head(x), truths, metas(2))
        with torch.autocast('cpu', torch.bfloat16):
            outs = head(x)
            losses = head.loss_by_feat(*outs, truths, metas(2))
    assert outs[0][0].dtype == torch.bfloat16
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value, expected[name], rtol=0.1, atol=0.01)


def test_labels_and_boxes_are_no_path_for_gradients():
    """A target that follows the prediction would be no target."""
    scores, logits = random_outputs(1)
    head = make_head()
    for tensor in (*scores, *logits):
        tensor.requires_grad_()
    losses = head.loss_by_feat(scores, logits, [SOME], metas(1))
    for name in ('loss_bbox', 'loss_dfl'):
        grads = torch.autograd.grad(
            losses[name], scores, retain_graph=True, allow_unused=True)
        assert all(g is None for g in grads)
    grads = torch.autograd.grad(losses['loss_cls'], logits, allow_unused=True)
    assert all(g is None for g in grads)


def certain(logits, distances):
    """Logits at one place whose mean is each of the four distances."""
    for side, distance in enumerate(distances):
        low = int(distance)
        share = distance - low
        base = side * 6 + low
        logits[side * 6:(side + 1) * 6] = -50.
        logits[base] = math.log(1 - share)
        if share:
            logits[base + 1] = math.log(share)


def test_decoding():
    head = make_head()
    head.eval()
    scores, logits = random_outputs(2, torch.float)
    for score in scores:
        score.fill_(-9.)
    # image 0: stride 8 at (x, y) = (28, 20), stride 16 at (56, 40)
    scores[0][0, 2, 2, 3] = 2.
    certain(logits[0][0, :, 2, 3], (1.25, 0.5, 2., 3.))
    scores[1][0, 0, 2, 3] = 1.
    certain(logits[1][0, :, 2, 3], (1., 1., 4.5, 0.25))
    infos = metas(2)
    found, empty = head.predict_by_feat(
        scores, logits, batch_img_metas=infos)
    assert len(empty) == 0
    torch.testing.assert_close(
        found.bboxes,
        torch.tensor([[18., 16., 44., 44.], [40., 24., 64., 44.]]))
    assert found.labels.tolist() == [2, 0]
    torch.testing.assert_close(found.scores,
                               torch.tensor([2., 1.]).sigmoid())
    infos[0] = dict(infos[0], scale_factor=(2., 0.5))
    scaled, _ = head.predict_by_feat(
        scores, logits, batch_img_metas=infos, rescale=True)
    torch.testing.assert_close(
        scaled.bboxes,
        torch.tensor([[9., 32., 22., 88.], [20., 48., 32., 88.]]))


def test_half_precision_is_widened_before_decoding():
    """Places of a large image cannot be told apart in half precision."""
    head = make_head()
    scores = [torch.full((1, 3, 2 * n, 150 * n), -9.) for n in (2, 1)]
    logits = [torch.zeros(1, 24, 2 * n, 150 * n) for n in (2, 1)]
    scores[0][0, 2, 1, 291] = 2.
    certain(logits[0][0, :, 1, 291], (1., 0.5, 3., 2.))
    info = [dict(img_shape=(32, 2400))]
    found, = head.predict_by_feat(
        [s.bfloat16() for s in scores], [t.bfloat16() for t in logits],
        batch_img_metas=info)
    torch.testing.assert_close(
        found.bboxes, torch.tensor([[2324., 8., 2356., 28.]]), rtol=0,
        atol=0.2)
    distances = head.distances(torch.zeros(1, 24, dtype=torch.bfloat16))
    assert distances.dtype == torch.float32


def test_nms_is_by_class():
    head = make_head()
    scores, logits = random_outputs(1, torch.float)
    for score in scores:
        score.fill_(-9.)
    for col, shift in ((3, 0.), (4, 1.)):  # nearly the same box
        certain(logits[0][0, :, 2, col], (1 + shift, 1., 3 - shift, 1.))
        scores[0][0, 1, 2, col] = 2. - shift
    scores[0][0, 0, 2, 4] = 0.
    found, = head.predict_by_feat(scores, logits, batch_img_metas=metas(1))
    assert found.labels.tolist() == [1, 0]


def test_descent_finds_the_objects():
    """Free logits in place of a network, from the untrained state on."""
    head = make_head(reg_max=8)
    outs = [
        torch.full((1, channels, *size), value, requires_grad=True)
        for channels, value in ((3, -4.6), (32, 0.))
        for size in ((6, 8), (3, 4))
    ]
    truth = objects([[4, 6, 20, 40], [10, 18, 34, 36], [30, 2, 62, 44]],
                    [0, 1, 2])
    optimizer = torch.optim.Adam(outs, lr=0.2)
    for _ in range(100):
        losses = head.loss_by_feat(outs[:2], outs[2:], [truth], metas(1))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found, = head.predict_by_feat(
        outs[:2], outs[2:], batch_img_metas=metas(1))
    found = found[found.scores > 0.5]
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    order = found.labels.argsort()
    torch.testing.assert_close(
        found.bboxes[order], truth.bboxes, rtol=0, atol=0.5)


def test_structure():
    head = make_head()
    assert [len(b) for b in (head.cls_branches, head.reg_branches)] == [2, 2]
    expected = sum(
        9 * width * (channels + width) + 4 * width + (width + 1) * out
        for channels in (4, 6) for width, out in ((5, 3), (8, 24)))
    assert sum(p.numel() for p in head.parameters()) == expected
    scores, logits = head(make_maps())
    assert [s.shape for s in scores] == [(2, 3, 6, 8), (2, 3, 3, 4)]
    assert [t.shape for t in logits] == [(2, 24, 6, 8), (2, 24, 3, 4)]
    # untrained: 1 % for each class, boxes of 5 strides
    assert all((s.sigmoid() - 0.01).abs().max() < 0.005 for s in scores)
    distances = head.distances(logits[0].permute(0, 2, 3, 1))
    torch.testing.assert_close(
        distances, torch.full_like(distances, 2.5), rtol=0, atol=0.3)
    other = make_head(
        norm_cfg=dict(type='GN', num_groups=1), act_cfg=dict(type='ReLU'))
    kinds = {type(m) for m in other.modules()}
    assert {nn.GroupNorm, nn.ReLU} <= kinds
    assert not {nn.BatchNorm2d, nn.SiLU} & kinds


def test_raw_outputs_traced_at_another_size():
    head = make_head()
    head.eval()
    traced = torch.jit.trace(head, (make_maps(), ))
    x = make_maps(1, 10, 4)
    for maps, expected in zip(traced(x), head(x), strict=True):
        for a, b in zip(maps, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('arch, params, gflops', [('s', 1.6, 7.2),
                                                  ('x', 3.6, 14.5)])
def test_configs_have_the_papers_figures(arch, params, gflops):
    """Table 7, parameters on VOC; Table 5, FLOPs on COCO at 640.

    The paper's FLOPs are two for each multiply-add, and one norm operation
    for each element (docs/models/lolvit.md).
    """
    folder = Path(__file__).resolve().parents[3] / 'configs/lolvit'
    voc, coco = (
        build_model(
            model_of_config(
                Config.fromfile(
                    folder / f'yolo_lolvit-{arch}_8xb32-640-500e_{data}.py')))
        for data in ('voc0712', 'coco'))
    millions = sum(p.numel() for p in voc.parameters()) / 1e6
    assert round(millions, 1) == params
    assert millions == pytest.approx(params, rel=0.01)
    counted = complexity(coco, (3, 640, 640))
    full, norms = 2e-9 * counted.full, 1e-9 * counted.nominal['norm']
    assert round(full + norms, 1) == gflops
    assert full == pytest.approx(gflops, rel=0.01)
    assert counted.executed <= counted.full


def test_bad_arguments():
    with pytest.raises(ValueError, match='one entry for each map'):
        MODELS.build(
            dict(
                type='mmxvit.YOLODFLHead',
                num_classes=3,
                in_channels=(4, 6)))
