# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# The demo: the COCO config on generated shapes. Data, schedule, image size
# and class count differ, nothing else.
_base_ = './yolov3_xformer_8xb24-320-300e_coco.py'

# python tools/dataset_tools/make_shapes.py data/shapes --layout coco
data_root = 'data/shapes/'
metainfo = dict(classes=('disc', 'square', 'triangle', 'star', 'ring'))
input_size = (256, 256)
model = dict(bbox_head=dict(num_classes=5))

train_pipeline = _base_.train_pipeline
train_pipeline[4]['scale'] = input_size
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = input_size
dataset = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        times=1,
        dataset=dict(pipeline=train_pipeline, **dataset)))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=16, val_interval=8)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=0.001, weight_decay=0.05))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=16,
        eta_min=1e-5,
        convert_to_iter_based=True)
]
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
auto_scale_lr = dict(base_batch_size=4)
