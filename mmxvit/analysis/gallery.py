# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""One HTML page about a trained model, complete in itself.

The training curve, the scores, predictions over ground truth with a slider,
and pictures of attention. Nothing on the page is loaded from elsewhere.
"""
import base64
import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2  # torch requires it
import mmcv
import numpy as np
import torch
import torch.nn as nn
from matplotlib.ticker import LogLocator, MaxNLocator
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image

from mmxvit.engine.command import UserError, type_name
from mmxvit.engine.predict import draw, predict_data, preprocess, read_image

from .attention_maps import draw_attention, record_attentions
from .models import config_input_size

_NOT_SCORES = ('data_time', 'time', 'step', 'iter', 'epoch')
_CURVES = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'PQ', 'mAP', 'mIoU', 'top1')
_AP_COLUMNS = dict(
    mAP='mAP', mAP_50='AP50', mAP_75='AP75', mAP_s='small', mAP_m='medium',
    mAP_l='large')
_KINDS = dict(bbox='boxes', segm='masks')
_TRUTH = ('gt_instances', 'gt_sem_seg', 'gt_panoptic_seg')
_MAX_POINTS = 500  # of a line on the page
_MAX_SIDE = 960  # pixels of a picture on the page


@dataclass
class Curve:
    """What a training has logged.

    Attributes:
        unit: ``'epoch'`` or ``'iteration'``, of all x.
        loss: (x, training loss).
        scores: (x, value) by name of the score on the validation set.
    """
    unit: str
    loss: list[tuple[float, float]]
    scores: dict[str, list[tuple[float, float]]]


@dataclass
class Table:
    """Cells as they are shown; the first of a row is its name."""
    caption: str
    head: list[str]
    rows: list[list[str]]


@dataclass
class Comparison:
    """An image of the test set.

    Attributes:
        name: Of its file.
        note: What is to be said of the prediction.
        size: (width, height) of the pictures.
        prediction: Picture as a data URI.
        truth: The same of the ground truth; None: there is none, or the note
            has it.
    """
    name: str
    note: str
    size: tuple[int, int]
    prediction: str
    truth: str | None


@dataclass
class AttentionPicture:
    """Attention of a layer, for one query, as a data URI."""
    image: str
    layer: str
    size: tuple[int, int]
    picture: str


@dataclass
class Gallery:
    """What the page shows; empty parts are replaced by a sentence.

    Attributes:
        facts: Lines of the head, (what, value).
        attention_note: Why there are no pictures of attention.
    """
    title: str
    facts: list[tuple[str, str]]
    curve: Curve | None
    tables: list[Table]
    comparisons: list[Comparison]
    attention: list[AttentionPicture] = field(default_factory=list)
    attention_note: str = ''


def read_curve(work_dir: Path) -> Curve | None:
    """Loss and scores of all log files of a work folder.

    Where a training was resumed the later file counts from its first iteration
    on; where another one was begun, only the later file counts.

    Returns:
        None if no training has logged a finite loss there.
    """
    losses: dict[int, dict] = {}
    scores: list[dict] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = list(_read_lines(path))
        train = [r for r in records if 'loss' in r and 'iter' in r]
        if not train:
            continue
        first = train[0]
        # an epoch-based log does not go on with one by iterations
        if not _is_resumed(path.parent) or any(
                ('epoch' in r) != ('epoch' in first) for r in losses.values()):
            losses, scores = {}, []
        losses = {i: r for i, r in losses.items() if i < first['iter']}
        losses.update((r['iter'], r) for r in train)
        # MMEngine counts validations by epoch in an epoch-based loop
        begin = first.get('epoch', first['iter'])
        scores = [r for r in scores if r['step'] < begin]
        scores += [r for r in records if 'loss' not in r and 'step' in r]
    if not losses:
        return None
    by_epoch = 'epoch' in losses[max(losses)]
    per_unit = max(
        r['iter'] / r['epoch'] for r in losses.values()) if by_epoch else 1
    loss = _finite(
        (i / per_unit, r['loss']) for i, r in sorted(losses.items()))
    if not loss:
        return None
    lines = {
        score_name(key): _finite((r['step'], r[key]) for r in scores
                                 if key in r)
        for key in _main_scores(scores)
    }
    return Curve('epoch' if by_epoch else 'iteration', loss,
                 {name: line for name, line in lines.items() if line})


def _is_resumed(folder: Path) -> bool:
    """By the config that MMEngine leaves beside the log."""
    config = folder / 'config.py'
    return not config.is_file() or bool(re.search(
        '^resume = True$', config.read_text(encoding='utf-8'), re.M))


def _read_lines(path: Path) -> Iterator[dict]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last one of a training that was killed
            continue


def _finite(points: Iterable[tuple[float, float]]) -> list:
    return [p for p in points if math.isfinite(p[1])]


def _main_scores(records: list[dict]) -> list[str]:
    """Keys of the scores that are drawn."""
    keys = list(dict.fromkeys(
        k for r in records for k in r if k not in _NOT_SCORES))
    main = [k for name in _CURVES for k in keys
            if k.rpartition('/')[2] == name]
    return main or keys[:1]


def score_name(key: str) -> str:
    """``'coco/bbox_mAP_50'`` -> ``'AP50 (boxes)'``, others as they are."""
    kind, _, name = key.rpartition('/')[2].partition('_')
    if kind in _KINDS and name in _AP_COLUMNS:
        return f'{_AP_COLUMNS[name]} ({_KINDS[kind]})'
    return key


def read_scores(path: Path) -> dict[str, float]:
    """What ``tools/test.py`` has written: the newest line of a JSON file.

    Raises:
        UserError: There is no such file, or it is another one.
    """
    if not path.is_file():
        raise UserError(f'--scores {path}: no such file; give the JSON file '
                        'that tools/test.py has written, '
                        'WORK_DIR/<time>/<time>.json, or leave it out')
    try:
        scores = json.loads(path.read_text().splitlines()[-1])
        return {k: float(v) for k, v in scores.items()}
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(
            f'--scores {path}: expected names and numbers, as tools/test.py '
            f'writes them into WORK_DIR/<time>/<time>.json ({error})'
        ) from error


def score_tables(scores: dict[str, float]) -> list[Table]:
    """AP of boxes and masks, AP of classes, and all other scores."""
    scores = {k: v for k, v in scores.items() if k not in _NOT_SCORES}
    by_name = {k.rpartition('/')[2]: v for k, v in scores.items()}
    used, tables = set(), []
    kinds = [kind for kind in _KINDS if f'{kind}_mAP' in by_name]
    if kinds:
        keys = {kind: [f'{kind}_{c}' for c in _AP_COLUMNS] for kind in kinds}
        used.update(k for row in keys.values() for k in row)
        tables.append(Table(
            'COCO average precision', ['', *_AP_COLUMNS.values()],
            [[_KINDS[kind], *(_cell(by_name.get(k)) for k in keys[kind])]
             for kind in kinds]))
        classes = {
            k: k.removesuffix('_precision') for k in by_name
            if k.endswith('_precision')
        }
        used.update(classes)
        if classes:
            # mmdet writes them for each kind under the same names
            last = [k for k in by_name if k in ('bbox_mAP', 'segm_mAP')][-1]
            tables.append(Table(
                f'mAP of each class ({_KINDS[last[:4]]})', ['class', 'mAP'],
                [[name, _cell(by_name[k])] for k, name in classes.items()]))
    rest = {k: v for k, v in scores.items()
            if k.rpartition('/')[2] not in used
            and not k.rpartition('/')[2].endswith('_copypaste')}
    if rest:
        tables.append(Table(
            'Other scores' if tables else 'Scores', ['score', 'value'],
            [[k, _cell(v)] for k, v in rest.items()]))
    return tables


def _cell(value: float | None) -> str:
    """COCO says -1, or not a number, where there is no such object."""
    if value is None or not math.isfinite(value) or value == -1:
        return '–'
    return f'{value:.3f}' if abs(value) <= 1 else f'{value:.2f}'


def use_class_scores(cfg: Config) -> None:
    """Let COCO metrics of the test say the AP of each class, too."""
    evaluators = cfg.test_evaluator
    if isinstance(evaluators, dict):
        evaluators = [evaluators]
    for evaluator in evaluators:
        if type_name(evaluator).rpartition('.')[2] == 'CocoMetric':
            evaluator.classwise = True


def compare(cfg: Config, model: nn.Module, count: int,
            score_thr: float) -> tuple[list[Comparison], list[dict]]:
    """Predict and draw some images of the test set, evenly spread over it.

    Args:
        cfg: Config with ``test_dataloader``.
        model: From :func:`~mmxvit.engine.predict.build_model`.
        count: How many images.
        score_thr: Objects below this score are left out.

    Returns:
        What is shown of them, and for each its ``image`` (H, W, 3), RGB, and
        ``query``, the place (x, y) in [0, 1] of its largest object.

    Raises:
        UserError: The test pipeline does not keep the path of the image.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    shown, images = [], []
    for index in np.linspace(
            0, len(dataset) - 1, min(count, len(dataset))).round():
        sample = predict_data(model, dataset[int(index)])
        if 'img_path' not in sample:
            raise UserError(
                'test_dataloader: its images cannot be found again, because '
                "meta_keys of the last step of the pipeline lack 'img_path'")
        image = read_image(sample.img_path)
        name = Path(sample.img_path).name
        if cfg.default_scope == 'mmpretrain':
            note = _classes_note(dataset.metainfo.get('classes') or (), sample)
            prediction, truth = _shrink(image), None
        else:
            note = _objects_note(sample, score_thr)
            prediction, truth = _draw_both(cfg, image, sample, score_thr)
        shown.append(Comparison(
            name, note, prediction.size, data_uri(prediction),
            truth and data_uri(truth)))
        images.append(dict(image=image, query=_largest(sample, image)))
    return shown, images


def _draw_both(
        cfg: Config, image: np.ndarray, sample: BaseDataElement,
        score_thr: float) -> tuple[Image.Image, Image.Image | None]:
    """Pictures of prediction and ground truth, where there is one."""
    known = any(key in sample for key in _TRUTH)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for truth in (False, True)[:1 + known]:
            path = str(Path(folder) / f'{truth}.png')
            draw(cfg, image, sample, path, score_thr, truth)
            pictures.append(_shrink(mmcv.imread(path)[..., ::-1]))
    return pictures[0], pictures[1] if known else None


def _objects_note(sample: BaseDataElement, score_thr: float) -> str:
    if 'pred_instances' not in sample or 'scores' not in sample.pred_instances:
        return ''
    found = int((sample.pred_instances.scores >= score_thr).sum())
    note = f'{found} found with a score of at least {score_thr:g}'
    if 'gt_instances' in sample:
        note = f'{len(sample.gt_instances)} in the ground truth, {note}'
    return note


def _classes_note(classes: Sequence[str], sample: BaseDataElement) -> str:
    def names(key: str) -> str:
        labels = sample.get(key, torch.empty(0)).flatten().long().tolist()
        return ', '.join(classes[i] if i < len(classes) else f'class {i}'
                         for i in labels)

    score = float(sample.pred_score.max())
    note = (f'prediction {names("pred_label") or "none"} '
            f'(highest score {score:.2f})')
    truth = names('gt_label')
    return f'{truth}, {note}' if truth else note


def _largest(sample: BaseDataElement,
             image: np.ndarray) -> tuple[float, float]:
    """Centre of the largest object; that of the image if there is none."""
    for key in ('gt_instances', 'pred_instances'):
        instances = sample.get(key)
        if instances is not None and len(instances):
            boxes = np.asarray(getattr(instances.bboxes, 'tensor',
                                       instances.bboxes))
            sides = boxes[:, 2:] - boxes[:, :2]
            x, y = boxes[sides.prod(1).argmax()].reshape(2, 2).mean(0)
            height, width = image.shape[:2]
            return (float(np.clip(x / width, 0, 1)),
                    float(np.clip(y / height, 0, 1)))
    return .5, .5


def draw_attentions(cfg: Config, model: nn.Module, name: str,
                    image: np.ndarray,
                    query: tuple[float, float]) -> list[AttentionPicture]:
    """The last attention of each stage of the backbone.

    Args:
        cfg: Config of the model; has the size that it tests at.
        model: With a ``backbone``.
        name: Of the image.
        image: (H, W, 3), uint8, RGB.
        query: Place (x, y) in [0, 1].

    Raises:
        UserError: The backbone has no attention that can be drawn.
    """
    size, _ = config_input_size(cfg) or ((224, 224), '')
    image = mmcv.imresize(image, size[::-1])
    records = record_attentions(model.backbone, preprocess(model, image))
    last = {record.name.split('.')[1]: record for record in records}
    pictures = []
    for record in last.values():
        stream = BytesIO()
        draw_attention(record, image, query).savefig(
            stream, format='png', dpi=90, bbox_inches='tight')
        picture = Image.open(stream).convert('RGB')
        pictures.append(AttentionPicture(
            name, record.name, picture.size, data_uri(picture)))
    return pictures


def _shrink(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return image


def data_uri(picture: Image.Image) -> str:
    """A picture as a part of the page."""
    stream = BytesIO()
    picture.save(stream, 'JPEG', quality=88)
    text = base64.b64encode(stream.getvalue()).decode()
    return f'data:image/jpeg;base64,{text}'


@dataclass
class _Axis:
    """From values to places on the page."""
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = map(math.log, (low, high, value))
        share = (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        locator = LogLocator(subs=(1, 2, 5)) if self.log else MaxNLocator(
            5, steps=(1, 2, 5, 10))
        return [(self(v), f'{v:g}')
                for v in locator.tick_values(self.low, self.high)
                if self.low <= v <= self.high]


def plot(curve: Curve) -> dict[str, Any]:
    """What the page draws of the curve, in units of its SVG, and says of it.

    Returns:
        ``width``, ``height``; ``left``, ``right``, ``bottom`` of the frame;
        ``x_ticks``, ``y_ticks``, ``score_ticks``: (place, text); ``lines``,
        each with ``name``, ``style``, ``points`` and ``marks``; ``title``,
        ``summary``; ``table`` of the scores or None.
    """
    width, height = 480, 290
    left, top, right, bottom = 46, 12, 434, 244
    x = _Axis(0, max(p for line in (curve.loss, *curve.scores.values())
                     for p, _ in line), left, right)
    losses = [value for _, value in curve.loss]
    low, high = min(losses), max(losses)
    margin = 1e-3 * max(abs(low), abs(high), 1e-6)  # for a constant loss
    y = _Axis(low - margin, high + margin, bottom, top, low > margin)
    values = [v for line in curve.scores.values() for _, v in line]
    full = 1 if max(values, default=0) <= 1 else 100
    percent = _Axis(min([0, *values]), max([full, *values]), bottom, top)

    def line(name: str, style: str, axis: _Axis,
             values: list[tuple[float, float]]) -> dict[str, Any]:
        step = -(-len(values) // _MAX_POINTS)
        points = [(x(a), axis(b)) for a, b in values[::step]]
        marks = points if style != 'loss' and len(points) <= 40 else []
        return dict(name=name, style=style, points=points, marks=marks)

    unit = curve.unit
    table = Table(
        'Scores on the validation set', [unit, *curve.scores],
        [[f'{step:g}', *(_cell(dict(v).get(step))
                         for v in curve.scores.values())]
         for step in sorted({s for v in curve.scores.values()
                             for s, _ in v})])
    ends = ''.join(f' {name} ends at {_cell(line[-1][1])}.'
                   for name, line in curve.scores.items())
    return dict(
        width=width, height=height, left=left, right=right, bottom=bottom,
        x_ticks=x.ticks(), y_ticks=y.ticks(),
        score_ticks=percent.ticks() if values else [],
        lines=[
            line('training loss (left)', 'loss', y, curve.loss),
            *(line(f'{name} on the validation set (right)', f's{i % 3}',
                   percent, points)
              for i, (name, points) in enumerate(curve.scores.items()))
        ],
        title=f'Training loss{" and scores" * bool(values)} by {unit}',
        summary=f'The loss ends at {losses[-1]:.3g}.{ends}',
        table=table if values else None)


def write_page(gallery: Gallery, path: Path) -> None:
    """Write the page; a file that is there is replaced by a whole one."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent))
    text = environment.get_template('gallery.html').render(
        gallery=gallery, plot=gallery.curve and plot(gallery.curve))
    partial = path.with_name(f'{path.name}.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)
