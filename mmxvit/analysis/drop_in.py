# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""What to write into an existing config to put one of our backbones there."""
from collections.abc import Callable
from dataclasses import dataclass

from mmengine.config import ConfigDict

from mmxvit.models.backbones.base import PyramidBackbone


@dataclass(frozen=True)
class Host:
    """A kind of model whose backbone can be replaced.

    Attributes:
        name: As users know it.
        config: A stock config of it, as ``package::path``.
        out_indices: Maps that it takes.
        keys: Channels and strides of those maps -> keys below ``model`` and
            their values.
    """
    name: str
    config: str
    out_indices: tuple[int, ...]
    keys: Callable[[tuple[int, ...]], dict]


def _ssd(channels: tuple[int, ...]) -> dict:
    widths = (*channels, 512, 256, 256, 128)
    return {
        'neck.in_channels': channels,
        'neck.out_channels': widths,
        'bbox_head.in_channels': widths,
        'bbox_head.type': 'mmxvit.SSDHead',  # mmdet's cannot predict
    }


def _upernet(channels: tuple[int, ...]) -> dict:
    return {
        'decode_head.in_channels': list(channels),
        'auxiliary_head.in_channels': channels[2],
    }


_FPN = (0, 1, 2, 3)
HOSTS = (
    Host('YOLOv3', 'mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
         (1, 2, 3), lambda c: {'neck.in_channels': list(reversed(c))}),
    Host('SSD', 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
         (2, 3), _ssd),
    # its FPN starts at stride 8; a map that nobody uses would leave
    # parameters without gradient
    Host('RetinaNet, FPN', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
         (1, 2, 3), lambda c: {
             'neck.in_channels': list(c),
             'neck.start_level': 0
         }),
    Host('Mask R-CNN, FPN', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
         _FPN, lambda c: {'neck.in_channels': list(c)}),
    Host('Panoptic FPN',
         'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', _FPN,
         lambda c: {'neck.in_channels': list(c)}),
    Host('SegFormer',
         'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
         _FPN, lambda c: {'decode_head.in_channels': list(c)}),
    Host('UPerNet', 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
         _FPN, _upernet),
)


def backbone_cfg(backbone: type[PyramidBackbone], arch: str,
                 host: Host) -> dict:
    """The changed line."""
    cfg = dict(type=f'mmxvit.{backbone.__name__}', arch=arch)
    if host.out_indices != _FPN:
        cfg['out_indices'] = host.out_indices
    return cfg


def drop_in(model: ConfigDict, backbone: type[PyramidBackbone], arch: str,
            host: Host) -> None:
    """Put a backbone into the ``model`` of a config of that host.

    Args:
        model: Changed in place. What a stock config says of its own weights
            (``pretrained``) stays: our backbones ignore it.
        backbone: Its class.
        arch: A name in its table, with four maps.
        host: One of ``HOSTS``.
    """
    cfg = backbone_cfg(backbone, arch, host)
    channels = backbone(arch, out_indices=host.out_indices).out_channels
    model.backbone = cfg
    for key, value in host.keys(channels).items():
        part, name = key.split('.')
        model[part][name] = value


def recipe(backbone: type[PyramidBackbone], arch: str, host: Host) -> str:
    """A config that inherits a stock one and puts a backbone into it.

    Configs of mmseg are inherited from a copy, which works with any
    distribution of it.
    """
    cfg = backbone_cfg(backbone, arch, host)
    channels = backbone(arch, out_indices=host.out_indices).out_channels
    parts: dict[str, dict] = {}
    for key, value in host.keys(channels).items():
        part, name = key.split('.')
        parts.setdefault(part, {})[name] = value
    indices = cfg.pop('out_indices', None)
    args = ', '.join(
        ['_delete_=True', *(f'{k}={v!r}' for k, v in cfg.items())])
    lines = [f'    backbone=dict({args})' if indices is None else
             f'    backbone=dict(\n        {args},\n'
             f'        out_indices={indices})']
    for part, values in parts.items():
        args = [f'{k}={v!r}' for k, v in sorted(
            values.items(), key=lambda item: item[0] != 'type')]
        line = f'    {part}=dict({", ".join(args)})'
        if len(line) > 77:
            joint = ',\n        '
            line = f'    {part}=dict(\n        {joint.join(args)})'
        lines.append(line)
    base = host.config.replace('mmseg::', './mmseg_configs/')
    body = ',\n'.join(lines)
    return f"_base_ = '{base}'\n\nmodel = dict(\n{body})"


def table(backbones: list[tuple[type[PyramidBackbone], str]]) -> str:
    """Markdown: for each host a config with the last of the backbones, and
    the keys of all in a table, a row for each backbone and arch."""
    maps = {}
    for backbone, arch in backbones:
        model = backbone(arch)
        if len(model.strides) == 4:  # plain ones have one map
            maps[f'`{backbone.__name__}`, `{arch}`'] = model.out_channels
    lines = []
    for host in HOSTS:
        keys = {name: host.keys(tuple(channels[i] for i in host.out_indices))
                for name, channels in maps.items()}
        # what is the same in all rows is in the config above
        names = [n for n in next(iter(keys.values()))
                 if len({str(k[n]) for k in keys.values()}) > 1]
        lines += [
            f'### {host.name}', '', '```python',
            recipe(*backbones[-1], host), '```', '',
            '| backbone | ' + ' | '.join(f'`{n}`' for n in names) + ' |',
            '| --- |' + ' --- |' * len(names)
        ]
        lines += [f'| {name} | ' + ' | '.join(f'`{row[n]}`' for n in names)
                  + ' |' for name, row in keys.items()]
        lines.append('')
    return '\n'.join(lines).strip()
