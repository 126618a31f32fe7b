"""The 8-bit numbers of a quantised graph: scales, weights, and the ranges that scales are made from.

One scale a tensor for activations, one a channel for weights. Weights are signed and stay within -127..127, so that a
weight and its negative round alike. Activations are signed with a zero point of 0 for TensorRT, which takes no other;
there they may use -128, as ONNX's QuantizeLinear does. For CPUs they are unsigned with a zero point: after SiLU nearly
half of the signed numbers would stand for values that never occur.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from rtmo_deploy.artifact import Target
from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMIT: Final = 127
#: Steps between the least and the greatest of the unsigned numbers.
STEPS: Final = 255
#: Where a tensor or channel is zero everywhere, any scale will do; a scale of 0 is refused by TensorRT.
_LEAST: Final = np.float32(1e-12)
#: Bins between 0 and the range: at least half as many lie below the greatest magnitude, so that each of the 127 steps
#: of a quantised tensor has 16 or more.
BINS: Final = 4096
#: Exponents that the bins' width can be computed with in float32.
_LOWEST: Final = -100
PERCENTILE: Final = 99.99
LEVELS: Final = 128
#: Bins between two thresholds that are tried.
STEP: Final = 16


def scale_of(threshold: float | NDArray[Any]) -> NDArray[np.float32]:
    """The scale that maps ``threshold`` to 127; positive even for 0."""
    scale: NDArray[np.float32] = np.maximum(np.asarray(threshold, np.float32) / np.float32(LIMIT), _LEAST)
    return scale


class Range(NamedTuple):
    """What the 8-bit numbers of a tensor reach from and to; what lies beyond is clipped."""

    low: float
    high: float

    def numbers(self, target: Target) -> tuple[NDArray[np.float32], NDArray[np.int8] | NDArray[np.uint8]]:
        """Scale and zero point, both ``()``."""
        if target is Target.TENSORRT:
            return scale_of(max(-self.low, self.high)), np.zeros((), np.int8)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = np.maximum(np.asarray((high - low) / STEPS, np.float32), _LEAST)
        return scale, np.asarray(np.clip(np.rint(-low / scale), 0, STEPS), np.uint8)


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight ``(O, I, ...)`` in 8 bits, within -127..127, and the scales ``(O,)`` of its output channels."""
    flat = np.abs(weight).reshape(len(weight), -1)
    scales = scale_of(flat.max(axis=1, initial=0.0))
    shaped = scales.reshape(-1, *([1] * (weight.ndim - 1)))
    return np.clip(np.rint(weight / shaped), -LIMIT, LIMIT).astype(np.int8), scales


class Histogram:
    """Counts of a tensor's magnitudes over any number of images, and the extremes, in fixed memory, in one pass.

    The range is always a power of two, and grows by doubling when a greater magnitude comes: pairs of bins are merged,
    exactly, since their edges coincide. So the result is the histogram that a second pass over the same images would
    give, in whatever order they came.
    """

    def __init__(self) -> None:
        #: ``(BINS,)``; bin i holds magnitudes from ``i * width`` to below ``(i + 1) * width``.
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.exponent = _LOWEST  #: The range is 2 to this.
        self.low = self.high = 0.0  #: Extremes, with their signs; 0 while there are no values.
        self._empty = True

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def greatest(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.low), abs(self.high))

    def add(self, values: NDArray[Any], *, where: object = None) -> None:
        """Count the values of a tensor of any shape; an ArtifactError where one of them is not finite."""
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
        """Count what another histogram has counted."""
        if other._empty:
            return
        self._extend(other.low, other.high)
        self._grow(other.exponent)
        self.counts += _folded(other.counts, self.exponent - other.exponent)

    def _extend(self, low: float, high: float) -> None:
        self.low = low if self._empty else min(self.low, low)
        self.high = high if self._empty else max(self.high, high)
        self._empty = False

    def _grow(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _folded(self.counts, exponent - self.exponent)
            self.exponent = exponent


def _folded(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Counts over a range that is doubled so many times."""
    merged = counts.reshape(-1, min(2**doublings, BINS)).sum(axis=1)
    return np.concatenate([merged, np.zeros(BINS - len(merged), np.int64)])


class Method(StrEnum):
    """How the magnitude that becomes the largest number is chosen; what lies above is clipped.

    ``minmax`` clips nothing. ``percentile`` clips the share above ``PERCENTILE`` percent. ``mse`` takes the threshold
    with the least expected squared error of rounding and clipping together. ``entropy`` takes the one whose quantised
    distribution loses least information (Kullback-Leibler) about the clipped one, as TensorRT's entropy calibrator
    did (Migacz, "8-bit inference with TensorRT", GTC 2017): with 2048 to 4096 bins below the greatest magnitude
    against 128 levels. (With as many bins as levels, which is what ONNX Runtime's calibrator has unless told
    otherwise, quantising loses nothing at any threshold and the method does nothing.) As there, the first bin counts
    as much as the second: exact zeros, of which there may be any number, say nothing about a range.
    """

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MINMAX = "minmax"
    MSE = "mse"


def range_of(histogram: Histogram, method: Method, target: Target) -> Range:
    """The range of a tensor's 8-bit numbers; 0 to 0 where it was zero everywhere."""
    if target is Target.TENSORRT:
        threshold = threshold_of(histogram, method)
        return Range(-threshold, threshold)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    threshold = threshold_of(histogram, method, lesser=min(-low, high))
    return Range(max(low, -threshold), min(high, threshold))


def threshold_of(
    histogram: Histogram, method: Method, *, percentile: float = PERCENTILE, lesser: float | None = None
) -> float:
    """The magnitude that becomes the largest number; 0 where a tensor was zero everywhere.

    ``lesser`` is the magnitude of the extreme nearer to 0 where numbers are unsigned; they reach no further there.
    """
    greatest = histogram.greatest
    if greatest == 0 or not histogram.counts[1:].any():
        return greatest
    if method is Method.MINMAX:
        return greatest
    if method is Method.PERCENTILE:
        return min(_percentile(histogram, percentile), greatest)
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    bins = np.unique(np.append(np.arange(LEVELS, last, STEP), last))
    if method is Method.MSE:
        losses = _mse(histogram, bins, None if lesser is None else lesser / histogram.width)
    else:
        losses = _entropy(histogram.counts, bins)
    return min(float(bins[int(np.argmin(losses))]) * histogram.width, greatest)


def _percentile(histogram: Histogram, percentile: float) -> float:
    """The upper edge of the first bin up to which at least that share of the magnitudes lies."""
    below = np.cumsum(histogram.counts)
    # A whole number of values: 99.99 % of 10 000 are 9999, not 9999.000000000002.
    wanted = np.ceil(round(float(below[-1]) * percentile / 100, 6))
    return float(np.searchsorted(below, wanted) + 1) * histogram.width


def _mse(histogram: Histogram, bins: NDArray[np.intp], lesser: float | None = None) -> NDArray[np.float64]:
    """Mean squared error of quantising the bins' centres, for each threshold given in bins, as ``lesser`` is."""
    used = np.flatnonzero(histogram.counts)
    centres, weights = used + 0.5, histogram.counts[used].astype(np.float64)
    losses = np.empty(len(bins))
    for place, threshold in enumerate(bins.tolist()):
        scale = threshold / LIMIT if lesser is None else (threshold + min(lesser, threshold)) / STEPS
        error = centres - np.minimum(np.rint(centres / scale), np.rint(threshold / scale)) * scale
        losses[place] = float(weights @ np.square(error))
    return np.asarray(losses / weights.sum())


def _entropy(counts: NDArray[np.int64], bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the quantised from the clipped distribution, for each threshold in bins."""
    mass = counts.astype(np.float64)
    mass[0] = mass[1]
    beyond = np.concatenate([np.cumsum(mass[::-1])[::-1], [0.0]])
    return np.array([_divergence(mass[:threshold], float(beyond[threshold])) for threshold in bins.tolist()])


def _divergence(kept: NDArray[np.float64], clipped: float) -> float:
    """Of ``kept`` spread over 128 levels from ``kept`` with the clipped values in its last bin."""
    total = kept.sum()
    if total == 0:
        return float("inf")
    reference = kept.copy()
    reference[-1] += clipped
    # Each level is spread evenly over those of its bins that are not empty.
    starts = np.arange(LEVELS) * len(kept) // LEVELS
    mass = np.add.reduceat(kept, starts)
    filled = np.add.reduceat((kept > 0).astype(np.float64), starts)
    level = np.repeat(np.arange(LEVELS), np.diff(np.append(starts, len(kept))))
    spread = np.where(kept > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    p, q = reference / (total + clipped), spread / total
    here = p > 0
    # Where only clipped values lie, the quantised distribution has nothing: as much as one value at most.
    return float((p[here] * np.log(p[here] / np.maximum(q[here], 1 / (total * len(kept))))).sum())
