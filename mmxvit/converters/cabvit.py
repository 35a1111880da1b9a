# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Published CabViT checkpoints: the names of FcaFormer, archs of their own."""
from torch import Tensor

from mmxvit.models.backbones import CabViT

from . import fcaformer
from .fcaformer import authors_name, convert_tensor, head_cfg, rename

__all__ = [
    'FAMILY', 'authors_name', 'backbone_cfg', 'convert_tensor', 'detect',
    'head_cfg', 'rename'
]

FAMILY = 'CabViT'


def detect(state: dict[str, Tensor]) -> tuple[str, str]:
    """See :func:`mmxvit.converters.fcaformer.detect`."""
    return fcaformer.detect(state, CabViT.arch_settings)


def backbone_cfg(arch: str, converted: dict[str, Tensor]) -> dict:
    """See :func:`mmxvit.converters.fcaformer.backbone_cfg`."""
    return dict(
        fcaformer.backbone_cfg(arch, converted), type=f'mmxvit.{FAMILY}')
