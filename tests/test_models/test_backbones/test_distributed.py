# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""DistributedDataParallel with two processes on the CPU (gloo)."""
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.registry import MODELS
from torch.nn.parallel import DistributedDataParallel

from ...gloo import leave_group
from .test_zoo import ZOO

FAST = [('XFormer', 'xformer'), ('FcaFormer', 'l0'), ('LVT', 'lvt'),
        ('LOLViT', 's')]


def variants(family, arch):
    """Second of four maps, or the only one; half of the stages frozen."""
    backbone = MODELS.build(dict(type=f'mmxvit.{family}', arch=arch))
    maps = len(backbone.strides)
    return (dict(), dict(out_indices=(maps // 3, )),
            dict(frozen_stages=maps // 2), dict(with_cp=True))


def step(rank, folder, family, arch):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    gradients = []
    for kwargs in variants(family, arch):
        torch.manual_seed(0)
        # statistics of the whole batch differ from those of its halves
        model = MODELS.build(
            dict(
                type=f'mmxvit.{family}', arch=arch, norm_eval=True, **kwargs))
        wrapped = DistributedDataParallel(
            model.double(), find_unused_parameters=False)
        wrapped.train()
        x = torch.randn(4, 3, 64, 64, dtype=torch.double)
        for half in (x[:2], x[2:]):  # an unused parameter fails the 2nd step
            wrapped.zero_grad()
            mine = half[rank:rank + 1]
            loss = sum(out.square().mean() for out in wrapped(mine))
            loss.backward()
        gradients.append({
            name: p.grad
            for name, p in model.named_parameters() if p.requires_grad
        })
    torch.save(gradients, f'{folder}/{rank}.pt')
    leave_group()


@pytest.mark.parametrize('family, arch', [
    entry if entry in FAST else pytest.param(*entry, marks=pytest.mark.slow)
    for entry in ZOO
])
def test_gradients_are_the_mean_of_one_process(family, arch, tmp_path):
    mp.spawn(step, (str(tmp_path), family, arch), nprocs=2)
    ranks = [
        torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        for rank in range(2)
    ]
    for variant, kwargs in enumerate(variants(family, arch)):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type=f'mmxvit.{family}', arch=arch, norm_eval=True,
                **kwargs)).double()
        model.train()
        x = torch.randn(4, 3, 64, 64, dtype=torch.double)
        loss = sum(out.square().mean() for out in model(x[2:]))
        loss.backward()
        own = {n: p.grad for n, p in model.named_parameters()
               if p.requires_grad}
        assert set(own) == set(ranks[0][variant])
        for name, gradient in own.items():
            assert torch.equal(ranks[0][variant][name],
                               ranks[1][variant][name]), name
            torch.testing.assert_close(
                ranks[0][variant][name], gradient, rtol=1e-8, atol=1e-10)
