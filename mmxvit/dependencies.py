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
import re
import sys
import warnings
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
# mmdet 3.3.0 and mmsegmentation 1.2.2 refuse the next one, 2.2.0
_OPENMMLAB_MMCV = 'mmcv==2.1.0'
# import name -> what pip installs, where the two differ
_REQUIREMENTS = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'pkg_resources': '"setuptools<81"',  # later ones lack it
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}


def installed_version(distributions: tuple[str, ...]) -> str | None:
    """Version of the first of ``distributions`` that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _installed_mmcv() -> tuple[str, str | None]:
    """Name and version of the distribution; an unknown version is None."""
    return next(((dist, version) for dist in DEPENDENCIES['mmcv'][0]
                 if (version := installed_version((dist, )))), ('mmcv', None))


def how_to_compile(requirement: str | None = None) -> str:
    """The command that compiles an mmcv for the torch that is there.

    Args:
        requirement: Which one; by default the installed one again.
    """
    if requirement is None:
        dist, version = _installed_mmcv()
        requirement = dist.removesuffix('-lite') + (
            f'=={version}' if version else '')
    # pip would build in isolation, which leaves the operators out, or take
    # what it has kept from another torch
    return ('MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir '
            f'--no-deps --force-reinstall {requirement}')


def how_to_install(module: str) -> str:
    """The command that installs one of ``DEPENDENCIES``, as a clause."""
    (first, *others), oldest, _ = DEPENDENCIES[module]
    requirement = f'"{first}>={oldest}"'
    if module == 'mmcv':
        return (f'run: {how_to_compile(requirement)} (or {_OPENMMLAB_MMCV}, '
                'beside the packages of OpenMMLab)')
    clause = ''.join(f' (or "{dist}>={oldest}")' for dist in others)
    return f'run: pip install {requirement}{clause}'


def missing_package(error: Exception) -> str | None:
    """The package that is not installed at all, if that is the error.

    None where a package is there and only lacks the module that was imported.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition('.')[0]
    return None if util.find_spec(package) else package


def _raised_in(error: Exception) -> str | None:
    """The package whose import of something compiled failed."""
    found, trace = None, error.__traceback__
    while trace:
        name = trace.tb_frame.f_globals.get('__name__', '').partition('.')[0]
        if name != 'numpy' and name not in sys.stdlib_module_names:
            found = name
        trace = trace.tb_next
    return None if found in ('mmxvit', '__main__') else found


def explain_import_error(error: Exception) -> str:
    """Why an installed package cannot be imported, and what to do; one line.

    Args:
        error: What its import raised.
    """
    text = ' '.join(str(error).split())
    other_torch = re.search(r'mmcv/_ext\S*: undefined symbol', text)
    if 'mmcv._ext' in text or other_torch:
        dist, version = _installed_mmcv()
        state = 'has operators that were compiled for another torch' \
            if other_torch else 'is without its operators'
        return (f'{dist} {version} {state}; compile it for this one: '
                f'{how_to_compile()}')
    if re.search(r'MMCV==\S+ is used but incompatible', text) and any(
            installed_version((dist, ))  # those of OpenMMLab
            for dist in ('mmdet', 'mmsegmentation', 'mmpretrain')):
        return f'{text}; run: {how_to_compile(_OPENMMLAB_MMCV)}'
    if re.search('numpy.dtype size changed|multiarray failed to import|'
                 '_ARRAY_API not found', text):
        package = _raised_in(error)
        again = 'install that again' if package is None else (
            'run: ' + how_to_compile() if package == 'mmcv' else
            'run: pip install --force-reinstall --no-cache-dir --no-deps '
            f'{_REQUIREMENTS.get(package, package)}')
        return (
            f'{package or "one of its packages"} was compiled for another '
            f'numpy than the installed {installed_version(("numpy", ))} '
            f'({text}); {again}')
    if package := missing_package(error):
        return (f'it imports {package}, which is not installed; '
                + (how_to_install(package) if package in DEPENDENCIES else
                   f'run: pip install {_REQUIREMENTS.get(package, package)}'))
    plain = f'{type(error).__name__}: {text}'
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition('.')[0]
        dists = DEPENDENCIES.get(
            package, ((_REQUIREMENTS.get(package, package), ), ))[0]
        if version := installed_version(dists):
            plain += f' ({package} {version} is installed)'
    return plain


def check_dependencies() -> None:
    """Check what is installed without importing any of it.

    Raises:
        RuntimeError: torch or MMEngine is missing, one of the packages in
            ``DEPENDENCIES`` is installed but too old, or numpy too new for
            torch.  The message names every such package and the command that
            mends it.
    """
    problems, remedies, mmcv = [], [], None
    for module, (dists, oldest, needed) in DEPENDENCIES.items():
        version = installed_version(dists)
        owners = [dist for dist in dists if installed_version((dist, ))]
        if len(owners) > 1:
            warnings.warn(
                f'{" and ".join(owners)} are both installed and write the '
                f'same files of {module}; keep one: pip uninstall '
                f'{" ".join(owners)}, and install that one again',
                stacklevel=3)
        if version is None:
            # a source tree on PYTHONPATH has no metadata: let it be
            if needed and util.find_spec(module) is None:
                problems.append(f'{module} is not installed')
                remedies.append(f'"{dists[0]}>={oldest}"')
        elif Version(version) < Version(oldest):
            dist = owners[0]
            problems.append(f'{dist} {version} is older than {oldest}')
            if dist in ('mmcv', 'onedl-mmcv'):  # not the one without operators
                mmcv = _OPENMMLAB_MMCV if dist == 'mmcv' else \
                    f'"{dist}>={oldest}"'
            else:
                remedies.append(f'"{dist}>={oldest}"')
    # torch's wheels before 2.3 are built with numpy 1: tensors and arrays
    # cannot be turned into each other beside numpy 2
    torch, numpy = map(installed_version, (('torch', ), ('numpy', )))
    if (torch and numpy and Version(torch) < Version('2.3')
            and Version(numpy).major > 1):
        problems.append(f'numpy {numpy} does not work with torch {torch}, '
                        'which was built with numpy 1')
        remedies.append('"numpy<2"')
    if problems:
        commands = [f'pip install {" ".join(remedies)}'] * bool(remedies) + [
            how_to_compile(mmcv)] * bool(mmcv)
        raise RuntimeError(f'mmxvit cannot be used: {"; ".join(problems)}. '
                           f'Run: {" && ".join(commands)}')
