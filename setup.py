# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""The metadata is in pyproject.toml; this adds ``mmxvit/.mim`` to it.

OpenMIM and ``mmengine.hub`` look there for the configs and tools of an
installed package.  In the source tree its entries are links, so that an
editable install never serves an old copy; distributions get real files.
"""
import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent


def make_mim() -> None:
    mim = ROOT / 'mmxvit' / '.mim'
    mim.mkdir(exist_ok=True)
    for name in ('configs', 'tools', 'model-index.yml'):
        source, entry = ROOT / name, mim / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
        if not source.exists():
            continue
        try:
            entry.symlink_to(os.path.relpath(source, mim))
        except OSError:  # no links on this file system
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, entry)


class EggInfo(egg_info):
    """Runs for an sdist, and before the files of a wheel are listed."""

    def run(self):
        make_mim()
        super().run()


class BuildPy(build_py):
    """Runs for a wheel and for an editable install."""

    def run(self):
        make_mim()
        # setuptools adds to what an earlier build has left there, so files
        # that are gone would come back
        if Path(self.build_lib).resolve() != ROOT:
            shutil.rmtree(Path(self.build_lib, 'mmxvit'), ignore_errors=True)
        super().run()


class BdistWheel(bdist_wheel):
    """Puts a second copy of ``.mim`` beside the metadata.

    OneDL's mim takes the folder that an installed distribution lists first
    for that of the package.  Of one that is called as its package this is
    the metadata's.
    """

    def write_wheelfile(self, folder, *args, **kwargs):
        super().write_wheelfile(folder, *args, **kwargs)
        mim = Path(self.bdist_dir, 'mmxvit', '.mim')
        if mim.is_dir():  # not so for an editable install
            shutil.copytree(mim, Path(folder, '.mim'))


setup(cmdclass={
    'egg_info': EggInfo,
    'build_py': BuildPy,
    'bdist_wheel': BdistWheel
})
