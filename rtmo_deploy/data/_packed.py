"""Many short byte strings in one buffer: a hundred thousand file names are two arrays to a worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Packed:
    """An immutable sequence of byte strings.

    Args:
        parts: The strings, kept in this order.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._blob = b"".join(parts)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._blob[self._ends[index] : self._ends[index + 1]]
