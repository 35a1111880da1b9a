# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
