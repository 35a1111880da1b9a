# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""``tools/test.py --tta`` with the settings that shipped detectors have."""
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmxvit.datasets.shapes import CLASSES, write_dataset

CONFIGS = Path(__file__).parents[2] / 'configs'
# longer side of the image in each view
SIDES = {
    'yolov3_xformer_8xb24-320-300e_coco': (256, 320, 384),
    'centernet_r18-dcnv2_8xb16-320-140e_coco': (320, ),
    'yolox_tiny_8xb8-320-300e_coco': (160, 320, 480),
}


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """Two images of 96 x 64 pixels in COCO's layout, the left half white."""
    root = tmp_path_factory.mktemp('halves') / 'coco'
    write_dataset(root, 'coco', train=1, val=2, size=(64, 96))
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = 255
    for file in (root / 'val2017').iterdir():
        cv2.imwrite(str(file), image)
    return root


@pytest.fixture
def views(monkeypatch):
    """(image id, longer side, is white on the right) of each view.

    The box of the white pixels, in pixels of the file, takes the place of
    the predictions of a network without training.
    """
    from mmdet.models import SingleStageDetector
    from mmengine.structures import InstanceData
    seen = []

    def predict(self, inputs, data_samples, rescale=True):
        self(inputs)
        for image, sample in zip(inputs, data_samples, strict=True):
            grey = image.mean(0)
            white = (grey > 0.8 * grey.max()).nonzero()
            top, left, bottom, right = (*white.amin(0), *white.amax(0) + 1)
            border = sample.get('border', (0, 0, 0, 0))
            box = torch.tensor([[left, top, right, bottom]]).float()
            box -= torch.tensor([border[2], border[0]]).repeat(2)
            box /= torch.tensor(sample.scale_factor).repeat(2)
            seen.append((sample.img_id, round(96 * sample.scale_factor[0]),
                         bool(box[0, 2] > 60)))
            sample.pred_instances = InstanceData(
                bboxes=box,
                scores=torch.tensor([0.5 + 0.01 * len(seen)]),
                labels=torch.tensor([0]))
        return data_samples

    monkeypatch.setattr(SingleStageDetector, 'predict', predict)
    return seen


@pytest.mark.parametrize('name', SIDES)
def test_every_scale_and_its_mirror_image_are_merged(name, halves, views,
                                                     script):
    path = CONFIGS / f'xformer/{name}.py'
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'random.pth')
    loader = 'test_dataloader.'
    script('tools/test.py').main([
        str(path), 'random.pth', '--tta', '--out', 'merged.pkl',
        '--cfg-options', f'data_root={halves}', f'{loader}num_workers=0',
        f'{loader}persistent_workers=False',
        f'{loader}dataset.metainfo.classes={",".join(CLASSES)}'
    ])
    images = {image for image, _, _ in views}
    assert len(images) == 2
    assert Counter(views) == {(image, side, mirrored): 1
                              for image in images for side in SIDES[name]
                              for mirrored in (False, True)}
    # mirrored back, the boxes of all views are one
    for result in pickle.loads(Path('merged.pkl').read_bytes()):
        boxes = result['pred_instances']['bboxes']
        np.testing.assert_allclose(boxes, [[0, 0, 48, 64]], atol=1)


@pytest.mark.parametrize('backbone', ['mobilenetv2', 'mobilevit-s'])
def test_peers_of_yolov3_xformer_are_tested_as_it_is(backbone):
    ours, peer = (
        Config.fromfile(CONFIGS / f'xformer/yolov3_{b}_8xb24-320-300e_coco.py')
        for b in ('xformer', backbone))
    assert peer.tta_model == ours.tta_model
    assert peer.tta_pipeline == ours.tta_pipeline
