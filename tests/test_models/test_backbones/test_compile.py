# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch

from mmxvit.models.backbones import LVT, FcaFormer, LOLViT, XFormer


@pytest.mark.slow
@pytest.mark.parametrize('backbone, arch', [
    (LVT, 'lvt'),
    (FcaFormer, 'l2'),
    (XFormer, 'xformer'),
    (LOLViT, 'x'),
])
def test_few_graphs_for_many_sizes(backbone, arch):
    """With dynamic=True at most two recompilations for five sizes."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = backbone(arch).eval()
    compiled = torch.compile(model, backend=count, dynamic=True)
    for size in (224, 256, 320, 448, 512):
        with torch.no_grad():
            maps = compiled(torch.randn(1, 3, size, size))
        assert maps[-1].shape[2] == size // 32
    assert 1 <= len(graphs) <= 3
