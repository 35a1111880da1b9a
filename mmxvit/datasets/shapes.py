# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Small, learnable, exactly annotated toy data.

Objects are flat shapes on noisy, textured backgrounds.  A class is told by
the *shape* alone: colour, size, rotation and texture are drawn independently
of it.  Later objects cover earlier ones, and masks, boxes and areas are those
of the visible part.  Distractors (lines, scribbles, bars, blobs, half-moons,
letters) belong to no class.

The random state of an image depends on ``(seed, split, index)`` and on
nothing else, so a longer set starts with the images of a shorter one.
"""
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image

from mmxvit.version import __version__

SHAPES = ('disc', 'square', 'triangle', 'star', 'ring', 'cross', 'arrow',
          'heart', 'corner', 'frame')
"""Every shape that can be drawn."""
CLASSES = SHAPES[:5]
"""Default classes of all layouts but ``imagenet``, which takes ten."""
STUFF_CLASSES = ('cloud', 'stripe', 'grain')
"""Background textures, the stuff classes of the segmentation layouts."""

COUNT_RANGE = (2, 8)
"""Objects per image, both ends included."""
SIZE_RANGE = (0.06, 0.60)
"""Sides of the visible box, as fractions of the shorter image side."""
MIN_VISIBLE = 0.6
"""Least visible fraction of an object's area."""
MIN_CONTRAST = 80.
"""Least difference, in the strongest channel (0-255), between an object's
colour and the mean of what it covers."""

_SUPERSAMPLE = 4


@dataclass
class SceneObject:
    """One annotated object.

    Attributes:
        class_id: Index into ``SHAPES``.
        mask: Visible part, bool (H, W).
        full_area: Pixels of the whole shape, hidden and cut off ones too.
    """
    class_id: int
    mask: np.ndarray
    full_area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box of the mask: x, y, width, height in pixels."""
        return _tight_box(self.mask)


@dataclass
class Scene:
    """A picture of shapes with its exact annotation.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        objects: Objects from the lowest to the topmost; the masks are
            disjoint.
        background: Index into ``STUFF_CLASSES`` per pixel, also below the
            objects; uint8 (H, W).
        void: Visible pixels of distractors, bool (H, W).
    """
    image: np.ndarray
    objects: list[SceneObject]
    background: np.ndarray
    void: np.ndarray


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(1))
    cols = np.flatnonzero(mask.any(0))
    x, y = int(cols[0]), int(rows[0])
    return x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1


# --------------------------------------------------------------- outlines
def _ngon(n: int, radius: float = 1., phase: float = 0.) -> np.ndarray:
    angle = phase + np.arange(n) * (2 * math.pi / n)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _outline(name: str) -> list[np.ndarray]:
    """Closed polygons of a shape, (N, 2) each; a second one is a hole."""
    if name == 'disc':
        return [_ngon(72)]
    if name == 'square':
        return [_ngon(4)]
    if name == 'triangle':
        return [_ngon(3)]
    if name == 'star':
        star = _ngon(10)
        star[1::2] *= 0.42
        return [star]
    if name == 'ring':
        return [_ngon(72), _ngon(72, 0.55)]
    if name == 'frame':
        return [_ngon(4), _ngon(4, 0.55)]
    if name == 'cross':
        a = 0.32
        return [np.array([(a, a), (1, a), (1, -a), (a, -a), (a, -1), (-a, -1),
                          (-a, -a), (-1, -a), (-1, a), (-a, a), (-a, 1),
                          (a, 1)])]
    if name == 'arrow':
        return [np.array([(1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3),
                          (-1, -0.3), (0.1, -0.3), (0.1, -0.8)])]
    if name == 'heart':
        t = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        return [np.stack([16 * np.sin(t)**3,
                          13 * np.cos(t) - 5 * np.cos(2 * t) -
                          2 * np.cos(3 * t) - np.cos(4 * t)], 1) / 16]
    if name == 'corner':
        return [np.array([(-1, -1), (1, -1), (1, -0.3), (-0.3, -0.3),
                          (-0.3, 1), (-1, 1)])]
    raise KeyError(name)


def _turn(polygons: list[np.ndarray], rng: np.random.Generator,
          size: float) -> list[np.ndarray]:
    """Stretch a little, turn by any angle, longer box side = ``size``."""
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    turn = rng.uniform(0, 2 * math.pi)
    skew = rng.uniform(0, 2 * math.pi)

    def rotation(angle: float) -> np.ndarray:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, -s], [s, c]])

    matrix = (rotation(turn) @ rotation(-skew)
              @ np.diag([stretch, 1 / stretch]) @ rotation(skew))
    polygons = [p @ matrix.T for p in polygons]
    low, high = polygons[0].min(0), polygons[0].max(0)
    scale = size / (high - low).max()
    return [(p - (low + high) / 2) * scale for p in polygons]


def _fill(polygons: list[np.ndarray]) -> np.ndarray:
    """Coverage 0..1 of polygons around the origin, float32 patch."""
    half = int(np.ceil(max(np.abs(p).max() for p in polygons))) + 2
    canvas = np.zeros((2 * half * _SUPERSAMPLE, ) * 2, np.uint8)
    points = [np.round(((p + half) * _SUPERSAMPLE - 0.5) * 16).astype(np.int32)
              for p in polygons]
    cv2.fillPoly(canvas, points, 255, shift=4)
    return _reduce(canvas, half)


def _stroke(lines: list[np.ndarray], thickness: float) -> np.ndarray:
    """Coverage 0..1 of open lines around the origin, float32 patch."""
    half = int(np.ceil(max(np.abs(p).max() for p in lines) + thickness)) + 2
    canvas = np.zeros((2 * half * _SUPERSAMPLE, ) * 2, np.uint8)
    points = [np.round(((p + half) * _SUPERSAMPLE - 0.5) * 16).astype(np.int32)
              for p in lines]
    cv2.polylines(canvas, points, False, 255,
                  max(1, round(thickness * _SUPERSAMPLE)), shift=4)
    return _reduce(canvas, half)


def _reduce(canvas: np.ndarray, half: int) -> np.ndarray:
    small = cv2.resize(canvas, (2 * half, 2 * half),
                       interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


# ------------------------------------------------------------ distractors
def _fit(polygon: np.ndarray, size: float) -> list[np.ndarray]:
    """Centre a polygon and scale its longer box side to ``size``."""
    low, high = polygon.min(0), polygon.max(0)
    return [(polygon - (low + high) / 2) * (size / (high - low).max())]


def _distractor(rng: np.random.Generator, side: float) -> np.ndarray:
    """Coverage patch of something that is no class."""
    kind = rng.integers(6)
    size = side * rng.uniform(0.08, 0.35)
    angle = rng.uniform(0, 2 * math.pi)
    spin = np.array([[math.cos(angle), -math.sin(angle)],
                     [math.sin(angle), math.cos(angle)]])
    if kind == 0:  # straight line, may be long
        length = side * rng.uniform(0.15, 0.7)
        line = np.array([(-0.5, 0.), (0.5, 0.)]) * length
        return _stroke([line @ spin.T], side * rng.uniform(0.006, 0.016))
    if kind == 1:  # scribble: a wandering open line
        steps = rng.normal(0, 1, (rng.integers(4, 8), 2)).cumsum(0)
        return _stroke(_fit(steps, size), side * rng.uniform(0.006, 0.018))
    if kind == 2:  # bar, much longer than wide
        bar = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
        bar = bar * (1, 1 / rng.uniform(4, 8))
        return _fill([p @ spin.T for p in _fit(bar, size)])
    if kind == 3:  # irregular, long blob
        t = np.arange(48) * (2 * math.pi / 48)
        radius = 1 + sum(
            rng.uniform(0.1, 0.28) * np.cos(k * t + rng.uniform(0, 6.3))
            for k in (2, 3, 5))
        blob = np.stack([radius * np.cos(t), radius * np.sin(t)], 1)
        blob = blob * (1, rng.uniform(0.3, 0.5))
        return _fill([p @ spin.T for p in _fit(blob, size)])
    if kind == 4:  # half-moon
        t = np.linspace(0, math.pi, 32)
        depth = rng.uniform(-0.6, 0.15)
        arc = np.stack([np.cos(t), np.sin(t)], 1)
        back = np.stack([np.cos(t[::-1]), -depth * np.sin(t[::-1])], 1)
        return _fill([p @ spin.T
                      for p in _fit(np.concatenate([arc, back]), size)])
    # letters
    text = ''.join(rng.choice(list('EFHKMNRSWZ2357'), rng.integers(1, 4)))
    scale = max(0.3, side * rng.uniform(0.05, 0.14) / 22)
    thick = max(1, round(scale * 2))
    (w, h), base = cv2.getTextSize(text, 0, scale * _SUPERSAMPLE,
                                   thick * _SUPERSAMPLE)
    half = int(np.ceil(math.hypot(w, h + base) / 2 / _SUPERSAMPLE)) + 3
    canvas = np.zeros((2 * half * _SUPERSAMPLE, ) * 2, np.uint8)
    centre = half * _SUPERSAMPLE
    cv2.putText(canvas, text, (centre - w // 2, centre + h // 2), 0,
                scale * _SUPERSAMPLE, 255, thick * _SUPERSAMPLE)
    matrix = cv2.getRotationMatrix2D((centre, centre),
                                     math.degrees(angle), 1.)
    return _reduce(cv2.warpAffine(canvas, matrix, canvas.shape[::-1]), half)


# ------------------------------------------------------ colours, textures
def _colour(rng: np.random.Generator,
            away_from: np.ndarray | None = None) -> np.ndarray:
    """A random RGB colour, float32 (3,), 0..255."""
    while True:
        hsv = np.float32([[[rng.uniform(0, 360), rng.uniform(0.1, 0.9),
                            rng.uniform(0.2, 1.)]]])
        rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255
        if away_from is None or np.abs(
                rgb - away_from).max() >= MIN_CONTRAST:
            return rgb


def _smooth_noise(rng: np.random.Generator, height: int, width: int,
                  cell: float) -> np.ndarray:
    """Zero-mean noise with features of about ``cell`` pixels, (H, W)."""
    grid = rng.standard_normal(
        (math.ceil(height / cell) + 3, math.ceil(width / cell) + 3),
        dtype=np.float32)
    big = cv2.resize(grid, None, fx=cell, fy=cell,
                     interpolation=cv2.INTER_CUBIC)
    return big[:height, :width]


def _stripes(rng: np.random.Generator, height: int, width: int,
             period: float) -> np.ndarray:
    """A sine wave of any direction, -1..1, (H, W)."""
    angle = rng.uniform(0, math.pi)
    phase = rng.uniform(0, 2 * math.pi)
    y, x = np.ogrid[:height, :width]
    wave = (x * math.cos(angle) + y * math.sin(angle)) * (
        2 * math.pi / period)
    return np.sin(wave + phase).astype(np.float32)


def _surface(rng: np.random.Generator, height: int,
             width: int) -> np.ndarray:
    """Brightness pattern of an object or distractor, (H, W)."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((height, width), np.float32)
    if kind == 1:
        return rng.uniform(8, 25) * _stripes(
            rng, height, width, 2.5 * max(height, width))
    if kind == 2:
        return rng.uniform(6, 18) * _stripes(rng, height, width,
                                             rng.uniform(4, 12))
    return rng.uniform(5, 14) * _smooth_noise(rng, height, width,
                                              rng.uniform(2, 6))


def _background(rng: np.random.Generator, height: int,
                width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two or three textured regions.

    Returns:
        Image, float32 (H, W, 3), and region map, uint8 (H, W).
    """
    side = min(height, width)
    kinds = rng.permutation(len(STUFF_CLASSES))[:rng.integers(2, 4)]
    cuts = ([rng.uniform(0.3, 0.7)] if len(kinds) == 2 else
            [rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.75)])
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    along += side * rng.uniform(0.01, 0.05) * np.sin(
        across * (2 * math.pi / (side * rng.uniform(0.3, 1.))) +
        rng.uniform(0, 6.3))
    # Quantiles give every region its share whatever the direction.
    region = np.searchsorted(np.quantile(along, cuts), along)
    image = np.empty((height, width, 3), np.float32)
    for i, kind in enumerate(kinds):
        name = STUFF_CLASSES[kind]
        if name == 'cloud':
            pattern = 14 * _smooth_noise(rng, height, width, side / 7)
        elif name == 'stripe':
            pattern = 24 * _stripes(rng, height, width, rng.uniform(6, 12))
        else:
            pattern = 20 * _smooth_noise(rng, height, width, 1.8)
        inside = region == i
        image[inside] = _colour(rng) + pattern[inside][:, None]
    return image, kinds.astype(np.uint8)[region]


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, blur and noise; returns uint8."""
    height, width = image.shape[:2]
    light = _stripes(rng, height, width, 4. * min(height, width))
    image = image * (1 + rng.uniform(0, 0.2) * light[..., None])
    blur = rng.uniform(0, 0.8)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image += rng.uniform(3, 11) * rng.standard_normal(
        image.shape, dtype=np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


# ------------------------------------------------------------------ scene
class _Canvas:
    """Picture under construction; layers cover what is below them."""

    def __init__(self, rng: np.random.Generator, height: int, width: int,
                 size_range: tuple[float, float] = SIZE_RANGE):
        self.rng = rng
        self.size_range = size_range
        self.height, self.width = height, width
        self.side = min(height, width)
        self.image, self.background = _background(rng, height, width)
        self.top = np.full((height, width), -1, np.int16)
        self.class_ids: list[int | None] = []
        self.full_areas: list[int] = []

    def add(self, patch: np.ndarray, class_id: int | None) -> bool:
        """Lay a patch where it hides nothing too much.

        Args:
            patch: Coverage 0..1 with the shape in its middle.
            class_id: None for a distractor.

        Returns:
            Whether a place was found.
        """
        full = patch >= 0.5
        px, py, w, h = _tight_box(full)
        # Up to 15 % of the box may lie outside of the image.
        low = np.array([-0.15 * w - px, -0.15 * h - py])
        high = np.array([self.width - 0.85 * w - px,
                         self.height - 0.85 * h - py])
        for _ in range(20):
            x, y = np.round(self.rng.uniform(low, np.maximum(high, low)))
            x, y = int(x), int(y)
            x0, y0 = max(x, 0), max(y, 0)
            x1 = min(x + patch.shape[1], self.width)
            y1 = min(y + patch.shape[0], self.height)
            inner = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
            window = (slice(y0, y1), slice(x0, x1))
            top = self.top.copy()
            top[window][full[inner]] = len(self.class_ids)
            if self._acceptable(top, window, full, class_id):
                break
        else:
            return False
        self.top = top
        self.class_ids.append(class_id)
        self.full_areas.append(int(full.sum()))
        below = self.image[window]
        alpha = patch[inner]
        hidden = full[inner]
        colour = _colour(self.rng, below[hidden].mean(0))
        paint = colour + _surface(self.rng, *alpha.shape)[..., None]
        below += alpha[..., None] * (paint - below)
        return True

    def _acceptable(self, top: np.ndarray, window: tuple[slice, slice],
                    full: np.ndarray, class_id: int | None) -> bool:
        new = len(self.class_ids)
        class_ids = [*self.class_ids, class_id]
        areas = [*self.full_areas, int(full.sum())]
        for i in {*np.unique(self.top[window]).tolist(), new} - {-1}:
            if class_ids[i] is None:
                continue
            visible = top == i
            if visible.sum() < MIN_VISIBLE * areas[i]:
                return False
            _, _, w, h = _tight_box(visible)
            if (min(w, h) < self.size_range[0] * self.side
                    or max(w, h) > self.size_range[1] * self.side):
                return False
        # A distractor must show at all.
        return class_id is not None or bool((top == new).any())

    def add_shape(self, class_id: int, size: float) -> bool:
        """Lay a shape whose box has a longer side of ``size`` pixels."""
        polygons = _turn(_outline(SHAPES[class_id]), self.rng, size)
        shift = self.rng.uniform(-0.5, 0.5, 2)
        return self.add(_fill([p + shift for p in polygons]), class_id)

    def add_distractors(self, count: int) -> None:
        for _ in range(count):
            self.add(_distractor(self.rng, self.side), None)

    def finish(self) -> Scene:
        """Take the photograph; collect what is visible."""
        image = _expose(self.rng, self.image)
        objects = [SceneObject(class_id, self.top == i, self.full_areas[i])
                   for i, class_id in enumerate(self.class_ids)
                   if class_id is not None]
        void = self.top >= 0
        for obj in objects:
            void &= ~obj.mask
        return Scene(image, objects, self.background, void)


def make_scene(rng: np.random.Generator, height: int, width: int,
               num_classes: int = len(CLASSES)) -> Scene:
    """Draw a picture of 2 to 8 shapes.

    Args:
        rng: Source of all randomness.
        height: Rows of the picture, at least 64.
        width: Columns of the picture, at least 64.
        num_classes: The first so many of ``SHAPES`` are used.

    Returns:
        The picture and its annotation.
    """
    canvas = _Canvas(rng, height, width)
    low, high = SIZE_RANGE
    target = int(rng.integers(COUNT_RANGE[0], COUNT_RANGE[1] + 1))
    distractors = int(rng.integers(1, 6))
    # About half of the distractors lie below all objects.
    canvas.add_distractors(distractors // 2)
    placed = tries = 0
    while placed < COUNT_RANGE[0] or (placed < target and tries < 2 * target):
        tries += 1
        # Logarithmic scale, the ends of the range rarer than its middle
        size = canvas.side * low * (high / low)**rng.beta(2., 1.5)
        placed += canvas.add_shape(int(rng.integers(num_classes)), size)
    canvas.add_distractors(distractors - distractors // 2)
    return canvas.finish()


def make_portrait(rng: np.random.Generator, height: int, width: int,
                  class_id: int) -> Scene:
    """Draw a picture with one large shape, for classification.

    Args:
        rng: Source of all randomness.
        height: Rows of the picture, at least 64.
        width: Columns of the picture, at least 64.
        class_id: Index into ``SHAPES``.

    Returns:
        The picture and its annotation.
    """
    canvas = _Canvas(rng, height, width, size_range=(0.25, 0.85))
    canvas.add_distractors(2)
    while not canvas.add_shape(class_id,
                               canvas.side * rng.uniform(0.4, 0.8)):
        pass
    canvas.add_distractors(2)
    return canvas.finish()


# --------------------------------------------------------------- road scenes
DRIVABLE_CLASSES = ('direct', 'alternative', 'background')
"""Values 0, 1, 2 of BDD100K's drivable area masks."""
LANE_CATEGORIES = ('crosswalk', 'double other', 'double white',
                   'double yellow', 'road curb', 'single other',
                   'single white', 'single yellow')
"""Bits 0-2 of BDD100K's lane masks."""
LANE_DIRECTIONS = ('parallel', 'vertical')
"""Bit 5 of BDD100K's lane masks."""
LANE_STYLES = ('solid', 'dashed')
"""Bit 4 of BDD100K's lane masks."""
LANE_BACKGROUND = 255
"""Pixels of no lane marking: all bits set, bit 3 being 'background'."""


@dataclass
class RoadScene:
    """A street with drivable area and lane markings.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        drivable: Index into ``DRIVABLE_CLASSES``, uint8 (H, W).
        lane: BDD100K lane codes, uint8 (H, W); see :func:`lane_code`.
    """
    image: np.ndarray
    drivable: np.ndarray
    lane: np.ndarray


def lane_code(category: str, direction: str = 'parallel',
              style: str = 'solid') -> int:
    """Value of a lane marking in BDD100K's 8-bit masks.

    The order of the bits is that of the data set's own tools
    (bdd100k/label/to_mask.py and bdd100k/eval/lane.py): category in bits
    0-2, background in bit 3, style in bit 4, direction in bit 5.
    """
    return (LANE_CATEGORIES.index(category) | LANE_STYLES.index(style) << 4
            | LANE_DIRECTIONS.index(direction) << 5)


class _Road:
    """Road seen from a car: lanes meet at a vanishing point.

    ``depth`` runs from 0 at the horizon to 1 at the bottom row; widths on
    the ground shrink with it.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng = rng
        self.height, self.width = height, width
        self.horizon = height * rng.uniform(0.35, 0.5)
        self.y, self.x = np.mgrid[:height, :width].astype(np.float32)
        self.depth = np.maximum(self.row_depth(self.y), 0)
        self.lane_width = width * rng.uniform(0.36, 0.5)
        far = width * rng.uniform(0.35, 0.65)
        near = width * rng.uniform(0.45, 0.55)
        bend = width * rng.uniform(-0.4, 0.4)
        # Middle of the own lane in every row.
        self.middle = (far + (near - far) * self.depth +
                       bend * self.depth * (1 - self.depth))
        self.left, self.right = rng.integers(0, 3, 2).tolist()
        self.oncoming = int(rng.integers(0, 3))
        self.image = np.empty((height, width, 3), np.float32)
        # The farthest part is too narrow to be labelled.
        self.ground = self.depth > 0.06
        self.drivable = np.full((height, width), 2, np.uint8)
        self.lane = np.full((height, width), LANE_BACKGROUND, np.uint8)

    def row_depth(self, y: np.ndarray | float) -> np.ndarray | float:
        return (y - self.horizon) / (self.height - 1 - self.horizon)

    def border(self, k: float) -> np.ndarray:
        """Signed distance in columns from border ``k`` of the lanes; the own
        lane lies between 0 and 1."""
        return self.x - (self.middle +
                         (k - 0.5) * self.lane_width * self.depth)

    def between(self, low: float, high: float) -> np.ndarray:
        return (self.border(low) >= 0) & (self.border(high) < 0) & self.ground

    def draw_world(self) -> None:
        rng, size = self.rng, (self.height, self.width)
        sky = self.y < self.horizon
        self.image[:] = _colour(rng) + 12 * _smooth_noise(
            rng, *size, self.width / 6)[..., None]
        for _ in range(rng.integers(2, 7)):  # houses
            x0 = rng.uniform(-0.1, 0.9) * self.width
            x1 = x0 + rng.uniform(0.06, 0.3) * self.width
            top = self.horizon * rng.uniform(0.1, 0.85)
            house = sky & (self.x >= x0) & (self.x < x1) & (self.y >= top)
            pattern = 15 * _stripes(rng, *size, rng.uniform(6, 16))
            self.image[house] = _colour(rng) + pattern[house][:, None]
        verge = 14 * _smooth_noise(rng, *size, rng.uniform(2, 12))
        self.image[~sky] = _colour(rng) + verge[~sky][:, None]
        road = (self.border(-self.left - self.oncoming - 0.06) >= 0) & (
            self.border(self.right + 1.06) < 0) & ~sky
        grey = rng.uniform(60, 150) + rng.uniform(-8, 8, 3)
        asphalt = (7 * _smooth_noise(rng, *size, 1.6) +
                   6 * _smooth_noise(rng, *size, self.width / 12))
        self.image[road] = grey + asphalt[road][:, None]
        for _ in range(rng.integers(1, 5)):  # shadows, patches, cracks
            if rng.random() < 0.5:
                patch = _distractor(rng, self.width)
                self.paint(patch * rng.uniform(0.1, 0.35), road,
                           rng.uniform(0, 255, 3))
            else:
                lean = rng.uniform(-0.6, 0.6)
                at = rng.uniform(0.1, 1) * self.width
                band = np.abs(self.x + lean * self.y - at) < (
                    rng.uniform(0.03, 0.12) * self.width)
                self.image[band & ~sky] *= rng.uniform(0.6, 0.85)

    def paint(self, patch: np.ndarray, where: np.ndarray,
              colour: np.ndarray) -> None:
        """Blend a patch into the image at a random place of the ground."""
        h, w = patch.shape
        alpha = np.zeros((self.height + 2 * h, self.width + 2 * w),
                         np.float32)
        y = int(self.rng.integers(int(self.horizon) + h // 2, self.height + h))
        x = int(self.rng.integers(0, self.width + w))
        alpha[y:y + h, x:x + w] = patch
        alpha = alpha[h:-h, w:-w] * where
        self.image += alpha[..., None] * (colour - self.image)

    def mark_lanes(self) -> None:
        self.drivable[self.between(-self.left, self.right + 1)] = 1
        self.drivable[self.between(0, 1)] = 0
        rng = self.rng
        for k in range(-self.left, self.right + 2):
            if k == -self.left and self.oncoming:
                category = rng.choice(('double yellow', 'double white',
                                       'double other', 'single yellow'))
                self.draw_line(k, str(category), 'solid')
            elif k in (-self.left, self.right + 1):
                category = rng.choice(('road curb', 'single white',
                                       'single yellow', 'single other'))
                self.draw_line(k, str(category), 'solid')
            else:
                category = rng.choice(('single white', 'single white',
                                       'single yellow', 'single other'))
                style = rng.choice(('dashed', 'dashed', 'solid'))
                self.draw_line(k, str(category), str(style))
        if self.oncoming:
            self.draw_line(-self.left - self.oncoming, 'road curb', 'solid')
        if rng.random() < 0.35:
            self.draw_crossing()

    def line_colour(self, category: str) -> np.ndarray:
        rng = self.rng
        if category.endswith('white') or category == 'crosswalk':
            return np.full(3, rng.uniform(215, 255))
        if category.endswith('yellow'):
            return np.array([rng.uniform(220, 255), rng.uniform(170, 205),
                             rng.uniform(0, 60)])
        if category == 'road curb':
            return np.array([205, 160, 140]) + rng.uniform(-20, 20)
        return np.array([rng.uniform(20, 80), rng.uniform(110, 160),
                         rng.uniform(220, 255)])

    def draw_line(self, k: int, category: str, style: str) -> None:
        """Paint a line along border ``k`` and label it.

        As in BDD100K the label of a dashed or double line has no gaps.
        """
        thick = self.width * (0.006 + 0.022 * self.depth)
        away = np.abs(self.border(k))
        double = category.startswith('double')
        reach = thick * (1.3 if double else 0.5)
        cover = np.clip(reach - away + 0.5, 0, 1)
        label = (cover >= 0.5) & self.ground
        if double:
            cover *= np.clip(away - 0.3 * thick + 0.5, 0, 1)
        if style == 'dashed':
            # Equal dashes on the ground are crowded at the horizon.
            phase = self.rng.uniform() + self.rng.uniform(
                1., 1.6) / np.maximum(self.depth, 0.2)
            cover *= phase % 1 < 0.6
        self.blend(cover * self.ground, self.line_colour(category))
        self.lane[label] = lane_code(category, 'parallel', style)

    def draw_crossing(self) -> None:
        """Two lines across the road, in front of the car."""
        near = self.rng.uniform(0.4, 0.8)
        inside = self.between(-self.left - self.oncoming, self.right + 1)
        colour = self.line_colour('crosswalk')
        for depth in (near, near * 0.82):
            thick = 0.05 * depth
            cover = np.clip((thick / 2 - np.abs(self.depth - depth)) *
                            (self.height - self.horizon) + 0.5, 0, 1) * inside
            self.blend(cover, colour)
            self.lane[cover >= 0.5] = lane_code('crosswalk', 'vertical')

    def blend(self, cover: np.ndarray, colour: np.ndarray) -> None:
        wear = np.clip(self.rng.uniform(0.75, 1.) + 0.08 * _smooth_noise(
            self.rng, self.height, self.width, 3.), 0, 1)
        self.image += (cover * wear)[..., None] * (colour - self.image)

    def draw_vehicles(self) -> None:
        """Boxes that hide road and markings, far ones first."""
        rng = self.rng
        depths = np.sort(rng.uniform(0.12, 0.7, rng.integers(0, 4)))
        for depth in depths:
            lane = rng.integers(-self.left - self.oncoming, self.right + 1)
            row = round(self.horizon + depth *
                        (self.height - 1 - self.horizon))
            across = rng.uniform(0.6, 0.75) * self.lane_width * depth / 2
            tall = across * rng.uniform(0.7, 1.1)
            centre = self.middle[row, 0] + lane * self.lane_width * depth
            u = (self.x - centre) / across
            v = (self.y - (row - tall)) / tall
            body = (u * u)**3 + (v * v)**3 < 1
            self.image[body] = _colour(rng)
            window = body & (np.abs(u) < 0.7) & (v > -0.7) & (v < -0.1)
            self.image[window] = rng.uniform(20, 70)
            lamps = body & (np.abs(np.abs(u) - 0.7) < 0.15) & (
                np.abs(v - 0.35) < 0.15)
            self.image[lamps] = (210, 30, 30)
            self.drivable[body] = 2
            self.lane[body] = LANE_BACKGROUND


def make_road_scene(rng: np.random.Generator, height: int,
                    width: int) -> RoadScene:
    """Draw a street as a car sees it.

    Args:
        rng: Source of all randomness.
        height: Rows of the picture, at least 64.
        width: Columns of the picture, at least 64.

    Returns:
        The picture with its drivable area and lane markings.
    """
    road = _Road(rng, height, width)
    road.draw_world()
    road.mark_lanes()
    road.draw_vehicles()
    return RoadScene(_expose(rng, road.image), road.drivable, road.lane)


# --------------------------------------------------------- masks as polygons
def _boundary_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed loops along the pixel edges of a mask, (N, 2) x, y each.

    Outer loops have a positive shoelace area (y down), holes a negative one.
    Pixels that touch at a corner only are kept apart.
    """
    pad = np.pad(mask, 1)
    inside = pad[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Each pixel is walked round clockwise; only edges to the outside count.
    for outside, corner, step in (
            (~pad[:-2, 1:-1], (0, 0), (1, 0)), (~pad[1:-1, 2:], (1, 0),
                                                (0, 1)),
            (~pad[2:, 1:-1], (1, 1), (-1, 0)), (~pad[1:-1, :-2], (0, 1),
                                                (0, -1))):
        ys, xs = np.nonzero(inside & outside)
        for x, y in zip((xs + corner[0]).tolist(), (ys + corner[1]).tolist(),
                        strict=True):
            steps.setdefault((x, y), []).append(step)
    loops = []
    while steps:
        start = point = next(iter(steps))
        loop, last = [], (0, 0)
        while True:
            ways = steps[point]
            # Where two loops touch, a right turn stays with this pixel.
            right = (-last[1], last[0])
            step = ways.pop(ways.index(right) if right in ways else 0)
            if not ways:
                del steps[point]
            if step != last:
                loop.append(point)
            last = step
            point = (point[0] + step[0], point[1] + step[1])
            if point == start and (
                    point not in steps or (-last[1], last[0]) not in
                    steps[point]):
                break
        loops.append(np.array(loop))
    return loops


def _shoelace(loop: np.ndarray) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """Describe a mask by polygons that reproduce it exactly.

    The polygons run along pixel edges.  COCO polygons know no holes, so a
    part with a hole is cut in two through the hole; a mask in several parts
    gives several polygons.

    Args:
        mask: bool (H, W).

    Returns:
        Polygons as flat lists x0, y0, x1, y1, ...
    """
    count, parts = cv2.connectedComponents(mask.astype(np.uint8),
                                           connectivity=4)
    polygons = []
    for part in range(1, count):
        piece = parts == part
        loops = _boundary_loops(piece)
        hole = next((lp for lp in loops if _shoelace(lp) < 0), None)
        if hole is None:
            polygons.extend(lp.reshape(-1).tolist() for lp in loops)
            continue
        cut = int(hole[:, 0].min() + hole[:, 0].max()) // 2
        left, right = piece.copy(), piece.copy()
        left[:, cut:] = False
        right[:, :cut] = False
        polygons += mask_to_polygons(left) + mask_to_polygons(right)
    return polygons


# ------------------------------------------------------------------ writing
_SPLITS = ('train', 'val')
_GENERATOR = 'mmxvit.datasets.shapes'
_PARTIAL = '.make_shapes_partial'
_META = 'meta.json'
# With gaps, as the ids of COCO, so that nobody takes an id for a label.
_COCO_IDS = tuple(1 + i + i // 2 for i in range(80))
_COCO_STUFF_IDS = (101, 102, 104)
_PALETTE = ((220, 20, 60), (119, 11, 32), (0, 0, 230), (250, 170, 30),
            (106, 0, 228), (0, 182, 199), (174, 57, 255), (0, 228, 0),
            (255, 77, 255), (110, 76, 0))
_STUFF_PALETTE = ((70, 130, 180), (150, 100, 100), (107, 142, 35))


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Random state of one image of a data set.

    Args:
        seed: Seed of the data set.
        split: 'train' or 'val'.
        index: Number of the image in its split, from 0.
    """
    return np.random.default_rng([seed, _SPLITS.index(split), index])


@dataclass
class _Job:
    """What the writers of all layouts need to know."""
    root: Path
    counts: dict[str, int]
    height: int
    width: int
    seed: int
    classes: int | None
    coco_names: bool

    def rng(self, split: str, index: int) -> np.random.Generator:
        return image_rng(self.seed, split, index)

    @property
    def num_classes(self) -> int:
        return self.classes or len(CLASSES)

    def scenes(self, split: str) -> Iterator[tuple[int, Scene]]:
        for index in range(self.counts[split]):
            yield index, make_scene(
                self.rng(split, index), self.height, self.width,
                self.num_classes)

    def folder(self, *parts: str) -> Path:
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path


def _save_image(path: Path, rgb: np.ndarray) -> None:
    options = [] if path.suffix == '.png' else [cv2.IMWRITE_JPEG_QUALITY, 95]
    # imencode, because imwrite does not know the suffix .JPEG everywhere.
    suffix = '.png' if path.suffix == '.png' else '.jpg'
    path.write_bytes(
        cv2.imencode(suffix, rgb[..., ::-1], options)[1].tobytes())


def _save_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content) + '\n')


def _coco_frame(job: _Job) -> dict:
    return dict(
        info=dict(description='mmxvit toy shapes', version='1.0',
                  contributor='mmxvit', seed=job.seed),
        licenses=[dict(id=1, name='CC0-1.0', url='https://'
                       'creativecommons.org/publicdomain/zero/1.0/')])


def _write_coco(job: _Job, panoptic: bool = False) -> dict:
    names = SHAPES[:job.num_classes]
    if job.coco_names and not panoptic:
        from mmdet.datasets import CocoDataset
        names = CocoDataset.METAINFO['classes']
    things = [dict(id=_COCO_IDS[i], name=name, supercategory='shape')
              for i, name in enumerate(names)]
    segments = [
        *(dict(cat, isthing=1, color=color)
          for cat, color in zip(things, _PALETTE, strict=False)),
        *(dict(id=_COCO_STUFF_IDS[i], name=name, supercategory='texture',
               isthing=0, color=_STUFF_PALETTE[i])
          for i, name in enumerate(STUFF_CLASSES))]
    annotations = job.folder('annotations')
    for split in _SPLITS:
        images, instances, pictures = [], [], []
        folder = job.folder(f'{split}2017')
        for index, scene in job.scenes(split):
            image_id = index + 1 + 500000 * _SPLITS.index(split)
            name = f'{image_id:012d}'
            _save_image(folder / f'{name}.jpg', scene.image)
            images.append(dict(id=image_id, file_name=f'{name}.jpg',
                               height=job.height, width=job.width,
                               license=1))
            for i, obj in enumerate(scene.objects):
                instances.append(dict(
                    id=image_id * 100 + i, image_id=image_id,
                    category_id=_COCO_IDS[obj.class_id], iscrowd=0,
                    bbox=list(obj.box), area=int(obj.mask.sum()),
                    segmentation=mask_to_polygons(obj.mask)))
            if panoptic:
                pictures.append(_panoptic_picture(
                    job.folder('annotations', f'panoptic_{split}2017'),
                    image_id, scene))
        _save_json(annotations / f'instances_{split}2017.json',
                   dict(_coco_frame(job), images=images,
                        annotations=instances, categories=things))
        if panoptic:
            _save_json(annotations / f'panoptic_{split}2017.json',
                       dict(_coco_frame(job), images=images,
                            annotations=pictures, categories=segments))
    categories = segments if panoptic else things
    return dict(categories={cat['id']: cat['name'] for cat in categories})


def _panoptic_picture(folder: Path, image_id: int, scene: Scene) -> dict:
    """Write one panoptic PNG; return its entry of the JSON file."""
    masks = [(_COCO_IDS[obj.class_id], obj.mask) for obj in scene.objects]
    bare = ~scene.void
    for obj in scene.objects:
        bare &= ~obj.mask
    masks += [(_COCO_STUFF_IDS[i], bare & (scene.background == i))
              for i in range(len(STUFF_CLASSES))]
    ids = np.zeros(bare.shape, np.uint32)
    segments = []
    for i, (category_id, mask) in enumerate(masks):
        if not mask.any():
            continue
        # An odd factor permutes the 24-bit numbers: unique, well spread
        # colours; 0 stays void.
        segment_id = (image_id * 100 + i + 1) * 10368889 % (1 << 24)
        ids[mask] = segment_id
        segments.append(dict(id=segment_id, category_id=category_id,
                             iscrowd=0, bbox=list(_tight_box(mask)),
                             area=int(mask.sum())))
    name = f'{image_id:012d}.png'
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)
    _save_image(folder / name, rgb.astype(np.uint8))
    return dict(image_id=image_id, file_name=name, segments_info=segments)


def _semantic_map(scene: Scene, things: Sequence[int], stuff: Sequence[int],
                  void: int) -> np.ndarray:
    """Values per pixel, from the values of shapes, textures and void."""
    values = np.array(stuff, np.uint8)[scene.background]
    values[scene.void] = void
    for obj in scene.objects:
        values[obj.mask] = things[obj.class_id]
    return values


def _save_map(path: Path, values: np.ndarray,
              palette: np.ndarray | None = None) -> None:
    """Write an 8- or 16-bit index PNG."""
    if palette is None:
        path.write_bytes(cv2.imencode('.png', values)[1].tobytes())
        return
    picture = Image.fromarray(values)
    picture.putpalette(palette.tobytes())
    picture.save(path)


def _write_ade20k(job: _Job) -> dict:
    names = (*SHAPES[:job.num_classes], *STUFF_CLASSES)
    values = range(1, len(names) + 1)
    for split, folder in zip(_SPLITS, ('training', 'validation'),
                             strict=True):
        images = job.folder('images', folder)
        maps = job.folder('annotations', folder)
        for index, scene in job.scenes(split):
            name = f'ADE_{split}_{index + 1:08d}'
            _save_image(images / f'{name}.jpg', scene.image)
            _save_map(maps / f'{name}.png',
                      _semantic_map(scene, values[:job.num_classes],
                                    values[job.num_classes:], 0))
    return dict(values={0: 'other', **dict(zip(values, names, strict=True))})


# Cityscapes name, id and train id that stand for our shapes and textures.
_CITY_THINGS = (('person', 24, 11), ('rider', 25, 12), ('car', 26, 13),
                ('truck', 27, 14), ('bus', 28, 15), ('train', 31, 16),
                ('motorcycle', 32, 17), ('bicycle', 33, 18), ('pole', 17, 5),
                ('traffic sign', 20, 7))
_CITY_STUFF = (('sky', 23, 10), ('road', 7, 0), ('vegetation', 21, 8))
_CITY_FIRST_INSTANCE_ID = 24


def _write_cityscapes(job: _Job) -> dict:
    things = _CITY_THINGS[:job.num_classes]
    for split, city in zip(_SPLITS, ('shapeville', 'formstadt'),
                           strict=True):
        images = job.folder('leftImg8bit', split, city)
        maps = job.folder('gtFine', split, city)
        for index, scene in job.scenes(split):
            name = f'{city}_{index:06d}_000019'
            _save_image(images / f'{name}_leftImg8bit.png', scene.image)
            train_ids = _semantic_map(scene, [t[2] for t in things],
                                      [t[2] for t in _CITY_STUFF], 255)
            ids = _semantic_map(scene, [t[1] for t in things],
                                [t[1] for t in _CITY_STUFF], 0)
            instances = ids.astype(np.uint16)
            count: dict[int, int] = {}
            for obj in scene.objects:
                label = things[obj.class_id][1]
                if label >= _CITY_FIRST_INSTANCE_ID:
                    number = count.get(label, 0)
                    instances[obj.mask] = label * 1000 + number
                    count[label] = number + 1
            for kind, values in (('labelTrainIds', train_ids),
                                 ('labelIds', ids),
                                 ('instanceIds', instances)):
                _save_map(maps / f'{name}_gtFine_{kind}.png', values)
    return dict(
        values={train_id: f'{city_name} = {ours}'
                for ours, (city_name, _, train_id) in sorted(
                    zip((*SHAPES[:len(things)], *STUFF_CLASSES),
                        (*things, *_CITY_STUFF), strict=True),
                    key=lambda pair: pair[1][2])} | {255: 'ignored'})


def _write_bdd100k(job: _Job) -> dict:
    for split in _SPLITS:
        images = job.folder('images', '100k', split)
        drivable = job.folder('labels', 'drivable', 'masks', split)
        lane = job.folder('labels', 'lane', 'masks', split)
        for index in range(job.counts[split]):
            scene = make_road_scene(job.rng(split, index), job.height,
                                    job.width)
            name = f'shapes-{split}-{index + 1:06d}'
            _save_image(images / f'{name}.jpg', scene.image)
            _save_map(drivable / f'{name}.png', scene.drivable)
            _save_map(lane / f'{name}.png', scene.lane)
    return dict(
        drivable=dict(enumerate(DRIVABLE_CLASSES)),
        lane=dict(category=dict(enumerate(LANE_CATEGORIES)),
                  direction=dict(enumerate(LANE_DIRECTIONS)),
                  style=dict(enumerate(LANE_STYLES)),
                  background=LANE_BACKGROUND))


def _voc_palette() -> np.ndarray:
    """VOC's colour map: the bits of the index, dealt to R, G and B."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            on = index >> (3 * bit + channel) & 1
            palette[:, channel] |= (on << (7 - bit)).astype(np.uint8)
    return palette


def _voc_annotation(year: str, name: str, scene: Scene) -> ElementTree.Element:
    height, width = scene.image.shape[:2]
    root = ElementTree.Element('annotation')

    def put(parent: ElementTree.Element, **values: object) -> None:
        for key, value in values.items():
            ElementTree.SubElement(parent, key).text = str(value)

    put(root, folder=year, filename=f'{name}.jpg')
    put(ElementTree.SubElement(root, 'source'), database='mmxvit toy shapes')
    put(ElementTree.SubElement(root, 'size'), width=width, height=height,
        depth=3)
    put(root, segmented=1)
    for obj in scene.objects:
        x, y, w, h = obj.box
        edge = x == 0 or y == 0 or x + w == width or y + h == height
        entry = ElementTree.SubElement(root, 'object')
        put(entry, name=SHAPES[obj.class_id], pose='Unspecified',
            truncated=int(edge), difficult=0)
        # VOC counts pixels from 1 and includes the last one.
        put(ElementTree.SubElement(entry, 'bndbox'), xmin=x + 1, ymin=y + 1,
            xmax=x + w, ymax=y + h)
    ElementTree.indent(root)
    return root


def _write_voc(job: _Job) -> dict:
    if job.counts['train'] < 4:
        raise ValueError('the voc layout needs train=4 or more: training '
                         'images are dealt to four lists')
    palette = _voc_palette()
    # mmdet trains on trainval of both years and tests on test of VOC2007;
    # mmseg trains on train and validates on val of VOC2012.
    dealt = (('VOC2007', 'train'), ('VOC2007', 'val'), ('VOC2012', 'train'),
             ('VOC2012', 'val'))
    lists: dict[tuple[str, str], list[str]] = {key: [] for key in dealt}
    lists['VOC2007', 'test'] = []
    for split in _SPLITS:
        for index, scene in job.scenes(split):
            year, part = (dealt[index % 4] if split == 'train' else
                          ('VOC2007', 'test'))
            name = f'{index + 1 + 500000 * _SPLITS.index(split):06d}'
            if year == 'VOC2012':
                name = f'2012_{name}'
            lists[year, part].append(name)
            root = Path('VOCdevkit', year)
            _save_image(job.folder(root / 'JPEGImages') / f'{name}.jpg',
                        scene.image)
            ElementTree.ElementTree(_voc_annotation(year, name, scene)).write(
                job.folder(root / 'Annotations') / f'{name}.xml')
            values = _semantic_map(
                scene, range(1, job.num_classes + 1),
                [0] * len(STUFF_CLASSES), 0)
            _save_map(job.folder(root / 'SegmentationClass') / f'{name}.png',
                      values, palette)
    for year in ('VOC2007', 'VOC2012'):
        lists[year, 'trainval'] = sorted(
            lists[year, 'train'] + lists[year, 'val'])
    for (year, part), names in lists.items():
        text = ''.join(f'{name}\n' for name in names)
        for task in ('Main', 'Segmentation'):
            folder = job.folder('VOCdevkit', year, 'ImageSets', task)
            (folder / f'{part}.txt').write_text(text)
    return dict(values={0: 'background',
                        **dict(enumerate(SHAPES[:job.num_classes], 1))})


def _write_imagenet(job: _Job) -> dict:
    names = SHAPES[:job.classes or len(SHAPES)]
    for split in _SPLITS:
        for index in range(job.counts[split]):
            class_id = index % len(names)
            scene = make_portrait(job.rng(split, index), job.height,
                                  job.width, class_id)
            name = names[class_id]
            _save_image(job.folder(split, name) /
                        f'{name}_{index + 1:08d}.JPEG', scene.image)
    return dict(classes=sorted(names))


_WRITERS: dict[str, Callable[[_Job], dict]] = {
    'coco': _write_coco,
    'coco_panoptic': lambda job: _write_coco(job, panoptic=True),
    'ade20k': _write_ade20k,
    'cityscapes': _write_cityscapes,
    'bdd100k': _write_bdd100k,
    'voc': _write_voc,
    'imagenet': _write_imagenet,
}
LAYOUTS = tuple(_WRITERS)
"""Names of the folder layouts that :func:`write_dataset` knows."""


def _checksum(path: Path) -> str:
    return f'{zlib.crc32(path.read_bytes()):08x}'


def _files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob('*')
                  if p.is_symlink() or not p.is_dir())


def _previous_files(out: Path, force: bool) -> list[str]:
    """Files of an earlier run that may be removed from ``out``.

    Raises:
        FileExistsError: ``out`` holds anything that must not be removed.
    """
    if not out.exists() or not any(out.iterdir()):
        return []
    if not force:
        raise FileExistsError(
            f'{out} is not empty; choose another folder, or --force '
            '(force=True) to replace the toy data that is in it')
    try:
        meta = json.loads((out / _META).read_text())
    except (OSError, ValueError):
        meta = None
    if not isinstance(meta, dict) or meta.get('generator') != _GENERATOR:
        raise FileExistsError(
            f'{out} is not empty and has no {_META} of make_shapes, so '
            'nothing in it may be removed; choose another folder')
    recorded = meta['files']
    old = [name for name in _files(out) if name in recorded]
    changed = [name for name in old
               if _checksum(out / name) != recorded[name]]
    if changed:
        raise FileExistsError(
            f'{out}: changed since make_shapes wrote them: '
            f'{", ".join(changed[:5])}{" ..." * (len(changed) > 5)}; '
            'move them away or choose another folder')
    return [*old, _META]


def write_dataset(out: str | os.PathLike,
                  layouts: str | Sequence[str] = 'coco',
                  train: int = 300,
                  val: int = 60,
                  size: int | tuple[int, int] = 256,
                  seed: int = 0,
                  classes: int | None = None,
                  coco_names: bool = False,
                  force: bool = False) -> dict:
    """Write toy data in the folder layout of one or several data sets.

    The same arguments give byte-identical files, with the same versions of
    NumPy and OpenCV.  The files are made beside those of an earlier run and
    replace them at the end, so a run that is interrupted loses nothing.

    Args:
        out: Folder to write to; made if missing.
        layouts: One or several of ``LAYOUTS``.
        train: Number of training images.
        val: Number of validation images.
        size: Side of the images in pixels, or (height, width).
        seed: Other seeds give other images.
        classes: Number of classes, the first so many of ``SHAPES``; 5 by
            default, 10 for ``imagenet``.
        coco_names: The file of the layout ``coco`` lists COCO's 80 classes,
            and shapes are the first of them, so that a config for COCO runs
            as it is.
        force: Replace the toy data of an earlier run in ``out``.  Files that
            this function did not write, or that were changed since, are
            never removed.

    Returns:
        The content of ``out/meta.json``.

    Raises:
        ValueError: An argument is out of range.
        ImportError: ``coco_names`` are those of mmdet, which is missing.
        FileExistsError: ``out`` is not empty and ``force`` is off, or files
            of the user are in the way.
    """
    layouts = [layouts] if isinstance(layouts, str) else list(layouts)
    height, width = (size, size) if isinstance(size, int) else size
    for name in layouts:
        if name not in _WRITERS:
            raise ValueError(
                f'layout {name!r} is unknown; known: {", ".join(LAYOUTS)}')
    if not layouts:
        raise ValueError(f'no layout; choose from {", ".join(LAYOUTS)}')
    if train < 1 or val < 1:
        raise ValueError(f'train and val must be 1 or more, got {train} and '
                         f'{val}')
    if min(height, width) < 64:
        raise ValueError(f'size must be 64 or more, got {height} x {width}')
    if classes is not None and not 2 <= classes <= len(SHAPES):
        raise ValueError(
            f'classes must be 2 to {len(SHAPES)}, got {classes}')
    if seed < 0:
        raise ValueError(f'seed must be 0 or more, got {seed}')
    if coco_names and 'coco' not in layouts:
        raise ValueError('coco_names are for the layout coco only')

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file; name a folder')
    partial = out / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    old = _previous_files(out, force)
    made = not out.exists()
    try:
        partial.mkdir(parents=True)
        job = _Job(partial, dict(train=train, val=val), height, width, seed,
                   classes, coco_names)
        # What each layout's ids and values mean.
        described = {name: _WRITERS[name](job)
                     for name in dict.fromkeys(layouts)}
        new = _files(partial)
        kept = set(_files(out)).difference(
            old, (f'{_PARTIAL}/{name}' for name in new))
        clash = sorted(kept.intersection([*new, _META]))
        if clash:
            raise FileExistsError(
                f'{out}: {", ".join(clash[:5])} would be overwritten; move '
                'them away or choose another folder')
        meta = dict(
            generator=_GENERATOR, version=__version__, numpy=np.__version__,
            opencv=cv2.__version__, seed=seed, train=train, val=val,
            height=height, width=width, layouts=described,
            files={name: _checksum(partial / name) for name in new})
        _save_json(partial / _META, meta)
        for name in old:
            (out / name).unlink()
            for folder in (out / name).parents:
                if folder == out or any(folder.iterdir()):
                    break
                folder.rmdir()
        for name in [*new, _META]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made and not any(out.iterdir()):
            out.rmdir()
    return json.loads((out / _META).read_text())
