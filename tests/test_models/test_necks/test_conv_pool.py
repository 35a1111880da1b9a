# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import torch
from mmengine.registry import MODELS


def test_widens_and_pools_the_last_map():
    neck = MODELS.build(
        dict(type='mmxvit.ConvPool', in_channels=4, out_channels=6))
    neck.eval()
    last = torch.randn(2, 4, 3, 5)
    out, = neck((torch.randn(2, 8, 6, 10), last))
    by_place = neck.conv(last).flatten(2)
    torch.testing.assert_close(out, by_place.sum(2) / 15)
    assert out.shape == (2, 6)
