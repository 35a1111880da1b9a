# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Weights with which every part of a model matters."""
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def as_if_trained(model):
    """Random statistics, gains, layer scales and tables, in eval mode."""
    for norm in norms(model):
        norm.running_mean.normal_(0, .3)
        norm.running_var.uniform_(.3, 3)
        if norm.affine:
            nn.init.uniform_(norm.weight, .5, 1.5)
            nn.init.normal_(norm.bias, 0, .3)
    for name, parameter in model.named_parameters():
        last = name.rpartition('.')[2]
        if last.startswith('gamma'):  # the layer scales, near zero at first
            nn.init.uniform_(parameter, .3, .8)
        if last in ('position_bias', 'depth_bias', 'pos_embed', 'w_c'):
            nn.init.normal_(parameter, 0, .5)
    model.eval()
    return model
