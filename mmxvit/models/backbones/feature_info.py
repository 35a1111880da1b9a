# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
from collections.abc import Sequence
from typing import Any

Position = int | Sequence[int] | None


class FeatureInfo:
    """What a backbone tells of its maps, by the names that timm uses.

    For code that is written for timm's ``features_only`` models. MM* packages
    read ``out_channels`` and ``out_strides`` of a backbone.

    Args:
        info: For each map ``num_chs`` (channels), ``reduction`` (stride),
            ``module`` (name of the module behind which it is taken) and
            ``index`` (its place in the pyramid).
    """

    def __init__(self, info: list[dict[str, Any]]) -> None:
        self.info = info

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.info[position]

    def channels(self, position: Position = None) -> list[int] | int:
        """Channels of each map, or of the one or those at ``position``."""
        return self._get('num_chs', position)

    def reduction(self, position: Position = None) -> list[int] | int:
        """Stride of each map, or of the one or those at ``position``."""
        return self._get('reduction', position)

    def module_name(self, position: Position = None) -> list[str] | str:
        """Module of each map, or of the one or those at ``position``."""
        return self._get('module', position)

    def get_dicts(self, keys: Sequence[str] | None = None,
                  position: Position = None) -> list[dict[str, Any]]:
        """Entries of the maps at ``position``, or some keys of them."""
        places = range(len(self)) if position is None else (
            [position] if isinstance(position, int) else position)
        return [{key: self.info[i][key] for key in keys or self.info[i]}
                for i in places]

    def _get(self, key: str, position: Position) -> Any:
        values = [entry[key] for entry in self.get_dicts([key], position)]
        return values[0] if isinstance(position, int) else values
