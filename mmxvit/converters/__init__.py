# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""From the checkpoints that the papers' authors published to ours.

:mod:`.common` does the work. A module for each family knows its names:

* ``FAMILY``: name of the backbone class;
* ``detect(state) -> (arch, kind)``, read off keys and shapes; ValueError if
  the entries are not of this family;
* ``rename(key, kind)``: our name of an entry, None if it is unknown;
* ``authors_name(name)``: the reverse;
* ``convert_tensor(key, value)``: the entry in our shape;
* ``backbone_cfg(arch, converted)``: the backbone that has the entries in
  ``converted``, by our names;
* ``head_cfg(kind)``: likewise the head, without its widths; None for none.
"""
