# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest
import torch

from mmxvit.models.backbones import FcaFormer, LOLViT, LVT, XFormer


@pytest.mark.parametrize('build', [
    LVT, lambda: FcaFormer('l2'), XFormer, LOLViT
], ids=['lvt', 'fcaformer-l2', 'xformer', 'lolvit-x'])
def test_few_graphs_for_many_sizes(build):
    """With dynamic=True at most two recompilations for five sizes."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = build().eval()
    compiled = torch.compile(model, backend=count, dynamic=True)
    with torch.no_grad():
        for size in (224, 256, 320, 448, 512):
            x = torch.randn(1, 3, size, size)
            outs, expected = compiled(x), model(x)
            for out, other in zip(outs, expected, strict=True):
                torch.testing.assert_close(out, other, rtol=1e-3, atol=1e-4)
    assert 1 <= len(graphs) <= 3
