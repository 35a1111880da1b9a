# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Tests by several processes on the CPU."""
import time

import torch.distributed as dist


def leave_group() -> None:
    """The last thing that a process does in its group."""
    # torch 2.1 ends the group's thread while it holds what that thread needs
    # to let go of its last tensors: the thread gets the time to do so before
    time.sleep(0.5)
    dist.destroy_process_group()
