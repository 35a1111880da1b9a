# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""mmxvit: lightweight vision transformers as OpenMMLab backbones.

Importing this package is light: of the mm* packages it takes only MMEngine
along.  ``type='mmxvit.XFormer'`` in any mmdet, mmseg or mmpretrain config is
enough; MMEngine then imports :mod:`mmxvit.registry` by itself.
"""
from .dependencies import check_dependencies
from .version import __version__

check_dependencies()

__all__ = ['__version__']
