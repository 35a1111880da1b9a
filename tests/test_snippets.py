# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Pages of the documentation whose Python blocks run as printed."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmxvit

from .snippets import ROOT, link_clone, read_snippets, run_python

GUIDES = ROOT / 'docs/user_guides'
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


def write_checkpoint(config, path):
    """Random weights, with the classes as a training saves them."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    count = model.num_classes if hasattr(model, 'num_classes') else \
        cfg.model.bbox_head.num_classes
    meta = dict(
        classes=[f'class {i}' for i in range(count)],
        palette=[(i, i, i) for i in range(count)])
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)),
        path)


def files_of_a_user():
    """What the page on Python takes as given."""
    cv2.imwrite('image.jpg',
                np.random.RandomState(0).randint(0, 255, (60, 80, 3),
                                                 np.uint8))
    write_checkpoint('configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py',
                     'detector.pth')
    write_checkpoint(
        mmxvit.get_config_path('segformer_lolvit-x_8xb2-160k_ade20k-512x512'),
        'segmentor.pth')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('page, prepare', [
    ('python_api.md', files_of_a_user),
    ('drop_in.md', None),
])
def test_page_runs_as_printed(page, prepare):
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    link_clone(Path())
    if prepare:
        prepare()
    assert run_python(GUIDES / page) > 0
