"""From a histogram of magnitudes to the magnitude that becomes 127: what lies above is clipped.

``minmax`` clips nothing. ``percentile`` clips the share above ``PERCENTILE`` percent. ``mse`` takes the threshold with
the least expected squared error of rounding and clipping together. ``entropy`` takes the one whose quantised
distribution loses least information (Kullback-Leibler) about the clipped one, as TensorRT's entropy calibrator did
(Migacz, "8-bit inference with TensorRT", GTC 2017): with 2048 to 4096 bins below the greatest magnitude against 128
levels. (With as many bins as levels, which is what ONNX Runtime's calibrator has unless told otherwise, quantising
loses nothing at any threshold and the method does nothing.) As there, the first bin counts as much as the second: exact
zeros, of which there may be any number, say nothing about a range.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.convert.quantize.numerics import LIMIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.convert.quantize.histogram import Histogram

PERCENTILE: Final = 99.99
LEVELS: Final = 128
#: Bins between two thresholds that are tried.
STEP: Final = 16


class Method(StrEnum):
    """How a range is chosen."""

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MINMAX = "minmax"
    MSE = "mse"


def threshold_of(histogram: Histogram, method: Method, *, percentile: float = PERCENTILE) -> float:
    """The magnitude that becomes 127; 0 where a tensor was zero everywhere."""
    greatest = histogram.greatest
    if greatest == 0 or not histogram.counts[1:].any():
        return greatest
    if method is Method.MINMAX:
        return greatest
    if method is Method.PERCENTILE:
        return min(_percentile(histogram, percentile), greatest)
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    bins = np.unique(np.append(np.arange(LEVELS, last, STEP), last))
    losses = _mse(histogram, bins) if method is Method.MSE else _entropy(histogram.counts, bins)
    return min(float(bins[int(np.argmin(losses))]) * histogram.width, greatest)


def _percentile(histogram: Histogram, percentile: float) -> float:
    """The upper edge of the first bin up to which at least that share of the magnitudes lies."""
    below = np.cumsum(histogram.counts)
    # A whole number of values: 99.99 % of 10 000 are 9999, not 9999.000000000002.
    wanted = np.ceil(round(float(below[-1]) * percentile / 100, 6))
    return float(np.searchsorted(below, wanted) + 1) * histogram.width


def _mse(histogram: Histogram, bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mean squared error of quantising the bins' centres, for each threshold given in bins."""
    used = np.flatnonzero(histogram.counts)
    centres, weights = used + 0.5, histogram.counts[used].astype(np.float64)
    losses = np.empty(len(bins))
    for place, threshold in enumerate(bins.tolist()):
        scale = threshold / LIMIT
        error = centres - np.minimum(np.rint(centres / scale), LIMIT) * scale
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
