# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import json
import runpy
from pathlib import Path

import pytest

from mmxvit.datasets.shapes import CLASSES, write_dataset

TOOL = Path(__file__).parents[2] / 'tools/dataset_tools/voc_to_coco.py'
main = runpy.run_path(str(TOOL))['main']


@pytest.fixture(scope='module')
def voc(tmp_path_factory):
    out = tmp_path_factory.mktemp('voc')
    write_dataset(out, ('voc', ), train=4, val=2, size=96)
    return out / 'VOCdevkit/VOC2007'


def run(voc, out, *more):
    main([str(voc), str(out), '--classes', *CLASSES, '--splits', 'test',
          *more])
    return json.loads((out / 'instances_test.json').read_text())


def test_loads_in_mmdet_as_the_voc_folder_does(voc, tmp_path):
    from mmdet.datasets import CocoDataset, VOCDataset
    meta = dict(classes=CLASSES)
    coco = run(voc, tmp_path)
    assert [c['id'] for c in coco['categories']] == [
        1, 2, 3, 4, 5
    ]
    ours = CocoDataset(
        ann_file=str(tmp_path / 'instances_test.json'),
        data_prefix=dict(img=str(voc / 'JPEGImages')),
        metainfo=meta,
        pipeline=[],
        test_mode=True)
    theirs = VOCDataset(
        data_root=str(voc.parent) + '/',
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        metainfo=meta,
        pipeline=[],
        test_mode=True)
    assert len(ours) == len(theirs) == 2
    for i in range(2):
        a, b = ours.get_data_info(i), theirs.get_data_info(i)
        assert Path(a['img_path']).name == Path(b['img_path']).name
        assert Path(a['img_path']).is_file()
        assert len(a['instances']) == len(b['instances']) > 0
        for mine, other in zip(a['instances'], b['instances'], strict=True):
            assert mine['bbox_label'] == other['bbox_label']
            # mmdet shifts VOC's boxes from 1-based to 0-based corners
            assert [v - 1 for v in mine['bbox']] == other['bbox']


def test_nothing_is_overwritten(voc, tmp_path):
    (tmp_path / 'instances_test.json').write_text('mine')
    with pytest.raises(SystemExit, match='exists already'):
        run(voc, tmp_path)
    assert (tmp_path / 'instances_test.json').read_text() == 'mine'


def test_bad_input(voc, tmp_path):
    with pytest.raises(SystemExit, match='no such split'):
        run(voc, tmp_path, '--splits', 'nosuch')
    with pytest.raises(SystemExit, match='--classes are disc'):
        main([str(voc), str(tmp_path), '--classes', 'disc', '--splits',
              'test'])
