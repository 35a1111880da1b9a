# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Convert a checkpoint of the authors' FcaFormer to the names of mmxvit.

SRC is a classifier, a backbone or a whole detector or segmentor, as training
has written it. DST serves the config of the classifier, and others by
init_cfg=dict(type='Pretrained', checkpoint=DST, prefix='backbone.').
"""
from collections.abc import Sequence

from mmxvit.converters import fcaformer
from mmxvit.converters.common import convert_file
from mmxvit.engine.command import command


@command
def main(argv: Sequence[str] | None = None) -> None:
    convert_file(fcaformer, __doc__, argv)


if __name__ == '__main__':
    main()
