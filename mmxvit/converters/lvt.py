# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Names of the published LVT checkpoints and ours."""
import re

from torch import Tensor

from mmxvit.models.backbones import LVT

FAMILY = 'LVT'

_PATCH_EMBED = {'proj': 'proj', 'norm': 'norm'}
_CSA_BLOCK = {
    'norm1': 'norm1',
    'attn.attn': 'attn.weights',
    'attn.weight': 'attn.values',
    'attn.proj': 'attn.proj',
    'norm2': 'norm2',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
}
_RASA_BLOCK = {
    'norm1': 'norm1',
    'attn.q': 'attn.q',
    'attn.ds': 'attn.q_conv',
    'attn.sr': 'attn.reduce',
    'attn.norm': 'attn.norm',
    'attn.kv': 'attn.kv',
    'attn.proj': 'attn.proj',
    'norm2': 'norm2',
    'mlp.fc1': 'mlp.fc1',
    'mlp.depconv': 'mlp.depthwise',
    'mlp.fc2': 'mlp.fc2',
}
_CLASS_BLOCK = {
    'norm1': 'norm1',
    'attn.q': 'attn.q',
    'attn.kv': 'attn.kv',
    'attn.proj': 'attn.proj',
    'norm2': 'norm2',
    'mlp.fc1': 'mlp.0',
    'mlp.fc2': 'mlp.2',
}
_HEADS = {
    'classifier': {
        'norm': 'norm',
        'head': 'fc',
        'aux_head': 'aux_fc'
    },
    'classifier-mean': {
        'norm': 'norm',
        'head': 'fc'
    },
    'dense': {},
}


def detect(state: dict[str, Tensor]) -> tuple[str, str]:
    """Read arch and kind off keys and shapes.

    Args:
        state: Tensors by the authors' names.

    Returns:
        Name in ``LVT.arch_settings``; ``'classifier'`` (class attention),
        ``'classifier-mean'`` (mean of the tokens) or ``'dense'``.

    Raises:
        ValueError: This is not LVT, or no arch has these widths.
    """
    dims = []
    for stage in range(4):
        pattern = re.compile(rf'backbone\.{stage}\.1\.\d+\.norm1\.weight')
        blocks = [k for k in state if pattern.fullmatch(k)]
        if not blocks:
            raise ValueError(f'no entry backbone.{stage}.1.*.norm1.weight, '
                             'which every published LVT has')
        dims.append(len(state[blocks[0]]))
    found = [
        name for name, arch in LVT.arch_settings.items()
        if arch['embed_dims'] == tuple(dims)
    ]
    if not found:
        raise ValueError(f'widths {dims} belong to none of '
                         f'{", ".join(LVT.arch_settings)}')
    if any(k.startswith(('cls_token', 'post_network.')) for k in state):
        return found[0], 'classifier'
    return found[0], 'classifier-mean' if 'head.weight' in state else 'dense'


def rename(key: str, kind: str) -> str | None:
    """Our name of an entry, None if it is unknown.

    >>> rename('backbone.1.1.0.attn.ds.weight', 'dense')
    'backbone.stages.1.1.attn.q_conv.weight'
    """
    if key == 'cls_token' and kind == 'classifier':
        return 'head.cls_token'
    module, _, leaf = key.rpartition('.')
    prefix, names, name = 'head.', _HEADS[kind], module
    if match := re.fullmatch(r'backbone\.([0-3])\.0\.(.+)', module):
        stage, name = int(match[1]), match[2]
        prefix = f'backbone.stages.{stage}.0.' if stage else 'backbone.stem.'
        names = _PATCH_EMBED
    elif match := re.fullmatch(r'backbone\.([0-3])\.1\.(\d+)\.(.+)', module):
        stage, block, name = int(match[1]), int(match[2]), match[3]
        # a patch embedding is the first element of our later stages
        prefix = f'backbone.stages.{stage}.{block + (stage > 0)}.'
        names = _RASA_BLOCK if stage else _CSA_BLOCK
    elif (match := re.fullmatch(r'post_network\.(\d+)\.(.+)', module)
          ) and kind == 'classifier':
        name = match[2]
        prefix = f'head.blocks.{match[1]}.'
        names = _CLASS_BLOCK
    return f'{prefix}{names[name]}.{leaf}' if name in names else None


def authors_name(name: str) -> str:
    """The authors' name of an entry, the reverse of :func:`rename`."""
    module, _, leaf = name.rpartition('.')
    top, *path = module.split('.')
    if top == 'head':
        if not path:  # head.cls_token
            return leaf
        if path[0] == 'blocks':
            names, prefix = _CLASS_BLOCK, f'post_network.{path[1]}.'
            path = path[2:]
        else:
            names, prefix = _HEADS['classifier'], ''
    elif path[0] == 'stem':
        names, prefix, path = _PATCH_EMBED, 'backbone.0.0.', path[1:]
    else:
        stage, block = int(path[1]), int(path[2])
        path = path[3:]
        if stage and not block:
            names, prefix = _PATCH_EMBED, f'backbone.{stage}.0.'
        else:
            names = _RASA_BLOCK if stage else _CSA_BLOCK
            prefix = f'backbone.{stage}.1.{block - (stage > 0)}.'
    theirs = {ours: theirs for theirs, ours in names.items()}
    return f'{prefix}{theirs[".".join(path)]}.{leaf}'


def convert_tensor(key: str, value: Tensor) -> Tensor:
    """Reshape an entry, by its old name.

    Linear layers of the backbone become 1x1 convolutions. The one that
    predicts the weights of CSA has its outputs in the order (head, i, j); our
    order is (j, head, i).
    """
    if re.fullmatch(r'backbone\.0\.1\.\d+\.attn\.attn\.(weight|bias)', key):
        value = value.unflatten(0, (-1, 9, 9)).movedim(2, 0).flatten(0, 2)
    if key.startswith('backbone.') and value.dim() == 2:
        value = value[..., None, None]
    return value


def backbone_cfg(arch: str, converted: dict[str, Tensor]) -> dict:
    """The backbone that has the converted entries.

    Args:
        arch: As :func:`detect` gives it.
        converted: Entries by our names; not needed here.

    Returns:
        Config for the MODELS registry.
    """
    return dict(type=f'mmxvit.{FAMILY}', arch=arch)


def head_cfg(kind: str) -> dict | None:
    """The classifier's head, without ``in_channels`` and ``num_classes``."""
    if kind == 'dense':
        return None
    return dict(
        type='mmxvit.LVTClsHead',
        num_class_blocks=2 if kind == 'classifier' else 0)
