# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Entry points of ``torch.hub``: each model of ``mmxvit.create_model``."""
import inspect

import mmxvit

dependencies = ['torch', 'mmengine']


def _entry(name):
    def build(*args, **kwargs):
        return mmxvit.create_model(name, *args, **kwargs)

    signature = inspect.signature(mmxvit.create_model)
    _, *parameters = signature.parameters.values()  # all but the name
    build.__signature__ = signature.replace(parameters=parameters)
    build.__name__ = name
    # what torch.hub.help shows
    build.__doc__ = (f'``mmxvit.create_model({name!r}, ...)``, whose '
                     'arguments these are.\n\n'
                     f'{inspect.getdoc(mmxvit.create_model)}')
    return build


globals().update({
    name: _entry(name)
    for name in (full.partition('_')[0] for full in mmxvit.list_models(
        task='Image Classification'))
})
