# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import ctypes
import os
import platform
import subprocess
import sys

import pytest

from mmxvit.utils import allocator

GLIBC = platform.libc_ver()[0] == 'glibc'
COUNT_FAULTS = """
import resource, sys
import torch
from mmxvit.utils.allocator import tune_allocator
tuned = sys.argv[1] == 'tune' and tune_allocator()
def step():
    torch.ones(64 << 20, dtype=torch.uint8)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# aligned requests need a few rounds until a freed block fits the next one
for _ in range(20):
    step()
start = faults()
for _ in range(10):
    step()
print(int(tuned), faults() - start)
"""


# what else tells malloc how to behave, or replaces it
FOREIGN = ('GLIBC_TUNABLES', 'LD_PRELOAD', 'MALLOC_')


def count_faults(how: str, switch: str = '1') -> tuple[int, int]:
    """(tuned, page faults of ten 64 MiB tensors) in a new process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    env |= {
        allocator.ENV_SWITCH: switch, 'PYTHONPATH': os.pathsep.join(sys.path)
    }
    done = subprocess.run([sys.executable, '-c', COUNT_FAULTS, how],
                          env=env,
                          stdout=subprocess.PIPE,
                          text=True,
                          check=True)
    tuned, faults = done.stdout.split()
    return int(tuned), int(faults)


@pytest.mark.skipif(not GLIBC, reason='needs Linux with glibc')
def test_freed_tensors_are_reused():
    plain = count_faults('leave')
    tuned = count_faults('tune')
    off = count_faults('tune', switch='0')
    assert (plain[0], tuned[0], off[0]) == (0, 1, 0)
    # one per page and tensor, with 2 MiB pages 32 per tensor
    assert min(plain[1], off[1]) >= 10 * 32
    assert tuned[1] < plain[1] / 10


class FakeLibc:
    """mallopt that refuses some parameters."""

    def __init__(self, refused: tuple[int, ...], glibc: bool = True) -> None:
        self.refused = refused
        self.calls = []
        if glibc:
            self.gnu_get_libc_version = None

    def mallopt(self, param: ctypes.c_int, value: ctypes.c_int) -> int:
        self.calls.append((param.value, value.value))
        return int(param.value not in self.refused)


def tune_with(libc: FakeLibc, monkeypatch) -> bool:
    monkeypatch.delenv(allocator.ENV_SWITCH, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: libc)
    return allocator.tune_allocator()


KEEP = [(-1, 2**31 - 1), (-2, 2**28)]


def test_sets_three_parameters(monkeypatch):
    libc = FakeLibc(refused=())
    assert tune_with(libc, monkeypatch) is True
    assert libc.calls == [(-3, 2**30), *KEEP]


def test_old_glibc_gets_no_mmap_at_all(monkeypatch):
    libc = FakeLibc(refused=(-3, ))
    assert tune_with(libc, monkeypatch) is True
    assert libc.calls == [(-3, 2**30), (-4, 0), *KEEP]


@pytest.mark.parametrize('refused', [(-3, -4), (-1, ), (-2, )])
def test_refusal_is_reported(monkeypatch, refused):
    assert tune_with(FakeLibc(refused), monkeypatch) is False


def test_does_nothing_without_glibc(monkeypatch):
    libc = FakeLibc(refused=(), glibc=False)
    assert tune_with(libc, monkeypatch) is False
    assert libc.calls == []


@pytest.mark.parametrize('system', ['darwin', 'win32'])
def test_does_nothing_on_other_systems(monkeypatch, system):
    monkeypatch.delenv(allocator.ENV_SWITCH, raising=False)
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: pytest.fail('loaded'))
    assert allocator.tune_allocator() is False
