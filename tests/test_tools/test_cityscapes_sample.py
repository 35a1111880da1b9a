# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""A real image of Cityscapes, through a shipped config as it is.

Skipped without the image, whose licence does not allow to ship it.
"""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import ROOT

pytest.importorskip('mmseg')

SAMPLE = ROOT.parent / 'shared' / 'data' / 'cityscapes_sample'
CONFIG = ROOT / 'configs/xformer/' \
    'segformer_xformer_8xb1-160k_cityscapes-1024x1024.py'
ROAD = 0


@pytest.mark.skipif(not SAMPLE.is_dir(), reason='no image of Cityscapes here')
def test_trains_and_tests_with_only_the_root_changed(tmp_path, script):
    data = tmp_path / 'cityscapes'
    for folder in ('leftImg8bit', 'gtFine'):
        (data / folder).mkdir(parents=True)
        for split in ('train', 'val'):  # the sample has only val
            (data / folder / split).symlink_to(SAMPLE / folder / 'val')
    root = ['--cfg-options', f'data_root={data}/']
    script('tools/train.py').main([
        str(CONFIG), '--work-dir', 'work', *root, 'train_cfg.max_iters=1',
        'train_cfg.val_interval=1', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False'])
    (scalars, ) = Path('work').glob('*/vis_data/scalars.json')
    loss, validated = map(json.loads, scalars.read_text().splitlines())
    assert 0 < loss['loss'] < 10
    assert 0 <= validated['mIoU'] <= 100

    trained = torch.load('work/iter_1.pth', weights_only=False)
    # so little training gives one class, which need not be in the image
    trained['state_dict']['decode_head.conv_seg.bias'][ROAD] += 0.1
    torch.save(trained, 'road.pth')
    script('tools/test.py').main([
        str(CONFIG), 'road.pth', '--work-dir', 'test', '--out', 'out', *root])
    (tested, ) = Path('test').glob('*/*.json')
    tested = json.loads(tested.read_text())
    assert tested['aAcc'] > 1

    # the scores are those of the files
    (prediction, ) = Path('out').rglob('*.png')
    (truth, ) = SAMPLE.rglob('*_labelTrainIds.png')
    prediction, truth = (
        np.array(Image.open(path)).astype(int) for path in (prediction, truth))
    assert prediction.shape == truth.shape == (128, 256)
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    assert tested['aAcc'] == pytest.approx(
        100 * (prediction == truth).mean(), abs=0.006)
    ious = []
    for label in range(19):
        here, there = prediction == label, truth == label
        if (here | there).any():
            ious.append((here & there).sum() / (here | there).sum())
    assert tested['mIoU'] == pytest.approx(100 * np.mean(ious), abs=0.006)
