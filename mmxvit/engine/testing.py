# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Test a model of a config with the weights of a checkpoint."""
from mmengine.config import Config
from mmengine.logging import print_log

from .checkpoints import check_checkpoint, check_weights
from .checks import check_channels, check_data
from .command import build_runner
from .run_options import (
    check_format_only,
    check_names,
    use_out,
    use_own_hooks,
    use_show_dir,
    use_tta,
)


def run_test(cfg: Config,
             checkpoint: str,
             tta: bool = False,
             out: str | None = None,
             show_dir: str | None = None) -> dict[str, float]:
    """Check data and weights, then test.

    Args:
        cfg: With a work folder, see ``command.load_run_config``.
        checkpoint: File or URL.
        tta: Test time augmentation, see :func:`~.run_options.use_tta`.
        out: Keep the predictions here, see :func:`~.run_options.use_out`.
        show_dir: Folder for pictures of the predictions.

    Returns:
        dict: The metrics of the config's evaluator.

    Raises:
        UserError: Data, config or weights do not fit each other.
        CheckpointError: The checkpoint cannot be read.
    """
    cfg.load_from, cfg.resume = checkpoint, False
    if cfg.pop('strategy', None):  # for training; this checkpoint is whole
        cfg.pop('runner_type', None)
    use_own_hooks(cfg)
    check_channels(cfg)
    notes = check_data(cfg, ['test'])
    check_checkpoint(checkpoint)
    if tta:
        use_tta(cfg)
    if out:
        use_out(cfg, out)
    check_format_only(cfg)
    if show_dir:
        use_show_dir(cfg, show_dir)

    runner = build_runner(cfg)
    for note in notes:
        print_log(note, logger='current')
    check_weights(runner.model, checkpoint, strict=True)
    if out and cfg.default_scope == 'mmseg':
        check_names(runner.test_loop.dataloader.dataset, out)
    return runner.test()
