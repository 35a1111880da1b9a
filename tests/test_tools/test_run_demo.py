# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mmxvit.datasets.shapes import write_dataset

from ..html_page import Page
from ..snippets import ROOT

SCRIPT = ROOT / 'demo/run_demo.py'
CONFIG = 'configs/xformer/yolov3_xformer_1xb4-256-16e_shapes.py'


def test_pictures_and_page_are_complete_or_made_again(tmp_path, script,
                                                      monkeypatch, capsys):
    demo = script('demo/run_demo.py')
    work_dir = tmp_path / 'work'
    checkpoint = work_dir / 'epoch_16.pth'
    killed, pages = [True], []

    def run(name, *args):
        if name == 'tools/train.py':
            checkpoint.write_text('')
        if name == 'tools/visualization/gallery.py':
            assert args[args.index('--scores') + 1] == result
            pages.append(args[args.index('--out') + 1])
            assert not pages[-1].exists()  # gallery.py takes another name
            pages[-1].write_text('')
        if name != 'tools/test.py' or '--show-dir' not in args:
            return
        folder = args[args.index('--show-dir') + 1]
        folder.mkdir(parents=True)  # test.py refuses one with pictures
        (folder / '0.png').write_text('')
        if killed.pop():
            raise KeyboardInterrupt
        (folder / '1.png').write_text('')

    result = work_dir / 'test/20260101_000000/20260101_000000.json'
    result.parent.mkdir(parents=True)
    keys = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    result.write_text(json.dumps({f'coco/bbox_{k}': .5 for k in keys}))
    monkeypatch.setattr(demo, 'run', run)
    monkeypatch.setattr('sys.argv', ['run_demo.py', '--work-dir',
                                     str(work_dir)])
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    with pytest.raises(KeyboardInterrupt):
        demo.main()
    assert not (work_dir / 'pictures').exists()
    killed.append(False)
    for _ in range(2):  # the second time they are there
        demo.main()
        assert {p.name for p in work_dir.glob('*/*.png')} == {'0.png', '1.png'}
        assert not (work_dir / 'pictures.partial').exists()
        assert f'page:     {work_dir}/gallery.html\n' in (
            capsys.readouterr().out)
    assert pages == [work_dir / 'gallery.html']

    # another training in the same folder
    checkpoint.unlink()
    (work_dir / 'pictures/0.png').write_text('of the old model')
    for made in work_dir / 'pictures', work_dir / 'gallery.html':
        os.utime(made, (0, 0))
    killed.append(False)
    demo.main()
    assert pages == 2 * [work_dir / 'gallery.html'] and not killed
    assert (work_dir / 'pictures/0.png').read_text() == ''


@pytest.mark.slow
def test_runs_from_start_to_end(tmp_path):
    """All that `make demo` does, with fewer images and one epoch."""
    pytest.importorskip('mmdet')
    for name in ('demo', 'tools', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name)
    write_dataset(tmp_path / 'data/shapes', 'coco', train=8, val=4)
    with open(tmp_path / CONFIG, 'a') as file:  # it finds anything so early
        file.write('model.update(test_cfg=dict(conf_thr=0., score_thr=0.))')
    command = [sys.executable, 'demo/run_demo.py', '--epochs', '1']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')

    def run():
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True,
            text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    work = tmp_path / 'work_dirs/demo-1e'
    out = run()
    assert f'all of it on one page:     {work}/gallery.html' in out
    assert re.search(r'  mAP_50  [01]\.\d\d\d\n', out)
    assert len(list((work / 'pictures').glob('*.png'))) == 4
    page = Page(work / 'gallery.html')
    for words in ('triangle', 'AP50'):
        assert words in page.text
    assert {'svg', 'img', 'input'} <= {tag for tag, _ in page.tags}
    assert 'no training' in run()


def test_pictures_become_png(tmp_path):
    image = np.zeros((8, 9, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.jpg'), image)
    runpy.run_path(str(SCRIPT))['to_png'](tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
    assert cv2.imread(str(tmp_path / 'a.png')).shape == (8, 9, 3)


def test_a_failing_command_ends_the_demo_with_its_status(tmp_path):
    demo = runpy.run_path(str(SCRIPT))
    script = tmp_path / 'fails.py'
    script.write_text('raise SystemExit(3)')
    with pytest.raises(SystemExit) as error:
        demo['run'](script)
    assert error.value.code == 3
