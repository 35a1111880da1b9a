# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""A folder that looks like a clone, where commands of the pages take seconds.

Configs keep their names and are brought to toy data and a single short epoch
just before a command names them; data that they want is made.
"""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmxvit.datasets.shapes import write_dataset
from mmxvit.engine.checks import check_channels

from .shipped import few_proposals
from .snippets import ROOT, Snippet, link_clone

SIZE = 64
_spec = importlib.util.spec_from_file_location(
    'toy_config', ROOT / 'tools/dev/toy_config.py')
toy_config = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy_config)


class ToyClone:
    """The folder.

    Args:
        folder: An empty one; it is the current folder of the test.
        own_data: Data of the configs is that of the page: only make them
            short.
    """

    def __init__(self, folder: Path, own_data: bool = False) -> None:
        self.folder = folder
        self.own_data = own_data
        self.short: set[Path] = set()
        self.configs = 0
        link_clone(folder)
        (folder / 'configs').unlink()
        shutil.copytree(ROOT / 'configs', folder / 'configs')
        programs = Path(sys.executable).parent
        activate = folder / '.venv/bin/activate'
        activate.parent.mkdir(parents=True)
        activate.write_text(f'export PATH="{programs}:$PATH"\n')
        # what a cluster would start; tests/test_tools/test_launchers.py looks
        # at its arguments
        srun = folder / 'bin/srun'
        srun.parent.mkdir()
        srun.write_text('#!/bin/sh\n')
        srun.chmod(0o755)
        self.environment = dict(
            os.environ,
            PATH=os.pathsep.join(
                map(str, (srun.parent, programs, os.environ['PATH']))),
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS='1',
            PORT='29871')

    def bash(self, text: str) -> None:
        """Run commands, after the configs that they name are made short.

        Raises:
            AssertionError: A command fails.
        """
        for name in re.findall(r'[\w./-]+\.py', text):
            if (self.folder / name).is_file() and not name.startswith(
                    ('tools/', 'demo/')):
                self.shorten(self.folder / name)
        result = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True)
        assert result.returncode == 0, (
            f'{text}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}')

    def config(self, snippet: Snippet) -> Config:
        """Save a block that is a config, load it and build its model.

        It goes to the path that the text before it tells ("Save this as
        `...`"), else beside the config that it inherits, else to
        ``my_config.py``, ``my_config_2.py``, ...
        """
        before = '\n'.join(
            snippet.page.read_text().splitlines()[:snippet.line - 1])
        told = re.search(r'Save\sthis\sas\s`(\S+?)`[^`]*```python\Z', before)
        self.configs += 1
        number = '' if self.configs == 1 else f'_{self.configs}'
        file = self.folder / told[1] if told else self._beside(
            snippet.text) / f'my_config{number}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists(), f'{file} exists'
        file.write_text(snippet.text)
        cfg = Config.fromfile(file)
        check_channels(cfg)
        build(cfg)
        return cfg

    def _beside(self, text: str) -> Path:
        """Folder of the shipped config that another one inherits by name."""
        for name in re.findall(r"'(?:\./)?([\w-]+\.py)'", text):
            found = list(self.folder.glob(f'configs/*/{name}'))
            if found:
                return found[0].parent
        return self.folder

    def shorten(self, file: Path) -> None:
        """Bring a config to toy data and one short epoch, once."""
        if file in self.short:
            return
        self.short.add(file)
        cfg = Config.fromfile(file)
        if not self.own_data:
            layout = toy_config.layout(cfg)
            root = self.folder / cfg.data_root
            if layout == 'voc':
                root = root.parent
            if not root.exists():
                # ImageNet's data set wants a folder for each class
                train, val = (10, 10) if layout == 'imagenet' else (4, 2)
                write_dataset(root, layout, train=train, val=val, size=SIZE)
            cfg = toy_config.fit(
                cfg, root.relative_to(self.folder), SIZE, 2, 1)
            few_proposals(cfg)
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].update(
                batch_size=2, num_workers=0, persistent_workers=False)
        unit, length = ('iters', 2) if 'max_iters' in cfg.train_cfg else (
            'epochs', 1)
        cfg.train_cfg.update({f'max_{unit}': length, 'val_interval': length})
        cfg.default_hooks.logger.interval = 1
        cfg.default_hooks.checkpoint.interval = length
        cfg.dump(file)

    def checkpoint(self, config: str, file: str) -> None:
        """Random weights, with the classes as a training saves them."""
        cfg = Config.fromfile(self.folder / config)
        model = build(cfg)
        heads = [h for h in (getattr(model, 'bbox_head', None), model)
                 if hasattr(h, 'num_classes')]
        meta = {}
        if heads:
            count = heads[0].num_classes
            meta['dataset_meta'] = dict(
                classes=[f'class {i}' for i in range(count)],
                palette=[(i, i, i) for i in range(count)])
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            dict(state_dict=model.state_dict(), meta=meta),
            self.folder / file)

    def picture(self, file: str, height: int = 60, width: int = 80) -> None:
        """An image of noise."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(path),
            np.random.RandomState(0).randint(0, 255, (height, width, 3),
                                             np.uint8))


def build(cfg: Config) -> torch.nn.Module:
    """The model of a config."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        if 'data_preprocessor' in cfg:
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        return MODELS.build(cfg.model)
