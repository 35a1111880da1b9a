# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Entry points of ``torch.hub``: each model of ``mmxvit.create_model``."""
import functools

import mmxvit

dependencies = ['torch', 'mmengine']


def _entry(name):
    @functools.wraps(mmxvit.create_model)
    def build(*args, **kwargs):
        return mmxvit.create_model(name, *args, **kwargs)

    return build


globals().update({
    name: _entry(name)
    for name in (full.partition('_')[0] for full in mmxvit.list_models(
        task='Image Classification'))
})
