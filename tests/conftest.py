# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from mmxvit.utils.allocator import tune_allocator

tune_allocator()

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
