# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""How shipped segmentors are tested: whole, by windows, in several scales.

``tools/test.py`` against a literal reference, on images of odd sizes.
"""
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from .conftest import ROOT, load_script

pytest.importorskip('mmseg')

toy_config = load_script('tools/dev/toy_config.py')
SIZE = 64  # of the short side, and of windows
IMAGES = {'wide': (45, 83), 'high': (101, 61)}  # height, width
CONFIGS = {
    'lvt/segformer_lvt_8xb2-160k_ade20k-512x512': dict(multiple=32),
    'fcaformer/upernet_fcaformer-l1_8xb2-160k_ade20k-512x512': dict(
        window=SIZE, stride=43),
    'xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024': dict(
        window=SIZE, stride=48),
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """The images in the layouts of ADE20K and Cityscapes."""
    root = tmp_path_factory.mktemp('odd')
    rng = np.random.RandomState(0)
    for name, (height, width) in IMAGES.items():
        coarse = rng.randint(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = cv2.resize(coarse, (width, height))
        mask = rng.randint(0, 8, (height, width)).astype(np.uint8)
        for folder, array, end in (
            ('ade20k/images/validation', image, '.jpg'),
            ('ade20k/annotations/validation', mask, '.png'),
            ('cityscapes/leftImg8bit/val', image, '_leftImg8bit.png'),
            ('cityscapes/gtFine/val', mask, '_gtFine_labelTrainIds.png')):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / (name + end)), array)
    return root


def scaled(image, short, long, multiple=1):
    """Short side ``short``, but the long one at most ``long``."""
    height, width = image.shape[:2]
    factor = min(short / min(height, width), long / max(height, width))
    size = [int(side * factor + 0.5) for side in (width, height)]
    image = cv2.resize(image, size)
    if multiple > 1:
        image = cv2.resize(
            image, [math.ceil(s / multiple) * multiple for s in size])
    return image


def logits_of(model, image, window=None, stride=None):
    """Logits (classes, H, W) of an image, (H, W, 3), BGR."""
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    x = ((pixels - mean) / std)[None]

    def run(part):
        return F.interpolate(
            model.decode_head(model.backbone(part)), part.shape[2:],
            mode='bilinear')[0]

    if window is None:
        return run(x)
    height, width = x.shape[2:]
    total, count = 0., torch.zeros(height, width)
    # the last window ends with the image
    tops, lefts = (
        [min(stride * i, max(side - window, 0)) for i in range(
            math.ceil(max(side - window, 0) / stride) + 1)]
        for side in (height, width))
    for top in tops:
        for left in lefts:
            bottom, right = top + window, left + window
            part = run(x[:, :, top:bottom, left:right])
            canvas = torch.zeros(len(part), height, width)
            canvas[:, top:bottom, left:right] = part
            total = total + canvas
            count[top:bottom, left:right] += 1
    return total / count


def to_size(logits, shape):
    return F.interpolate(logits[None], shape, mode='bilinear')[0]


def test_images_of_one_name(folders, script, tmp_path):
    """Of two predictions none may be lost."""
    data = tmp_path / 'data'
    for part in ('leftImg8bit', 'gtFine'):
        for city in ('aachen', 'bochum'):
            shutil.copytree(folders / 'cityscapes' / part / 'val',
                            data / part / 'val' / city)
    name = 'xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024'
    cfg = toy_config.fit(
        Config.fromfile(ROOT / f'configs/{name}.py'), data, SIZE,
        batch_size=1, length=1)
    cfg.dump('twice.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'random.pth')
    with pytest.raises(SystemExit, match='aachen/high_leftImg8bit.png and .*'
                       'bochum/high_leftImg8bit.png would both'):
        script('tools/test.py').main(
            ['twice.py', 'random.pth', '--out', 'out'])


@pytest.mark.parametrize('name, tta', [
    pytest.param(name, tta, id=f'{name}{"-tta" * tta}',
                 marks=pytest.mark.slow if tta and 'lvt' not in name else ())
    for name in CONFIGS for tta in (False, True)
])
def test_predictions_are_those_of_a_literal_reference(
        name, tta, folders, script):
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    layout = toy_config.layout(cfg)
    cfg = toy_config.fit(
        cfg, folders / layout, SIZE, batch_size=1, length=1)
    cfg.dump('odd.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'random.pth')
    script('tools/test.py').main(
        ['odd.py', 'random.pth', '--out', 'out', *['--tta'] * tta])
    ade = layout == 'ade20k'
    options = dict(CONFIGS[name])
    multiple = options.pop('multiple', 1)
    ratio = 4 if ade else 2  # of the longest and shortest side
    for image_name, shape in IMAGES.items():
        end = '.jpg' if ade else '_leftImg8bit.png'
        image = cv2.imread(str(next(
            (folders / layout).rglob(f'{image_name}{end}'))))
        shorts = [SIZE * i // 4 for i in (2, 3, 4, 5, 6, 7)] if tta else [SIZE]
        probabilities = 0.
        for short in shorts:
            for mirrored in (False, True)[:1 + tta]:
                view = scaled(image, short, ratio * short,
                              1 if tta else multiple)
                with torch.no_grad():
                    logits = logits_of(
                        model, view[:, ::-1] if mirrored else view, **options)
                if mirrored:
                    logits = logits.flip(-1)
                probabilities += to_size(logits, shape).softmax(0)
        expected = probabilities.argmax(0).numpy()
        (file, ) = Path('out').rglob(f'{image_name}*.png')
        # files of ADE20K count from 1
        predicted = np.array(Image.open(file)).astype(int) - ade
        assert predicted.shape == shape
        assert len(np.unique(predicted)) >= 3
        # views are uint8, so few pixels of a flat random net may change
        assert (predicted == expected).mean() > 0.99
