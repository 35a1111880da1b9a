# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Child registries of MMEngine's roots, scope ``mmxvit``.

MMEngine imports every location of a registry at its first look-up, so no
location may import mmdet, mmseg or mmpretrain.
"""
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmxvit',
    locations=['mmxvit.models'])
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmxvit',
    locations=['mmxvit.engine'])

__all__ = ['HOOKS', 'MODELS']
