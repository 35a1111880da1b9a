# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData

from mmxvit.datasets.coco_panoptic import read_ids
from mmxvit.datasets.shapes import CLASSES, STUFF_CLASSES, write_dataset
from mmxvit.engine.command import UserError
from mmxvit.evaluation.coco_panoptic import evaluate_files
from mmxvit.registry import METRICS

from ..gloo import leave_group

pytest.importorskip('mmdet')

NAMES = (*CLASSES, *STUFF_CLASSES)
OFFSET = 1000
VOID = len(NAMES)


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Seven images, an odd number."""
    root = tmp_path_factory.mktemp('toy')
    write_dataset(root, 'coco_panoptic', train=1, val=7, size=64)
    return root


def arguments(root):
    return dict(
        ann_file=f'{root}/annotations/panoptic_val2017.json',
        seg_prefix=f'{root}/annotations/panoptic_val2017')


def build_dataset(root, **kwargs):
    init_default_scope('mmdet')
    return DATASETS.build(
        dict(
            type='CocoPanopticDataset',
            data_root=str(root),
            ann_file='annotations/panoptic_val2017.json',
            data_prefix=dict(
                img='val2017/', seg='annotations/panoptic_val2017/'),
            metainfo=dict(classes=NAMES, thing_classes=CLASSES,
                          stuff_classes=STUFF_CLASSES),
            test_mode=True,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmxvit.LoadPanopticAnnotations'),
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape'))
            ],
            **kwargs))


def predict(sample, wrong=True):
    """A data sample with a prediction made from the truth of its image."""
    sample = copy.deepcopy(sample)
    rng = np.random.default_rng(sample.img_id)
    labels = sample.gt_sem_seg.sem_seg[0].numpy().astype(np.int32)
    seg = np.where(labels == 255, VOID, labels)
    for i, mask in enumerate(sample.gt_instances.masks.masks, 1):
        if wrong and rng.random() < 0.3:
            continue  # missed
        label = sample.gt_instances.labels[i - 1]
        if wrong and rng.random() < 0.3:
            label = rng.integers(len(CLASSES))
        rows = slice(int(rng.integers(0, 20)) if wrong else 0, None)
        seg[rows][mask[rows] > 0] = int(label) + OFFSET * i
    seg[seg < len(CLASSES)] = VOID  # things without an instance
    if wrong:
        seg[10:20, 5:30] = len(CLASSES)
    sample.pred_panoptic_seg = PixelData(
        sem_seg=torch.from_numpy(seg)[None].int())
    return sample


def evaluate(root, batch_size=1, indices=None, **kwargs):
    """Metrics of the predictions for all images."""
    dataset = build_dataset(root, indices=indices)
    loader = Runner.build_dataloader(
        dict(
            dataset=dataset,
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False)), seed=0)
    evaluator = Evaluator(
        dict(type='mmxvit.CocoPanopticMetric', **arguments(root), **kwargs))
    evaluator.dataset_meta = dataset.metainfo
    for batch in loader:
        evaluator.process([predict(s) for s in batch['data_samples']], batch)
    return evaluator.evaluate(len(dataset))


def test_equals_the_evaluation_of_its_files(toy, tmp_path, capfd):
    metrics = evaluate(toy, classwise=True, outfile_prefix='out/val')
    quality, categories = evaluate_files(
        *arguments(toy).values(), 'out/val.panoptic.json', 'out/val.panoptic')
    assert metrics == {
        f'coco_panoptic/{key.upper()}{suffix}': 100 * quality[name][key]
        for name, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st'))
        for key in ('pq', 'sq', 'rq')
    }
    assert 0 < metrics['coco_panoptic/PQ_th'] < metrics[
        'coco_panoptic/PQ_st'] < 100
    assert quality['All']['n'] == len(NAMES) == len(categories)
    assert evaluate(toy) == metrics  # without files
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out']


def test_perfect_predictions(toy):
    dataset = build_dataset(toy)
    metric = make_metric(toy)
    metric.dataset_meta = dataset.metainfo
    for item in dataset:
        sample = predict(item['data_samples'], wrong=False)
        before = sample.pred_panoptic_seg.sem_seg.clone()
        metric.process({}, [sample.to_dict()])
        # others, such as the one that draws, use it after this
        assert torch.equal(sample.pred_panoptic_seg.sem_seg, before)
    assert set(metric.evaluate(7).values()) == {100.}


def run_rank(rank, folder, root):
    os.chdir(folder)
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    results = [evaluate(root, batch_size, outfile_prefix=f'out/{batch_size}')
               for batch_size in (1, 2)]
    Path(f'{rank}.json').write_text(json.dumps(results))
    leave_group()


def test_two_processes_give_the_result_of_one(toy, tmp_path):
    """To the last bit, of a number of images that is odd."""
    expected = evaluate(toy, outfile_prefix='one')
    mp.spawn(run_rank, (str(tmp_path), str(toy)), nprocs=2)
    for rank in range(2):
        results = json.loads(Path(f'{rank}.json').read_text())
        assert results == [expected, expected]
    files = {p.name: p.read_bytes() for p in Path('one.panoptic').iterdir()}
    assert len(files) == 7
    for batch_size in (1, 2):
        out = Path(f'out/{batch_size}.panoptic.json')
        assert out.read_text() == Path('one.panoptic.json').read_text()
        assert files == {p.name: p.read_bytes()
                         for p in out.with_suffix('').iterdir()}


def test_part_of_the_images(toy):
    """As mmdet's ``indices``, to try something out."""
    some, every = evaluate(toy, indices=2), evaluate(toy)
    assert some != every
    assert some['coco_panoptic/PQ'] > 0


def without_annotations(toy, **changes):
    """Ground truth of a test set."""
    truth = json.loads(Path(arguments(toy)['ann_file']).read_text())
    del truth['annotations']
    Path('info.json').write_text(json.dumps({**truth, **changes}))
    return 'info.json'


def make_metric(toy, **kwargs):
    metric = METRICS.build(
        dict(type='mmxvit.CocoPanopticMetric', **{**arguments(toy), **kwargs}))
    metric.dataset_meta = dict(classes=NAMES)
    return metric


def make_sample(seg, image_id=500001):
    return dict(
        img_id=image_id,
        img_path=f'{image_id:012d}.jpg',
        pred_panoptic_seg=dict(sem_seg=torch.tensor(seg)[None].int()))


def test_format_only(toy):
    metric = make_metric(
        toy, ann_file=without_annotations(toy), seg_prefix=None,
        format_only=True, outfile_prefix='new/test')
    metric.process({}, [make_sample([[VOID, 5], [1001, 2001]])])
    assert metric.evaluate(1) == {}
    result = json.loads(Path('new/test.panoptic.json').read_text())
    (annotation, ) = result['annotations']
    segments = annotation['segments_info']
    assert annotation == dict(
        image_id=500001, file_name='000000500001.png', segments_info=segments)
    ids = read_ids(f'new/test.panoptic/{annotation["file_name"]}', segments,
                   every=True)
    categories = {0: None, **{s['id']: s['category_id'] for s in segments}}
    assert [[categories[i] for i in row] for row in ids.tolist()] == [
        [None, 101], [2, 2]]
    assert len(segments) == 3


def test_labels_count_in_the_order_of_the_file(toy):
    """As mmdet's data set deals them out, whatever ``classes`` says; label 0
    is one of them."""
    categories = [dict(id=i, name=n, isthing=0)
                  for i, n in ((7, 'c'), (3, 'a'), (9, 'x'), (5, 'b'))]
    metric = make_metric(
        toy, ann_file=without_annotations(toy, categories=categories),
        format_only=True, outfile_prefix='test')
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    metric.process({}, [make_sample([[0, 0, 1, 2, 3, 1000]])])
    metric.evaluate(1)
    (annotation, ) = json.loads(
        Path('test.panoptic.json').read_text())['annotations']
    assert [s['category_id'] for s in annotation['segments_info']] == [
        7, 3, 5, 7]


def test_other_void_label(toy):
    """Of open-vocabulary models."""
    metric = make_metric(
        toy, format_only=True, seg_prefix=None, outfile_prefix='test')
    sample = make_sample([[255, 1001, VOID]])
    sample['pred_panoptic_seg']['ignore_index'] = 255
    metric.process({}, [sample])
    (segment, ) = metric.results[0]['annotation']['segments_info']
    assert segment['category_id'] == 2


def test_missing_arguments(toy):
    for wrong, message in (
        (dict(ann_file=None), 'ann_file is missing'),
        (dict(seg_prefix=None), 'seg_prefix is missing'),
        (dict(format_only=True), 'format_only needs outfile_prefix'),
        (dict(ann_file='no.json'), 'no.json: .*cannot be read')):
        with pytest.raises(UserError, match=message):
            make_metric(toy, **wrong)


def test_bad_data(toy, tmp_path):
    seg = np.full((64, 64), 5)
    metric = make_metric(toy)
    with pytest.raises(UserError, match='2017.json: has no annotation for '
                       'image_id 99 '):
        metric.process({}, [make_sample(seg, 99)])
    with pytest.raises(UserError, match=r'000000500001.png: is of \(64, 64\) '
                       r'pixels, its image 0*500001.jpg of \(32, 64\)'):
        metric.process({}, [make_sample(seg[:, :32])])
    with pytest.raises(UserError, match='label 9, but the data set has 8 '):
        metric.process({}, [make_sample(np.full((64, 64), VOID + 1))])
    metric.dataset_meta = dict(classes=(*NAMES, 'moon'))
    with pytest.raises(UserError, match='2017.json: has no categories moon, '
                       'which are .* set metainfo'):
        metric.process({}, [make_sample(seg)])
    # else its segments would count as missed
    metric.dataset_meta = dict(classes=NAMES[:-1])
    with pytest.raises(UserError, match=r'2017.json: segment \d+ of image_id '
                       r'500001 .* 104 \(grain\), .* set metainfo'):
        metric.process({}, [make_sample(seg)])
    metric = make_metric(toy, seg_prefix=str(tmp_path))
    with pytest.raises(UserError, match='000000500001.png: .*cannot be read'):
        metric.process({}, [make_sample(seg)])
