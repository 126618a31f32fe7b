"""Histogram of a tensor's magnitudes over any number of pictures, in fixed memory, in one pass.

The range is always a power of two, and grows by doubling when a greater magnitude comes: pairs of bins are merged,
exactly, since their edges coincide. So the result is the histogram that a second pass over the same pictures would
give, in whatever order they came.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bins between 0 and the range: at least half as many lie below the greatest magnitude, so that each of the 127 steps
#: of a quantised tensor has 16 or more.
BINS: Final = 4096
#: Exponents that the bins' width can be computed with in float32.
_LOWEST: Final = -100


class Histogram:
    """Counts of magnitudes, and the extremes.

    Attributes:
        counts: ``(BINS,)`` int64; bin i holds magnitudes from ``i * width`` to below ``(i + 1) * width``.
        exponent: The range is 2 to this.
        low: Least value, with its sign; 0 while there is none.
        high: Greatest value.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.exponent = _LOWEST
        self.low = self.high = 0.0
        self._empty = True

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def greatest(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.low), abs(self.high))

    def add(self, values: NDArray[Any], *, where: object = None) -> None:
        """Count the values of a tensor of any shape.

        Raises:
            ArtifactError: One of them is not finite.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ArtifactError(
                "A tensor of it holds values that are not finite, so that it has no range.",
                remedy="Its weights are damaged, or it is not a float32 model; 'rtmo-deploy validate' tells more.",
                where=where,
            )
        self._extend(low, high)
        if self.greatest > 0:  # of 0 the exponent is said to be 0
            self._grow(max(math.frexp(self.greatest)[1], _LOWEST))
        # Exact: the factor is a power of two.
        places = (np.abs(values).ravel() * np.float32(1 / self.width)).astype(np.int32)
        self.counts += np.bincount(places, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has counted; the other one may be changed in its range."""
        if other._empty:
            return
        self._extend(other.low, other.high)
        self._grow(other.exponent)
        other._grow(self.exponent)
        self.counts += other.counts

    def copy(self) -> Histogram:
        """One that can be changed."""
        same = Histogram()
        same.merge(self)
        return same

    def _extend(self, low: float, high: float) -> None:
        self.low = low if self._empty else min(self.low, low)
        self.high = high if self._empty else max(self.high, high)
        self._empty = False

    def _grow(self, exponent: int) -> None:
        doublings = exponent - self.exponent
        if doublings <= 0:
            return
        merged = min(2**doublings, BINS)
        folded = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[: len(folded)] = folded
        self.exponent = exponent
