# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Classifiers in plain PyTorch, from the configs for mmpretrain."""
import warnings
from pathlib import Path

import torch.nn as nn
from mmengine.config import ConfigDict
from torch import Tensor

from mmxvit.registry import MODELS
from mmxvit.utils.checkpoint import (
    CheckpointError,
    first_lines,
    load_weights,
)

from .heads.plain import ClassAttentionHead, LayerNormHead, LinearHead

HEADS = {
    'LinearClsHead': LinearHead,
    'mmxvit.LayerNormClsHead': LayerNormHead,
    'mmxvit.LVTClsHead': ClassAttentionHead,
}
"""Heads by their types in configs, without losses."""

_OF_TRAINING = ('type', 'loss', 'topk', 'cal_acc')
# of the heads: what has a row for each class
_CLASS_LAYERS = ('head.fc.', 'head.aux_fc.')


class Classifier(nn.Module):
    """Backbone, neck and head of a classifier's config, without mmpretrain.

    Parameters have the names that they have in mmpretrain's ImageClassifier,
    so that checkpoints go both ways. Images are to be normalised by the
    caller.

    Args:
        backbone: Part of the config's model.
        neck: As well; None for none.
        head: As well; its loss is not used.

    Raises:
        ValueError: The backbone's last map has not the channels that neck or
            head take.
    """

    def __init__(self, backbone: ConfigDict, neck: ConfigDict | None,
                 head: ConfigDict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        channels = (neck or head).in_channels
        if self.backbone.out_channels[-1] != channels:
            raise ValueError(
                f'the last map has {self.backbone.out_channels[-1]} channels, '
                f'the classifier takes {channels}; with features_only=True '
                'the backbone takes all of its arguments')
        self.neck = MODELS.build(neck) if neck else None
        self.head = HEADS[head.type](
            **{k: v for k, v in head.items() if k not in _OF_TRAINING})

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)"""
        feats = self.backbone(x)
        return self.head(self.neck(feats) if self.neck else feats)

    def load_weights(self, state: dict[str, Tensor],
                     path: str | Path) -> None:
        """Load weights, all of them or an error.

        If they are for another number of classes, the layers with a row for
        each class stay as they are, with a warning.

        Args:
            state: State dict; left without what was not loaded.
            path: Where it is from, for messages.

        Raises:
            CheckpointError: They are not those of this model (differences are
                listed).
        """
        own = self.state_dict()
        others = [
            key for key in own if key.startswith(_CLASS_LAYERS)
            and key in state and state[key].shape[1:] == own[key].shape[1:]
            and len(state[key]) != len(own[key])
        ]
        if others:
            warnings.warn(
                f'{path} has {len(state[others[0]])} classes, not '
                f'{len(own[others[0]])}: {", ".join(others)} are new',
                stacklevel=3)
        for key in others:
            del state[key]
        missing, unexpected, differs = load_weights(self, state)
        differs += [f'missing {key}' for key in missing if key not in others]
        differs += [f'not in the model: {key}' for key in unexpected]
        if differs:
            raise CheckpointError(
                f'{path}: not a checkpoint of this classifier:'
                f'{first_lines(differs)}\nname a checkpoint of it; with '
                'features_only=True one that has its backbone will do')
