# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
# Optimizer state and gradients spread over all processes (DeepSpeed's ZeRO 2),
# in float32. The config that builds on it sets
#     optim_wrapper = dict(
#         _delete_=True,
#         type='DeepSpeedOptimWrapper',
#         optimizer=dict(type='AdamW', lr=..., weight_decay=...))
#     default_hooks = dict(checkpoint=dict(save_optimizer=False))
# and, for clip_grad and accumulative_counts, strategy.gradient_clipping and
# strategy.gradient_accumulation_steps.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy', zero_optimization=dict(stage=2))
