# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What the options of ``tools/train.py`` and ``tools/test.py`` change."""
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.device import get_device

from .checkpoints import check_resumable, find_resume_checkpoint
from .command import UserError, type_name


def use_amp(cfg: Config) -> None:
    """Train in mixed precision, on a CPU in bfloat16.

    Raises:
        UserError: Another optimiser wrapper is in use, or MMEngine has no
            mixed precision on the device.
    """
    kind = type_name(cfg.optim_wrapper)
    if kind not in ('', 'OptimWrapper', 'AmpOptimWrapper',
                    'mmxvit.CPUAmpOptimWrapper'):
        raise UserError('--amp needs optim_wrapper.type OptimWrapper, the '
                        f'config has {kind}')
    device = get_device()
    if device == 'cpu':
        cfg.optim_wrapper.type = 'mmxvit.CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # AmpOptimWrapper's
            cfg.optim_wrapper.pop(key, None)
    elif device not in ('cuda', 'npu', 'mlu', 'musa'):
        raise UserError('--amp: MMEngine has no mixed precision on '
                        f'{device!r}; train without it, or on the CPU')
    else:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the batch size of a step.

    MMEngine leaves out that a step may take several batches
    (``optim_wrapper.accumulative_counts``).

    Raises:
        UserError: The config does not tell its base batch size.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in '
            'the config: the total batch size its learning rate is meant for')
    cfg.auto_scale_lr.enable = True
    batches = cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
    if batches > 1:
        cfg.auto_scale_lr.base_batch_size /= batches


def use_own_hooks(cfg: Config) -> None:
    """Replace MMEngine's hooks that may leave damaged files behind.

    Its checkpoint hook may leave none when it is killed, and its logger hook
    lets all processes write the scores of a test into one file.
    """
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    for name, stock, own in (
            ('checkpoint', 'CheckpointHook', 'mmxvit.AtomicCheckpointHook'),
            ('logger', 'LoggerHook', 'mmxvit.LoggerHook')):
        cfg.default_hooks.setdefault(name, dict(type=stock))
        hook = cfg.default_hooks[name]  # None where it is switched off
        if hook and type_name(hook) == stock:
            hook.type = own


def use_resume(cfg: Config, resume: str) -> list[str]:
    """Set the checkpoint to go on from.

    Args:
        cfg: Config with ``work_dir``; ``load_from`` stays what it is if there
            is nothing to resume.
        resume: Checkpoint file, or ``'auto'`` for the newest good one of the
            work folder.

    Returns:
        Lines for the log.

    Raises:
        UserError, CheckpointError: There is a checkpoint, but none is good,
            or the strategy cannot go on.
    """
    kind = type_name(cfg.get('strategy') or {})
    if kind.endswith('DeepSpeedStrategy'):
        raise UserError(f'--resume: {kind} keeps no checkpoints to go on from '
                        'that tools/train.py reads; start without --resume, '
                        'or train without the strategy')
    if resume != 'auto':
        check_resumable(resume)
        cfg.load_from, cfg.resume = resume, True
        return [f'resuming from {resume}']
    path, notes = find_resume_checkpoint(cfg)
    if path is None:
        cfg.resume = False
        return [f'no checkpoint in {cfg.work_dir}: training starts from the '
                'beginning']
    cfg.load_from, cfg.resume = path, True
    return [*notes, f'resuming from {path}']


def _by_task(cfg: Config, option: str, choices: dict[str, Any]) -> Any:
    scope = cfg.get('default_scope')
    if scope not in choices:
        raise UserError(
            f'{option} is not known for default_scope = {scope!r}; it is for '
            f'{", ".join(choices)}')
    return choices[scope]


def _require_new(option: str, path: str) -> None:
    """Refuse to write over an earlier result."""
    target = Path(path)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f'{option} {path}: exists already; choose another '
                        'name or remove it')


def use_tta(cfg: Config) -> None:
    """Test with ``tta_model`` and ``tta_pipeline``.

    Where a config lacks them, the image and its mirror image are averaged,
    as the task packages' own tools do.

    Raises:
        UserError: A config for panoptic segmentation or of another scope
            lacks them.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    lacking = [k for k in ('tta_model', 'tta_pipeline') if k not in cfg]
    if lacking and 'panoptic_fusion_head' in cfg.model:
        raise UserError('--tta: mmdet can merge boxes only, and the config '
                        'has no tta_model of its own; test this panoptic '
                        'model without --tta')
    if lacking:
        default = _by_task(cfg, f'--tta without {" and ".join(lacking)} in '
                           'the config',
                           dict(
                               mmdet=_det_tta,
                               mmpretrain=_cls_tta,
                               mmseg=partial(_seg_tta, cfg.model)))
        for key, value in default(dataset.pipeline).items():
            if key in lacking:
                cfg[key] = value
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _det_tta(pipeline: Sequence[dict]) -> dict:
    pack = dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'flip', 'flip_direction'))
    merge = dict(
        type='DetTTAModel',
        tta_cfg=dict(
            nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
    return dict(tta_model=merge, tta_pipeline=_flip(pipeline, pack))


def _cls_tta(pipeline: Sequence[dict]) -> dict:
    return dict(
        tta_model=dict(type='AverageClsScoreTTA'),
        tta_pipeline=_flip(pipeline, pipeline[-1]))


def _seg_tta(model: dict, pipeline: Sequence[dict]) -> dict:
    # Labels are loaded after the flip: predictions are flipped back.
    labels = next((i for i, step in enumerate(pipeline)
                   if 'Annotations' in type_name(step)), len(pipeline) - 1)
    pack = copy.deepcopy(dict(pipeline[-1]))
    if 'meta_keys' in pack:  # those by which they are
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    several = type_name(model).rpartition('.')[2] == 'MultiTaskSegmentor'
    return dict(
        tta_model=dict(
            type='mmxvit.MultiTaskSegTTAModel' if several else 'SegTTAModel'),
        tta_pipeline=_flip([*pipeline[:labels], pack], pack,
                           pipeline[labels:-1]))


def _flip(pipeline: Sequence[dict],
          pack: dict,
          after: Sequence[dict] = ()) -> list[dict]:
    """The steps of a pipeline but the last, flips, then ``after``."""
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)]
    steps = [copy.deepcopy(dict(step)) for step in pipeline[:-1]]
    views = [[copy.deepcopy(dict(step))] for step in after]
    return [
        *steps,
        dict(type='TestTimeAug', transforms=[flips, *views, [pack]])
    ]


def use_out(cfg: Config, out: str) -> None:
    """Write the predictions to ``out``.

    Raises:
        UserError: ``out`` exists, or is not of the kind that it must be.
    """
    evaluators = cfg.test_evaluator
    if isinstance(evaluators, dict):
        evaluators = [evaluators]
    dump = _by_task(
        cfg, '--out',
        dict(mmdet='DumpDetResults', mmpretrain='DumpResults', mmseg=None))
    if dump and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: must be a file named *.pkl')
    if not dump and Path(out).suffix:
        raise UserError(f'--out {out}: must be a folder, for one PNG of class '
                        'indices per image')
    _require_new('--out', out)
    if dump:
        cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]
    else:
        cfg.test_evaluator = [dict(e, output_dir=out) for e in evaluators]


def check_format_only(cfg: Config) -> None:
    """Refuse to predict into no place.

    Raises:
        UserError: An evaluator of mmseg has ``format_only`` and no folder.
    """
    evaluators = cfg.test_evaluator
    for evaluator in [evaluators] if isinstance(evaluators, dict) else (
            evaluators):
        if (cfg.default_scope == 'mmseg' and evaluator.get('format_only')
                and not evaluator.get('output_dir')):
            raise UserError('test_evaluator.format_only: predictions are '
                            'written and not scored; name their folder, '
                            '--out FOLDER')


def check_names(dataset: BaseDataset | ConcatDataset, out: str) -> None:
    """mmseg names a PNG by the image alone, without folders.

    Raises:
        UserError: Two images of a data set would become the same file.
    """
    seen: dict[str, str] = {}
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)['img_path']
        other = seen.setdefault(Path(path).stem, path)
        if other != path:
            raise UserError(
                f'--out {out}: predictions for {other} and {path} would both '
                f'be {Path(path).stem}.png; give images names of their own, '
                'or test one folder at a time, by data_prefix')


def use_own_visualizer(cfg: Config) -> None:
    """mmdet's fails where a panoptic prediction has no segment."""
    visualizer = cfg.get('visualizer') or {}
    if type_name(visualizer) in ('DetLocalVisualizer',
                                 'mmdet.DetLocalVisualizer'):
        visualizer.type = 'mmxvit.DetLocalVisualizer'


def use_show_dir(cfg: Config, show_dir: str) -> None:
    """Draw the predictions on the test images, into ``show_dir``.

    Raises:
        UserError: ``show_dir`` holds something.
    """
    # The hooks count relative paths from the log folder.
    folder = str(Path(show_dir).absolute())
    visualizer, hook = _by_task(
        cfg, '--show-dir',
        dict(
            mmdet=('mmxvit.DetLocalVisualizer',
                   dict(
                       type='DetVisualizationHook',
                       draw=True,
                       test_out_dir=folder)),
            mmseg=('SegLocalVisualizer',
                   dict(
                       type='SegVisualizationHook', draw=True, interval=1)),
            mmpretrain=('UniversalVisualizer',
                        dict(
                            type='VisualizationHook',
                            enable=True,
                            interval=1,
                            out_dir=folder))))
    _require_new('--show-dir', show_dir)
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    given = cfg.default_hooks.get('visualization') or {}
    cfg.default_hooks.visualization = {**hook, **given, **{
        k: v for k, v in hook.items() if k != 'type'}}
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type=visualizer)
    use_own_visualizer(cfg)
    if cfg.default_scope == 'mmseg':  # its hook only adds to the visualizer
        cfg.visualizer.save_dir = folder
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
