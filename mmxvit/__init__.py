# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""mmxvit: lightweight vision transformers as OpenMMLab backbones.

Importing this package is light: of the mm* packages it takes only MMEngine
along.  ``type='mmxvit.XFormer'`` in any mmdet, mmseg or mmpretrain config is
enough; MMEngine then imports :mod:`mmxvit.registry` by itself.
"""
import sys
import warnings
from pathlib import Path
from typing import Any

from .dependencies import check_dependencies
from .hub import (
    create_model,
    get_config_path,
    get_model,
    list_archs,
    list_models,
    register_hub,
)
from .version import __version__

try:
    check_dependencies()
except RuntimeError as error:
    # commands of this package end with the message, without a traceback
    script = getattr(sys.modules['__main__'], '__file__', None) or ''
    package = Path(__file__).resolve().parent
    if any(Path(script).resolve().is_relative_to(folder) for folder in (
            package / '.mim', package.parent / 'tools',
            package.parent / 'demo')):
        sys.exit(f'error: {error}')
    raise

if hasattr(sys.modules.get('mmpretrain'), 'ModelHub'):
    try:
        register_hub()
    except (OSError, RuntimeError, ValueError) as error:  # works without
        warnings.warn(f'mmpretrain does not know the models of mmxvit: '
                      f'{error}', stacklevel=2)


def __getattr__(name: str) -> Any:
    if name == 'fuse':  # needs the layers
        from .deployment.fuse import fuse
        return fuse
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    '__version__', 'create_model', 'fuse', 'get_config_path', 'get_model',
    'list_archs', 'list_models', 'register_hub'
]
