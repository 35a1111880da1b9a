# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Outputs of the authors' published code, and how to ask for the same.

Each file in ``data/golden`` belongs to one of their models, with weights and
an image that anyone can make again:

* ``entries``: their state dict as JSON, a list of [name, shape, dtype];
* ``image``: seed, height and width of the image;
* ``logits``, or ``<map>_shape`` and ``<map>`` for each map of a backbone or a
  classifier's stage: 64 values at even distances in C order. All float64.

Weights: floating point entries are numbered in the order of their names;
number i is filled with normal noise of seed i, scaled as :func:`make_entry`
says. Integers are 0.
"""
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / 'data' / 'golden'
NAMES = sorted(path.stem for path in FOLDER.glob('*.npz'))


class Golden:
    """One file of ``data/golden``."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f'{name}.npz') as data:
            self.entries = json.loads(str(data['entries']))
            self.image = tuple(data['image'].tolist())
            self.values = {
                key: torch.from_numpy(data[key]) for key in data
                if key not in ('entries', 'image')
            }

    def state_dict(self) -> dict[str, Tensor]:
        """Weights under the authors' names."""
        numbered = sorted(name for name, _, dtype in self.entries
                          if dtype.startswith('float'))
        seeds = {name: i for i, name in enumerate(numbered)}
        return {
            name: make_entry(name, shape, seeds[name]) if name in seeds else
            torch.zeros(shape, dtype=torch.int64)
            for name, shape, _ in self.entries
        }

    def make_image(self) -> Tensor:
        """(1, 3, H, W), float32."""
        seed, height, width = self.image
        return noise((1, 3, height, width), seed)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal, float32."""
    values = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def make_entry(name: str, shape: list[int], seed: int) -> Tensor:
    """Noise that keeps activations of all layers near 1."""
    values = noise(tuple(shape), seed)
    leaf = name.rpartition('.')[2]
    if leaf == 's_scale_factors':
        return values
    if leaf == 'running_var':
        return 1 + 0.1 * values.abs()
    if leaf in ('running_mean', 'bias'):
        return 0.1 * values
    if leaf in ('attention_biases', 's_token_bias', 'cls_token', 'pos_embed'):
        return 0.5 * values
    if leaf.startswith('gamma') or len(shape) == 1:
        return 1 + 0.1 * values
    fan_in = np.prod(shape[1:])
    return values * float(np.float32(fan_in**-0.5))


def probe(array: Tensor) -> Tensor:
    """64 values at even distances in C order."""
    flat = array.flatten()
    return flat[np.linspace(0, len(flat) - 1, 64).astype(int)]
