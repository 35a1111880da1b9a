# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Two-head segmentation and own masks, from data to pictures."""
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmxvit.datasets.shapes import write_dataset
from mmxvit.engine.command import load_config

from .conftest import ROOT

pytest.importorskip('mmseg')

SIZE = 64


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy')
    write_dataset(root, 'bdd100k', train=4, val=3, size=SIZE)
    return root


def quick(cfg):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(
            num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


@pytest.fixture
def config(toy):
    cfg = quick(
        Config.fromfile(
            ROOT / 'configs/lolvit'
            '/two-head-fpn_lolvit-s_1xb32-224-300e_bdd100k.py'))
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.model.data_preprocessor.size = (SIZE, SIZE)
    for split in ('train', 'val', 'test'):
        for step in cfg[f'{split}_dataloader'].dataset.pipeline:
            for key in ('scale', 'crop_size'):
                if key in step:
                    step[key] = (SIZE, SIZE)
    cfg.dump('two.py')
    return ['two.py', '--cfg-options', f'data_root={toy}']


def test_train_test_and_look(config, toy, script):
    path, *options = config
    script('tools/train.py').main(config)
    (log, ) = Path('work_dirs/two').glob('*/*.log')
    text = log.read_text()
    assert 'Epoch(train) [1][2/2]' in text
    for part in ('drivable.loss_ce', 'lane.loss_tversky', 'drivable/mIoU',
                 'lane/mIoU'):
        assert part in text
    weights = 'work_dirs/two/epoch_1.pth'
    script('tools/test.py').main([
        path, weights, '--work-dir', 'test', '--show-dir', 'pictures',
        '--out', 'out', *options])
    (scores, ) = Path('test').glob('*/*.json')
    scores = json.loads(scores.read_text())
    assert all(0 <= scores[f'{t}/mIoU'] <= 100 for t in ('drivable', 'lane'))
    pictures = [cv2.imread(os.fspath(p)) for p in Path('pictures').rglob('*')
                if p.suffix == '.png']
    # ground truth beside the prediction
    assert [p.shape for p in pictures] == [(SIZE, 2 * SIZE, 3)] * 3
    for task in ('drivable', 'lane'):
        names = sorted(p.name for p in Path('out', task).iterdir())
        assert names == [f'shapes-val-{i + 1:06d}.png' for i in range(3)]
        assert Image.open(f'out/{task}/{names[0]}').size == (SIZE, SIZE)
    mirrored_too(script, path, options)

    image = toy / 'images/100k/val/shapes-val-000001.jpg'
    script('demo/image_demo.py').main([
        os.fspath(image), path, weights, '--device', 'cpu', *options])
    assert cv2.imread('shapes-val-000001_two.png').shape == (SIZE, SIZE, 3)


def mirrored_too(script, path, options):
    """--tta is the mean over the image and its mirror image."""
    cfg = load_config(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'random.pth')
    script('tools/test.py').main([
        path, 'random.pth', '--work-dir', 'tta', '--tta', '--out', 'mean',
        '--show-dir', 'overlays', *options])
    (scores, ) = Path('tta').glob('*/*.json')
    scores = json.loads(scores.read_text())
    assert all(0 <= scores[f'{t}/mIoU'] <= 100 for t in ('drivable', 'lane'))
    root = Path(options[-1].partition('=')[2])
    changed = 0
    for image in sorted((root / 'images/100k/val').iterdir()):
        pixels = torch.from_numpy(cv2.imread(os.fspath(image)))
        inputs = model.data_preprocessor(
            dict(inputs=[pixels.permute(2, 0, 1)], data_samples=None))[
                'inputs']
        with torch.no_grad():
            logits, mirrored = (
                model.encode_decode(x, [dict(img_shape=x.shape[2:])])
                for x in (inputs, inputs.flip(-1)))
        mirrored = mirrored.flip(-1)
        for i, task in enumerate(('drivable', 'lane')):
            both = [x[0, 2 * i:2 * i + 2].softmax(0)
                    for x in (logits, mirrored)]
            mean = np.array(Image.open(f'mean/{task}/{image.stem}.png'))
            assert (mean == sum(both).argmax(0).numpy()).all()
            changed += (mean != both[0].argmax(0).numpy()).sum()
        (picture, ) = Path('overlays').rglob(f'*{image.stem}*.png')
        prediction = cv2.imread(os.fspath(picture))[:, SIZE:]
        assert np.abs(prediction.astype(int) - pixels.numpy()).max() > 50
    assert changed


def test_colours():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from mmxvit.engine.seg_visualizer import MultiTaskSegLocalVisualizer
    drawer = MultiTaskSegLocalVisualizer(alpha=0.5, name='colours')
    drawer.dataset_meta = dict(
        tasks=dict(a=('background', 'x', 'y'), b=('background', 'z')),
        classes=('background', 'x', 'y', 'z'),
        palette=[(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)])
    maps = torch.tensor([[[0, 1, 2, 2, 255, 255]], [[0, 0, 0, 1, 0, 1]]])
    image = np.full((1, 6, 3), 100, np.uint8)
    drawer.add_datasample(
        'a', image, SegDataSample(pred_sem_seg=PixelData(data=maps)),
        draw_gt=False, out_file='a.png')
    drawn = cv2.imread('a.png')[..., ::-1]
    assert drawn[0].tolist() == [[100, 100, 100], [150, 50, 50],
                                 [50, 150, 50], [50, 50, 150],
                                 [100, 100, 100], [50, 50, 150]]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_other_codes_are_seen_before_the_training(
        split, config, script, failure, toy, tmp_path):
    bad = tmp_path / 'bad'
    shutil.copytree(toy, bad)
    path = sorted((bad / f'labels/lane/masks/{split}').iterdir())[-1]
    mask = np.array(Image.open(path))
    mask[0, 0] = 9
    Image.fromarray(mask).save(path)
    message = failure(
        script('tools/train.py').main, config[0], '--cfg-options',
        f'data_root={bad}', 'train_dataloader.num_workers=1')
    assert message.startswith(f'error: {path}: has the value 9 (1 pixels): ')
    assert 'data_prefix.lane' in message and 'Traceback' not in message
    assert not list(Path('work_dirs').rglob('*.pth'))
    missing = failure(
        script('tools/train.py').main, config[0], '--cfg-options',
        'data_root=none')
    assert '--layout bdd100k' in missing


@pytest.mark.parametrize('ignore_index, first, unlabelled', [
    ('255', 0, 255),
    ('11', 0, 11),
    ('{0: 255, **{i + 1: i for i in range(11)}}', 1, 0),
])
def test_own_masks(ignore_index, first, unlabelled, script, failure):
    """The config of docs/user_guides/own_segmentation_data.md."""
    page = (ROOT / 'docs/user_guides/own_segmentation_data.md').read_text()
    assert f'| `{ignore_index}` |' in page
    code = page.split('```python\n')[1].split('```')[0]
    before, after = code.split('ignore_index = 255 ')
    code = f'{before}ignore_index = {ignore_index} {after}'
    folder = ROOT / 'configs'
    Path('street.py').write_text(code.replace('../_base_',
                                              f'{folder}/_base_'))
    cfg = quick(Config.fromfile('street.py'))
    assert cfg.model.decode_head.num_classes == 11
    rng = np.random.default_rng(0)
    root = Path(cfg.data_root)
    for split, count in (('train', 4), ('val', 2)):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 255, (36, 48, 3), np.uint8)
            mask = rng.integers(0, 12, (36, 48), np.uint8)
            mask = np.where(mask == 11, unlabelled, mask + first).astype('u1')
            Image.fromarray(image).save(root / f'images/{split}/{i}.png')
            Image.fromarray(mask).save(root / f'masks/{split}/{i}.png')
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.dump('street.py')
    script('tools/train.py').main(['street.py'])
    script('tools/test.py').main([
        'street.py', 'work_dirs/street/iter_2.pth', '--work-dir', 'test',
        '--show-dir', 'pictures'])
    assert len(list(Path('pictures').rglob('*.png'))) == 2
    (scores, ) = Path('test').glob('*/*.json')
    assert 0 <= json.loads(scores.read_text())['mIoU'] <= 100
    message = failure(
        script('tools/test.py').main, 'street.py',
        'work_dirs/street/iter_2.pth', '--cfg-options',
        'test_evaluator.format_only=True')
    assert message.endswith('name their folder, --out FOLDER')
    bad = root / 'masks/train/0.png'
    Image.open(bad).convert('RGB').save(bad)
    message = failure(script('tools/train.py').main, 'street.py')
    assert f'{bad}: is a picture with the channels RGB' in message
