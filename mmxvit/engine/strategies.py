# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Strategies of MMEngine's ``FlexibleRunner``."""
from typing import Any

import torch.nn as nn
from mmengine._strategy.fsdp import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.optim import BaseOptimWrapper
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from mmxvit.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """MMEngine's, with the gradient's true norm, and resumable.

    MMEngine 0.10 clips the gradient in each process by the norm of its own
    shard, and loads the state of an optimizer by the order of arguments that
    torch had before 2.1. Takes the same arguments.
    """

    def build_optim_wrapper(self, optim_wrapper: Any,
                            model: nn.Module | None = None
                            ) -> BaseOptimWrapper:
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is nn.utils.clip_grad_norm_:

            def clip(params: Any, **kwargs: Any) -> Tensor:
                return model.clip_grad_norm_(**kwargs)

            built.clip_func = clip
        return built

    def load_optim_state_dict(self, state_dict: dict) -> None:
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model,
                optim=self.optim_wrapper.optimizer,
                optim_state_dict=state_dict))
