# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from .backbones import *  # noqa: F403
from .necks import *  # noqa: F403
