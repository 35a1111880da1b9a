# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Names of the published FcaFormer checkpoints (hybrid models) and ours.

The plain model was never published.
"""
import re

from torch import Tensor

from mmxvit.models.backbones import FcaFormer

FAMILY = 'FcaFormer'

_CONV_NORM = {'c': 'conv', 'bn': 'norm'}
_BLOCK = {
    # ConvNeXt blocks
    'gamma': 'gamma',
    'dwconv': 'depthwise',
    'norm': 'norm',
    'pwconv1': 'fc1',
    'pwconv2': 'fc2',
    # Fca blocks
    'gamma_1': 'gamma1',
    'gamma_2': 'gamma2',
    'norm1': 'norm1',
    'norm2': 'norm2',
    'qkv': 'attn.qkv',
    'proj': 'attn.proj',
    'attention_biases': 'attn.position_bias',
    's_token_bias': 'attn.depth_bias',
    's_scale_factors': 'attn.scale',
    's_norm': 'attn.cross_norm',
    'dw_conv': 'tme.merge',
    'local_conv.c': 'tme.enhance.conv',
    'local_conv.bn': 'tme.enhance.norm',
    'mlp.norm': 'ffn.0',
    'mlp.fc1': 'ffn.1',
    'mlp.fc2': 'ffn.3',
}


def detect(state: dict[str, Tensor],
           archs: dict[str, dict] = FcaFormer.arch_settings
           ) -> tuple[str, str]:
    """Read arch and kind off keys and shapes.

    Args:
        state: Tensors by the authors' names.
        archs: Archs to choose from.

    Returns:
        Name in ``archs``; ``'classifier'`` or ``'dense'``.

    Raises:
        ValueError: No arch has these widths.
    """
    dims = []
    for stage in range(4):
        width = 'gamma' if stage < 2 else 'gamma_1'
        pattern = re.compile(rf'layer_{stage}\.blocks\.(\d+)\.{width}')
        blocks = [k for k in state if pattern.fullmatch(k)]
        if not blocks:
            raise ValueError(
                f'no entry layer_{stage}.blocks.*.{width}, which every '
                'published FcaFormer and CabViT has')
        dims.append(len(state[blocks[0]]))
    found = [
        name for name, arch in archs.items()
        if arch['embed_dims'] == tuple(dims)
    ]
    if not found:
        raise ValueError(
            f'widths {dims} belong to none of {", ".join(archs)}')
    if any(k.startswith(('norm_head.', 'head.')) for k in state):
        return found[0], 'classifier'
    return found[0], 'dense'


def rename(key: str, kind: str) -> str | None:
    """Our name of an entry, None if it is unknown.

    >>> rename('layer_2.blocks.1.qkv.weight', 'classifier')
    'backbone.stages.2.2.attn.qkv.weight'
    """
    module, _, leaf = key.rpartition('.')
    if match := re.fullmatch(r'patch_embed\.seq\.([02])\.(c|bn)', module):
        return (f'backbone.stem.{int(match[1]) // 2}.{_CONV_NORM[match[2]]}.'
                f'{leaf}')
    if match := re.fullmatch(r'layer_(\d)\.downsample\.conv(\d)\.(c|bn)',
                             module):
        return (f'backbone.stages.{int(match[1]) + 1}.0.{int(match[2]) - 1}.'
                f'{_CONV_NORM[match[3]]}.{leaf}')
    if match := re.fullmatch(r'layer_(\d)\.blocks\.(\d+)\.(.+)', key):
        stage, block, name = int(match[1]), int(match[2]), match[3]
        # a downsampling is the first element of our later stages
        prefix = f'backbone.stages.{stage}.{block + (stage > 0)}.'
        if name in _BLOCK:  # a parameter of the block itself
            return prefix + _BLOCK[name]
        name = name.rpartition('.')[0]
        return f'{prefix}{_BLOCK[name]}.{leaf}' if name in _BLOCK else None
    if kind == 'classifier':
        return {
            'norm_head': f'head.norm.{leaf}',
            'head': f'head.fc.{leaf}'
        }.get(module)
    if match := re.fullmatch(r'(norm|head)([0-3])', module):
        part = 'norm' if match[1] == 'norm' else 'conv'
        return f'backbone.outputs.{match[2]}.{part}.{leaf}'
    return None


def authors_name(name: str) -> str:
    """The authors' name of an entry, the reverse of :func:`rename`."""
    module, _, leaf = name.rpartition('.')
    _, part, *path = module.split('.')
    if name.startswith('head.'):
        return f'{"norm_head" if part == "norm" else "head"}.{leaf}'
    if part == 'outputs':
        index, kind = path
        return f'{"norm" if kind == "norm" else "head"}{index}.{leaf}'
    conv_norm = {ours: theirs for theirs, ours in _CONV_NORM.items()}
    if part == 'stem':
        index, kind = path
        return f'patch_embed.seq.{2 * int(index)}.{conv_norm[kind]}.{leaf}'
    stage, block = int(path[0]), int(path[1])
    if stage and not block:
        return (f'layer_{stage - 1}.downsample.conv{int(path[2]) + 1}.'
                f'{conv_norm[path[3]]}.{leaf}')
    names = {ours: theirs for theirs, ours in _BLOCK.items()}
    inner = '.'.join(path[2:])
    own = f'{inner}.{leaf}' if inner else leaf
    last = names[own] if own in names else f'{names[inner]}.{leaf}'
    return f'layer_{stage}.blocks.{block - (stage > 0)}.{last}'


def convert_tensor(key: str, value: Tensor) -> Tensor:
    """Depth biases (1, heads, 1, m) to (heads, m); factors (1, m, 1) to (m,).
    """
    if key.endswith('.s_token_bias'):
        return value[0, :, 0]
    if key.endswith('.s_scale_factors'):
        return value.flatten()
    return value


def backbone_cfg(arch: str, converted: dict[str, Tensor]) -> dict:
    """The backbone that has the converted entries.

    Args:
        arch: As :func:`detect` gives it.
        converted: Entries by our names; any arch may have come with output
            projections of any width.

    Returns:
        Config for the MODELS registry.
    """
    widths = [
        converted.get(f'backbone.outputs.{i}.norm.weight') for i in range(4)
    ]
    found = [len(weight) for weight in widths if weight is not None]
    out_dims = tuple(found) if len(found) == 4 else 'arch'
    if not found:
        out_dims = None
    return dict(type=f'mmxvit.{FAMILY}', arch=arch, out_dims=out_dims)


def head_cfg(kind: str) -> dict | None:
    """The classifier's head, without ``in_channels`` and ``num_classes``."""
    if kind == 'classifier':
        return dict(type='mmxvit.LayerNormClsHead')
    return None
