# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from mmxvit.engine.predict import build_model, predict


@pytest.fixture
def tool(script):
    return script('tools/visualization/attention_maps.py').main


@pytest.fixture
def image(data):
    return str(data / 'val/0.png')


def backbone(kind, arch, **kwargs):
    return dict(_delete_=True, type=f'mmxvit.{kind}', arch=arch, **kwargs)


# One kind of config, its backbone, two layers and what else to ask for.
FAMILIES = {
    'XFormer': ('det', backbone('XFormer', 'xformer', out_indices=(1, 2, 3)),
                ('stages.1.1.layers.1.attn', 'stages.3.1.layers.0.attn'), ()),
    'LVT': ('seg', backbone('LVT', 'lvt'),
            ('stages.0.0.attn', 'stages.1.2.attn'), ('--query', '0', '1')),
    'FcaFormer': ('cls', backbone('FcaFormer', 'l0', out_type='cls_token'),
                  ('stages.0.0.attn', 'stages.0.4.attn'), ('--query', 'cls')),
    'CabViT': ('det', backbone('CabViT', 'h-l1', out_indices=(1, 2, 3)),
               ('stages.2.2.attn', 'stages.3.1.attn'),
               ('--query', '0.2', '0.9')),
    'LOLViT': ('cls', backbone('LOLViT', 's'),
               ('stages.1.1.layers.0.attn', 'stages.2.1.layers.0.attn'), ()),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_writes_pictures(family, config, checkpoint, tool, image, capfd):
    task, model, layers, query = FAMILIES[family]
    path = config(task, model__backbone=model)
    tool([image, path, checkpoint(path), *query, '--size', '64', '96',
          '--layers', *layers, '--out-dir', 'new/pics'])
    said = capfd.readouterr().out
    assert 'input 64 x 96 (size from: --size)' in said
    assert 'random' not in said.replace('random.pth', '')
    names = [f'new/pics/0_{task}_{layer}.png' for layer in layers]
    for name in names:
        assert f'wrote {name}\n' in said
        picture = cv2.imread(name)
        assert min(picture.shape[:2]) > 150 and picture.std() > 10
    assert sorted(names) == sorted(map(str, Path('new/pics').iterdir()))


def test_all_layers_at_the_size_of_the_config(config, tool, image, capfd):
    path = config('det')
    tool([image, path])
    said = capfd.readouterr().out
    assert 'input 64 x 64 (size from: Resize of the test pipeline)' in said
    assert 'the weights are random' in said
    assert len(list(Path().glob('0_det_stages.*.attn.png'))) == 9


def test_config_options(config, tool, image, capfd):
    path = config('cls', model__backbone=backbone('LVT', 'lvt'))
    tool([image, path, '--size', '32', '--cfg-options',
          'model.backbone.out_indices=[0]'])
    written = capfd.readouterr().out.split('wrote ')[1:]
    assert len(written) == 2 and all('stages.0' in line for line in written)


def test_nothing_is_overwritten(config, tool, image, capfd):
    path = config('cls', model__backbone=backbone('LVT', 'lvt'))
    name = Path('0_cls_stages.0.1.attn.png')
    name.write_text('mine')
    tool([image, path, '--size', '32', '--layers', '0.1.'])
    said = capfd.readouterr().out
    assert f'{name} exists already and is kept\n' in said
    assert 'wrote 0_cls_stages.0.1.attn-1.png\n' in said
    assert name.read_text() == 'mine'


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_backbone_gets_what_it_gets_in_tests(task, config, script, image):
    """Channel order and normalisation are those of the config."""
    path = config(task, **{
        'data_preprocessor' if task == 'cls' else 'model__data_preprocessor':
        dict(mean=[100., 110., 120.], std=[50., 60., 70.])
    })
    cfg = Config.fromfile(path)
    if task != 'cls':
        cfg.model.data_preprocessor.bgr_to_rgb = True
    model = build_model(cfg, None, 'cpu')
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    predict(model, cfg, image)
    module = script('tools/visualization/attention_maps.py')
    picture = cv2.resize(cv2.imread(image), (64, 64))[..., ::-1]
    torch.testing.assert_close(module.preprocess(model, picture), seen[0])
    assert not np.array_equal(picture, picture[..., ::-1])


def test_types_of_a_pure_python_config(config, tool, image, monkeypatch):
    cfg = Config.fromfile(config('seg', model__backbone=backbone('LVT',
                                                                 'lvt')))
    init_default_scope('mmseg')
    dataset = cfg.test_dataloader.dataset
    for part, registry in ((dataset, DATASETS),
                           *((s, TRANSFORMS) for s in dataset.pipeline)):
        with registry.switch_scope_and_registry(None) as scope:
            part.type = scope.get(part.type)
    monkeypatch.setitem(tool.__wrapped__.__globals__, 'load_config',
                        lambda *args: cfg)
    tool([image, 'seg.py', '--layers', '0.0'])
    assert Path('0_seg_stages.0.0.attn.png').is_file()


@pytest.mark.parametrize('query', [
    ('1.1', '0'), ('0', '-0.1'), ('nan', '0'), ('0.5', ), ('a', 'b'),
    ('0', '0', '0')])
def test_bad_query(query, config, tool, failure, image):
    message = failure(tool, image, config('det'), '--query', *query)
    assert f"--query {' '.join(query)}: expected X Y, two numbers" in message


def test_other_errors(config, checkpoint, tool, failure, image):
    path = config('det')
    assert "'cls' needs a class token" in failure(
        tool, image, path, '--query', 'cls')
    assert 'no layer has stages.7 in its name; choose from stages.1.1.' in (
        failure(tool, image, path, '--layers', 'stages.7'))
    for size in (('31', '64'), ('64', '0'), ('64', '64', '64')):
        assert f"--size {' '.join(size)}: expected H W, or one number" in (
            failure(tool, image, path, '--size', *size))
    other = config('cls', 'other')
    message = failure(tool, image, other)
    assert 'MobileNetV2 has no attention that can be drawn' in message
    for family in FAMILIES:
        assert family in message
    assert 'and the model differ' in failure(
        tool, image, path, checkpoint(other))
    assert 'none.png: no such image file' in failure(tool, 'none.png', path)
    assert 'no such config file' in failure(tool, image, 'dett.py')
    assert not list(Path().glob('*.png'))
