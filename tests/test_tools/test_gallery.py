# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ..html_page import Page, check_page, picture


@pytest.fixture
def gallery(script):
    return script('tools/visualization/gallery.py').main


@pytest.fixture
def train(script):
    return script('tools/train.py').main


def test_page_of_a_detector_that_was_trained(config, data, train, gallery,
                                             capfd):
    path = config('det')
    train([path])
    gallery([path, 'work_dirs/det/epoch_1.pth', '--images', '2',
             '--score-thr', '0'])
    assert 'wrote work_dirs/det/gallery.html\n' in capfd.readouterr().out
    page = Page(Path('work_dirs/det/gallery.html'))
    check_page(page)
    for text in ('backbone XFormer', 'checkpoint epoch_1.pth',
                 'COCO average precision mAP AP50 AP75 small medium large',
                 'mAP of each class (boxes) class mAP circle',
                 'AP50 (boxes) on the validation set',
                 '0.png: 1 in the ground truth'):
        assert text in page.text
    # one line for the loss, two for scores with a mark for each epoch
    assert len(page.all('polyline')) == 3 and len(page.all('circle')) == 2

    # the first and the last of three images, each twice
    names = [re.match(r'(\d\.png), (ground truth|prediction)$', i['alt'])
             for i in page.all('img')]
    assert [m.groups() for m in names if m] == [
        ('0.png', 'prediction'), ('0.png', 'ground truth'),
        ('2.png', 'prediction'), ('2.png', 'ground truth')]
    assert len(page.all('input', type='range')) == 2
    original = cv2.imread(str(data / 'val/0.png'))[..., ::-1].astype(int)
    differences = []
    for image in page.all('img')[:2]:
        drawn = picture(image['src'])
        assert drawn.shape == original.shape
        assert (drawn.shape[1], drawn.shape[0]) == (
            int(image['width']), int(image['height']))
        differences.append(np.abs(drawn - original).mean())
    # many boxes without a threshold, one box of the truth
    assert differences[0] > differences[1] > 1

    stages = re.findall(r'over 0\.png"', page.source)
    assert len(stages) == 3  # stages with attention
    for image in page.all('img'):
        assert picture(image['src']).std() > 5


def test_page_of_a_segmentor(config, checkpoint, gallery):
    path = config('seg')
    gallery([path, checkpoint(path), '--out', 'new/page.html',
             '--images', '1'])
    page = Page(Path('new/page.html'))
    check_page(page)
    assert 'The work folder has no log of a training.' in page.text
    assert 'Scores score value aAcc' in page.text and ' mIoU ' in page.text
    assert len(page.all('input')) == 1
    prediction, truth = (picture(i['src']) for i in page.all('img')[:2])
    assert np.abs(prediction.astype(int) - truth).mean() > 1


def test_page_of_a_classifier_of_another_package(config, checkpoint, gallery,
                                                 capfd):
    path = config('cls')
    gallery([path, checkpoint(path), '--images', '1'])
    assert 'work_dirs/cls has no log of a training' in capfd.readouterr().out
    page = Page(Path('work_dirs/cls/gallery.html'))
    check_page(page)
    assert re.search(r'0\.png: circle, prediction (circle|square) '
                     r'\(highest score [01]\.\d\d\)', page.text)
    assert not page.all('input') and len(page.all('img')) == 1
    assert 'accuracy/top1' in page.text
    assert 'MobileNetV2 has no attention that can be drawn' in page.text


def test_scores_of_a_test_that_was_made(config, checkpoint, gallery, script):
    path = config('cls')
    weights = checkpoint(path)
    script('tools/test.py').main([path, weights, '--work-dir', 'tested'])
    (result, ) = Path('tested').glob('*/*.json')
    result.write_text('{"accuracy/top1": 12.25}')
    Path('work_dirs/cls').mkdir(parents=True)
    page = Path('work_dirs/cls/gallery.html')
    page.write_text('mine')
    gallery([path, weights, '--scores', str(result), '--images', '1'])
    assert page.read_text() == 'mine'
    assert '12.25' in Page(page.with_name('gallery-1.html')).text
    # it was not tested again
    assert not list(Path('work_dirs/cls').glob('*/*.json'))


def test_mistakes(config, checkpoint, gallery, failure):
    path = config('cls')
    weights = checkpoint(path)
    assert 'no such config file' in failure(gallery, 'no.py', weights)
    assert 'none.pth' in failure(gallery, path, 'none.pth')
    assert '--images 0: expected 1 or more' in failure(
        gallery, path, weights, '--images', '0')
    assert '--work-dir none: no such folder' in failure(
        gallery, path, weights, '--work-dir', 'none')
    assert '--scores none.json: no such file' in failure(
        gallery, path, weights, '--scores', 'none.json')
    assert 'and the model differ' in failure(
        gallery, config('det'), weights)
    bare = config('cls', name='bare',
                  test_dataloader__dataset__data_prefix='none')
    assert 'cls/none' in failure(gallery, bare, weights)
    assert not list(Path().rglob('*.html'))
