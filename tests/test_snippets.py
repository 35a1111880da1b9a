# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Commands and code of the pages run as they are printed.

All blocks of a page run in order in a folder that looks like a clone, see
:class:`ToyClone`. What cannot be run here stands in ``NOT_RUN``; that it is
well-formed, and that our tools take its arguments, is tested for all.
"""
import ast
import inspect
import itertools
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
import torch

import mmxvit
from mmxvit.datasets.shapes import CLASSES, write_dataset

from .golden import Golden
from .snippets import (
    ROOT,
    check_arguments,
    commands,
    inline_commands,
    pages,
    read_snippets,
    run_block,
    run_python,
)
from .toy_clone import SIZE, ToyClone

PAGE = '''Text.

```python
x = 2  # 3 is not its value
x + 1  # 3
(x,
 5)  # (2, 5)
x + 2  # as it is
```

* item

  ```bash
  exit 1
  ```

```python
x * 2  # 5
```
'''


def test_what_a_page_prints_is_compared(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    assert [(s.line, s.language, s.text.splitlines()[-1])
            for s in read_snippets(page)] == [
                (4, 'python', 'x + 2  # as it is'), (14, 'bash', 'exit 1'),
                (18, 'python', 'x * 2  # 5')]
    with pytest.raises(AssertionError, match=r'page\.md:18: printed 5, got 4'):
        run_python(page)
    page.write_text(PAGE.replace('# 5', '# 4'))
    assert run_python(page) == 3
    page.write_text(PAGE.replace('x * 2', 'y'))
    with pytest.raises(NameError) as error:
        run_python(page)
    assert error.traceback[-1].lineno + 1 == 18


DETECTOR = 'configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py'
SEGMENTOR = 'configs/xformer/segformer_xformer_8xb2-160k_ade20k-512x512.py'
CITYSCAPES = (
    'configs/xformer/segformer_xformer_8xb1-160k_cityscapes-1024x1024.py')
CLASSIFIER = 'configs/lvt/lvt_8xb128_in1k.py'
PANOPTIC = 'configs/lvt/panoptic-fpn_lvt_8xb8-ms-3x_coco.py'

NOT_RUN = {
    r'(\w+=\S+ )*(python -m )?pip (un)?install': 'changes the environment of '
    'the tests: tests/test_packaging.py, tools/dev/check_installs.py; those '
    'by hand are what tools/dev/setup_env.py runs',
    r'sudo apt': 'changes the system',
    r'make': 'sets up an environment, and what it starts there the tests run: '
    'tests/test_tools/test_run_demo.py, tests/test_docs.py, all tests',
    r'python tools/train\.py [\s\S]*CompileHook':
    'compiles for minutes; without that: tests/test_tools/test_train_test.py',
    r'python tools/dev/learn\.py': 'trains for hours: make learn',
    r'docker': 'needs Docker',
    r'chromium': 'needs a browser',
    r'mim (install|search|run|train|test)': 'changes the environment of the '
    'tests: tools/dev/check_installs.py --parts mim',
    r'\S+python tools/dev/check_installs\.py': 'makes a dozen environments: '
    'tests/test_check_installs.py',
    r'python tools/analysis_tools/paper_tables\.py .*'
    r'--(latency|plots|checkpoints)':
    'measures for hours, or tests on ImageNet; smaller in '
    'tests/test_tools/test_paper_tables.py',
}
"""Commands that are only parsed, as regular expressions, and why."""

PLACEHOLDERS = dict(CONFIG=DETECTOR, CHECKPOINT='weights/detector.pth',
                    IMAGE='image.jpg', GPUS='2')
"""What stands for words in capitals."""


@dataclass
class Page:
    """How the blocks of a page are run: as printed, but for

    Attributes:
        replace: Text -> what is run instead; each must be in the page.
        words: Placeholders besides those of all pages.
        prepare: Makes the files that the page takes as given, and returns
            variables of the Python blocks.
        own_data: The data of configs is that of ``prepare``.
        fast: Not marked as slow.
    """
    replace: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[ToyClone], dict | None] = lambda clone: None
    own_data: bool = False
    fast: bool = False


EPOCHS = {'epoch_20.pth': 'epoch_1.pth', 'iter_20000.pth': 'iter_2.pth',
          'epoch_100.pth': 'epoch_1.pth', 'epoch_300.pth': 'epoch_1.pth'}
"""Configs are made shorter, see :class:`ToyClone`."""


def shorter(*names):
    return {name: EPOCHS[name] for name in names}


def blood_cells(clone):
    """The data set as it is published, with other pictures."""
    write_dataset(clone.folder / 'toy', 'voc', train=4, val=2, size=64)
    source = clone.folder / 'toy/VOCdevkit/VOC2007'
    target = clone.folder / 'BCCD_Dataset/BCCD'
    target.parent.mkdir()
    source.rename(target)
    names = dict(zip(CLASSES, itertools.cycle(('RBC', 'WBC', 'Platelets'))))
    for file in target.glob('Annotations/*.xml'):
        text = file.read_text()
        for ours, theirs in names.items():
            text = text.replace(f'<name>{ours}</name>',
                                f'<name>{theirs}</name>')
        file.write_text(text)


def streets(clone):
    rng = np.random.default_rng(0)
    for split, first, count in (('train', 1, 4), ('val', 51, 2)):
        for i in range(first, first + count):
            clone.picture(f'data/street/images/{split}/{i:04}.png', 36, 48)
            file = clone.folder / f'data/street/masks/{split}/{i:04}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), rng.integers(0, 11, (36, 48), np.uint8))


def cityscapes(clone):
    clone.shorten(clone.folder / CITYSCAPES)
    clone.checkpoint(CITYSCAPES, 'weights/segmentor.pth')
    for kind in ('leftImg8bit', 'gtFine'):
        folder = clone.folder / 'data/cityscapes' / kind
        shutil.copytree(folder / 'val', folder / 'test')
    for path in folder.glob('test/*/*_labelTrainIds.png'):
        cv2.imwrite(str(path), np.full((SIZE, SIZE), 255, np.uint8))


def flowers(clone):
    for split, first in (('train', 1), ('val', 101)):
        for name in ('daisy', 'rose', 'tulip'):
            for i in range(first, first + 2):
                clone.picture(f'data/flowers/{split}/{name}/{i:04}.jpg')


def detector(clone):
    clone.picture('image.jpg')
    clone.checkpoint(DETECTOR, 'weights/detector.pth')


def from_python(clone):
    clone.picture('image.jpg')
    clone.checkpoint(DETECTOR, 'detector.pth')
    clone.checkpoint('configs/lolvit/segformer_lolvit-x_8xb2-160k_ade20k-'
                     '512x512.py', 'segmentor.pth')


def classifier_and_logs(clone):
    detector(clone)
    clone.checkpoint('configs/xformer/xformer_8xb128_in1k.py',
                     'classifier.pth')
    shutil.copy('weights/detector.pth', 'epoch_12.pth')


def panoptic(clone):
    """Predictions that are the ground truth."""
    clone.shorten(clone.folder / PANOPTIC)
    clone.checkpoint(PANOPTIC, 'weights/panoptic.pth')
    clone.picture('IMAGE.jpg')
    truth = 'data/coco/annotations/panoptic_val2017'
    Path('out').mkdir()
    shutil.copytree(truth, 'out/val.panoptic')
    shutil.copy(f'{truth}.json', 'out/val.panoptic.json')
    return dict(gt_json=f'{truth}.json', gt_dir=truth,
                pred_json='out/val.panoptic.json', pred_dir='out/val.panoptic')


def authors_weights(clone):
    """Weights by the names of the authors' code."""
    for family, name in (('lvt', 'lvt_cls'), ('fcaformer', 'fcaformer_l1'),
                         ('cabvit', 'fcaformer_l1')):
        torch.save(Golden(name).state_dict(), f'{family}.pth')
    clone.shorten(clone.folder / CLASSIFIER)
    cfg = mmengine.Config.fromfile(CLASSIFIER)
    cfg.data_preprocessor.num_classes = cfg.model.head.num_classes = 1000
    cfg.dump(CLASSIFIER)
    return dict(DST='lvt_mmxvit.pth')


def backbone(clone):
    clone.picture('image.jpg')
    detector(clone)
    model = mmxvit.create_model('xformer', features_only=True).eval()
    images = torch.rand(1, 3, 64, 64)
    return dict(model=model, backbone=model, images=images,
                image=np.zeros((64, 64, 3), np.uint8))


PAGES = {
    'docs/faq.md': Page(prepare=classifier_and_logs),
    'docs/models/xformer.md': Page(replace={
        '--threads 2': '--threads 2 --sizes 64 --rounds 1 --min-time 0'}),
    'docs/user_guides/analysis.md': Page(
        prepare=backbone,
        replace={
            '--sizes 224 512 1024': '--sizes 64 96 --rounds 1 --min-time 0',
            'shape=(3, 512, 512)': 'shape=(3, 64, 64)'}),
    'docs/user_guides/attention_maps.md': Page(
        prepare=backbone, replace={"['stages.3']": "['stages']"}),
    'docs/user_guides/bdd100k.md': Page(replace=shorter('epoch_300.pth')),
    'docs/user_guides/cityscapes_ade20k.md': Page(
        prepare=cityscapes,
        words=dict(CONFIG=CITYSCAPES, CHECKPOINT='weights/segmentor.pth')),
    'docs/user_guides/converters.md': Page(
        prepare=authors_weights,
        replace={
            **{f'{f}_to_mmxvit.py SRC DST':
               f'{f}_to_mmxvit.py {f}.pth {f}_mmxvit.pth'
               for f in ('lvt', 'fcaformer', 'cabvit')},
            'lvt_8xb128_in1k.py DST': 'lvt_8xb128_in1k.py lvt_mmxvit.pth'}),
    'docs/user_guides/deployment.md': Page(
        prepare=backbone, replace={"export_onnx(model.eval(), 'model.onnx')":
                                   "export_onnx(model.eval(), 'python.onnx')",
                                   "(model, 'model.onnx')":
                                   "(model, 'python.onnx')"}),
    'docs/user_guides/drop_in.md': Page(
        prepare=lambda clone: clone.checkpoint(
            'configs/xformer/xformer_8xb128_in1k.py', 'classifier.pth')),
    'docs/user_guides/own_classification_data.md': Page(
        prepare=flowers, own_data=True, replace=shorter('epoch_100.pth')),
    'docs/user_guides/own_data.md': Page(
        prepare=blood_cells, own_data=True, replace=shorter('epoch_20.pth')),
    'docs/user_guides/own_segmentation_data.md': Page(
        prepare=streets, own_data=True,
        replace={**shorter('iter_20000.pth'),
                 'image_size = (480, 360)': 'image_size = (96, 72)',
                 'crop_size = (360, 360)': 'crop_size = (64, 64)'}),
    'docs/user_guides/panoptic.md': Page(
        prepare=panoptic,
        replace={'--layout coco_panoptic': '--layout coco_panoptic --train 4',
                 "'CONFIG'": f"'{PANOPTIC}'",
                 "'CHECKPOINT'": "'weights/panoptic.pth'"}),
    'docs/user_guides/python_api.md': Page(prepare=from_python, fast=True),
    'docs/user_guides/scaling.md': Page(replace={
        'mmxvit.LOLViT:s mmxvit.LOLViT:x':
        'mmxvit.LOLViT:s mmxvit.LOLViT:x --size 64'}),
    'docs/user_guides/toy_data.md': Page(
        replace={"write_dataset('data/shapes'": "write_dataset('data/more'"}),
    'docs/user_guides/train_test.md': Page(
        prepare=detector,
        replace={'[CHECKPOINT]': 'CHECKPOINT', ' [options of train.py]': '',
                 ' [options of test.py]': '',
                 'PARTITION JOB_NAME CONFIG': 'part job CONFIG'}),
}
"""Pages that need something; all others run as they are, with a detector."""

SHELL = ('bash', 'shell', 'sh', 'console')
KNOWN = (*SHELL, 'python', 'text', 'bibtex')
every_page = pytest.mark.parametrize(
    'page', pages(), ids=lambda page: page.relative_to(ROOT).as_posix())


def settings(page):
    return PAGES.get(page.relative_to(ROOT).as_posix(),
                     Page(prepare=detector))


def replaced(snippet, page):
    """A block with what is run in place of what is printed."""
    text = snippet.text
    for old, new in settings(page).replace.items():
        text = text.replace(old, new)
    return snippet._replace(text=text)


def reason_not_to_run(command):
    return next((why for pattern, why in NOT_RUN.items()
                 if re.match(pattern, command)), None)


def filled(text, page):
    """A shell command without words in capitals."""
    words = {**PLACEHOLDERS, **settings(page).words}
    return re.sub(
        rf'\b({"|".join(words)})\b(?!=)', lambda m: words[m[0]], text)


@every_page
def test_blocks_are_well_formed(page, monkeypatch):
    for snippet in read_snippets(page):
        assert snippet.language.startswith('{') or snippet.language in KNOWN, (
            f'{page}:{snippet.line}: {snippet.language!r} is none of {KNOWN}')
        if snippet.language == 'python':
            ast.parse(snippet.text, f'{page}:{snippet.line}')
        elif snippet.language in SHELL:
            subprocess.run(['bash', '-n'], input=snippet.text, text=True,
                           check=True)
            for command in commands(replaced(snippet, page).text):
                check_arguments(command, monkeypatch)
    for command in inline_commands(page):
        check_arguments(command, monkeypatch)


def test_wrong_arguments_are_found(monkeypatch):
    check_arguments('python tools/train.py CONFIG --amp  # text', monkeypatch)
    check_arguments('GPUS=8 tools/slurm_test.sh PART JOB CONFIG CHECKPOINT',
                    monkeypatch)
    for wrong in ('python tools/train.py CONFIG --ampp',
                  'python tools/nothing.py', 'tools/dist_train.sh CONFIG',
                  'tools/dist_test.sh CONFIG CHECKPOINT 8 --no-such'):
        with pytest.raises(AssertionError, match=re.escape(wrong)):
            check_arguments(wrong, monkeypatch)


def test_what_is_listed_is_printed():
    """No entry of the lists above has outlived its page."""
    printed = [command for page in pages() for snippet in read_snippets(page)
               if snippet.language in SHELL
               for command in commands(snippet.text)]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, c) for c in printed), pattern
    for name, page in PAGES.items():
        text = (ROOT / name).read_text()
        for old in page.replace:
            assert old in text, f'{name}: {old}'


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('page', [
    pytest.param(
        page, id=page.relative_to(ROOT).as_posix(),
        marks=() if settings(page).fast else pytest.mark.slow)
    for page in pages() if any(
        s.language in (*SHELL, 'python') for s in read_snippets(page))
])
def test_page_runs_as_printed(page):
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    setting = settings(page)
    clone = ToyClone(Path(), setting.own_data)
    names = dict(__name__='__main__', **(setting.prepare(clone) or {}))
    for snippet in read_snippets(page):
        snippet = replaced(snippet, page)
        text = snippet.text
        if snippet.language in SHELL:
            clone.bash('\n'.join(
                filled(command, page) for command in commands(text)
                if not reason_not_to_run(command)))
        elif snippet.language == 'python' and text.startswith('_base_'):
            names.update(clone.config(snippet))
        elif snippet.language == 'python':
            before = dict(names)
            run_block(snippet, names)
            check_types({k: v for k, v in names.items()
                         if before.get(k) is not v})


def test_upernet_on_your_own_segmentation_data():
    """The second block of the page, put into the first as it says."""
    page = ROOT / 'docs/user_guides/own_segmentation_data.md'
    config, heads = [s for s in read_snippets(page)
                     if s.language == 'python'][:2]
    text = config.text.replace('models/segformer.py', 'models/upernet.py')
    text = text.replace('segformer_160k.py', 'upernet_160k.py')
    end = 'loss_decode=dict(avg_non_ignore=True)))'
    assert text.count(end) == 1
    clone = ToyClone(Path())
    cfg = clone.config(config._replace(
        text=text.replace(end, f'{end[:-1]},\n{heads.text})')))
    assert cfg.model.auxiliary_head.num_classes == 11
    assert 'custom_keys' not in cfg.optim_wrapper.paramwise_cfg


@pytest.mark.filterwarnings('ignore')
def test_own_images_without_masks():
    """The last block of the page, put behind the config."""
    pytest.importorskip('mmseg')
    page = ROOT / 'docs/user_guides/own_segmentation_data.md'
    blocks = [replaced(s, page) for s in read_snippets(page)
              if s.language == 'python']
    clone = ToyClone(Path(), own_data=True)
    streets(clone)
    for name in ('a', 'b'):
        clone.picture(f'data/street/images/new/{name}.png', 36, 48)
    clone.config(blocks[0]._replace(text=blocks[0].text + blocks[-1].text))
    config = 'configs/street/segformer_xformer_1xb8-20k_street.py'
    clone.checkpoint(config, 'random.pth')
    clone.bash(f'python tools/test.py {config} random.pth --out new')
    masks = [cv2.imread(f'new/{n}.png', cv2.IMREAD_UNCHANGED) for n in 'ab']
    assert [mask.shape for mask in masks] == [(36, 48)] * 2


@pytest.mark.parametrize('base', [
    'lvt/lvt', 'fcaformer/fcaformer-l1', 'cabvit/cabvit-h-l1',
    'lolvit/lolvit-s'])
def test_other_classifiers_on_your_own_data(base):
    """The config of the page, with another base, as it says."""
    pytest.importorskip('mmpretrain')
    page = ROOT / 'docs/user_guides/own_classification_data.md'
    config = next(s for s in read_snippets(page) if s.language == 'python')
    text = config.text.replace('xformer/xformer', base)
    if 'lvt/' in base:
        text = text.replace('num_classes, topk=(1, ))', 'num_classes)')
    assert text.count('xformer') == 0
    cfg = ToyClone(Path()).config(config._replace(text=text))
    assert cfg.model.head.num_classes == 3
    assert ('topk' in cfg.model.head) == ('lvt/' not in base)


def check_types(value):
    """Parts of a config: each type exists and takes these arguments."""
    if isinstance(value, dict):
        kind = value.get('type')
        if isinstance(kind, str):
            arguments = {k: v for k, v in value.items() if k != 'type'}
            # of types of one name in several packages one has to fit
            errors = [refusal(t, arguments) for t in find_types(kind)]
            if all(errors):
                raise errors[0]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            check_types(part)


def refusal(kind, arguments):
    try:
        inspect.signature(kind).bind_partial(**arguments)
    except TypeError as error:
        return error
    return None


def find_types(name):
    scopes = ('mmengine', 'mmdet', 'mmseg', 'mmpretrain')
    names = [name] if '.' in name else [f'{s}.{name}' for s in scopes]
    registries = [r for r in vars(mmengine.registry).values()
                  if isinstance(r, mmengine.registry.Registry)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = [kind for n in names for r in registries
                 if (kind := r.get(n)) is not None]
    assert found, f'{name} is in no registry'
    return found


def test_wrong_parts_of_a_config_are_found():
    check_types(dict(a=[dict(type='mmxvit.LVT', arch='lvt')]))
    with pytest.raises(AssertionError, match='mmxvit.Lvt'):
        check_types(dict(type='mmxvit.Lvt'))
    with pytest.raises(TypeError, match='archs'):
        check_types([dict(type='mmxvit.LVT', archs='lvt')])
