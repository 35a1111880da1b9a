# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Optimizer state, gradients and weights spread over all processes (PyTorch's
# FullyShardedDataParallel). The model is one unit: heads of mmdet and mmseg
# are called by other methods than forward, which FSDP does not see.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmxvit.FSDPStrategy',
    # one file with whole weights, that tools/test.py and --resume read
    state_dict_cfg='full')
