# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os

# Before anything asks torch for its devices. The tests run on the CPU: mmcv
# may be compiled for it alone. MMXVIT_TEST_GPUS=0 adds those that need a GPU.
os.environ['CUDA_VISIBLE_DEVICES'] = os.environ.get('MMXVIT_TEST_GPUS', '')

from mmxvit.utils.allocator import tune_allocator  # noqa: E402

tune_allocator()

import logging  # noqa: E402
import random  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402
from mmengine.utils import ManagerMixin  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def half_on_cpu() -> None:
    """Skips where torch cannot multiply in float16 on CPUs, as torch 2.1."""
    try:
        torch.ones(1, 1).half() @ torch.ones(1, 1).half()
        with torch.autocast('cpu', torch.float16):
            pass
    except RuntimeError as error:
        pytest.skip(str(error))


def _managers(kind: type = ManagerMixin) -> list[type]:
    return [kind] + [m for sub in kind.__subclasses__()
                     for m in _managers(sub)]


@pytest.fixture(autouse=True)
def clean_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test runs in its own folder and leaves no global state behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CheckpointLoader, '_schemes',
                        CheckpointLoader._schemes.copy())
    monkeypatch.setenv('LOCAL_RANK', '0')
    before = {m: m._instance_dict.copy() for m in _managers()}
    yield
    for manager in _managers():
        kept = before.get(manager, {})
        for name, instance in manager._instance_dict.items():
            if name not in kept and isinstance(instance, logging.Logger):
                for handler in instance.handlers:
                    if isinstance(handler, logging.FileHandler):
                        handler.close()
        manager._instance_dict = type(manager._instance_dict)(kept)
