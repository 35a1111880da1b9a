# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Which versions of the mm* packages this package works with.

Two families of distributions provide the same import names: OpenMMLab's
(``mmengine``, ``mmcv``, ...) and the maintained OneDL builds
(``onedl-mmengine``, ``onedl-mmcv``, ...).  A package manager can require only
one of them, so the check is made here, at import time.

The check raises RuntimeError and not ImportError: while MMEngine resolves a
scope such as ``mmxvit.XFormer`` it swallows ImportError and AttributeError
and would only report that the type "is not in the registry".
"""
from importlib import metadata, util

from packaging.version import Version

# import name -> (distributions that provide it, oldest version, needed by
# every user).  The oldest version counts for both families.
DEPENDENCIES = {
    'torch': (('torch', ), '2.1', True),
    # 0.10.6 is the first that imports beside torch >= 2.5 (Adafactor)
    'mmengine': (('onedl-mmengine', 'mmengine', 'mmengine-lite'), '0.10.6',
                 True),
    'mmcv': (('onedl-mmcv', 'mmcv', 'mmcv-lite'), '2.1.0', False),
    'mmdet': (('onedl-mmdetection', 'mmdet'), '3.3.0', False),
    'mmseg': (('onedl-mmsegmentation', 'mmsegmentation'), '1.2.2', False),
    'mmpretrain': (('onedl-mmpretrain', 'mmpretrain'), '1.2.0', False),
}


def installed_version(distributions: tuple[str, ...]) -> str | None:
    """Version of the first of ``distributions`` that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def how_to_install(module: str) -> str:
    """The command that installs one of ``DEPENDENCIES``, as a clause."""
    (first, *others), oldest, _ = DEPENDENCIES[module]
    clause = ''.join(f' (or "{dist}>={oldest}")' for dist in others)
    return f'run: pip install "{first}>={oldest}"{clause}'


def check_dependencies() -> None:
    """Check what is installed without importing any of it.

    Raises:
        RuntimeError: torch or MMEngine is missing, or one of the packages
            in ``DEPENDENCIES`` is installed but too old.  The message names
            every such package and the command that mends it.
    """
    problems, remedies = [], []
    for module, (dists, oldest, needed) in DEPENDENCIES.items():
        version = installed_version(dists)
        if version is None:
            # a source tree on PYTHONPATH has no metadata: let it be
            if needed and util.find_spec(module) is None:
                problems.append(f'{module} is not installed')
                remedies.append(f'"{dists[0]}>={oldest}"')
        elif Version(version) < Version(oldest):
            dist = next(d for d in dists if installed_version((d, )))
            problems.append(f'{dist} {version} is older than {oldest}')
            remedies.append(f'"{dist}>={oldest}"')
    if problems:
        raise RuntimeError(
            f'mmxvit cannot be used: {"; ".join(problems)}. '
            f'Run: pip install {" ".join(remedies)}')
