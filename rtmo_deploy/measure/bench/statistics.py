"""Sums up lists of times: percentiles, and ratios with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
_STUDENT_T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)
_NORMAL = 1.959964
#: Times that must lie above a percentile for it to be given.
MIN_ABOVE = 2


@dataclass(frozen=True)
class Summary:
    """Times in milliseconds, summed up.

    The percentiles are interpolated linearly between neighbours (NumPy's default); p90, p95 and p99 are None of fewer
    than 20, 40 and 200 times, where less than two times lie above them and they say nothing.
    """

    n: int
    mean: float
    min: float
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, times: Sequence[float]) -> Summary:
        """Sum up at least one time.

        Raises:
            ValueError: There is none, or one is not a finite number.
        """
        values = np.asarray(times, np.float64)
        if not values.size or not np.isfinite(values).all():
            raise ValueError("times must be finite numbers, and at least one")
        tails = (
            float(np.percentile(values, q)) if values.size * (100 - q) >= 100 * MIN_ABOVE else None
            for q in (90, 95, 99)
        )
        return cls(values.size, float(values.mean()), float(values.min()), float(np.median(values)), *tails)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times: the geometric mean of the rounds' ratios, and its 95 % confidence interval.

    The interval is None where there was one round only, which tells nothing of the noise.
    """

    value: float
    low: float | None
    high: float | None

    def widened(self, lost: float) -> Ratio:
        """The same with an interval that also covers a share of the time, 0 to 0.5, lost to something else."""
        if self.low is None or self.high is None:
            return self
        return Ratio(self.value, self.low * (1 - lost), self.high / (1 - lost))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f} (no interval)"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired_ratio(times: Sequence[float], reference: Sequence[float]) -> Ratio:
    """How many times as long as the reference something takes, by rounds in which both took their turn.

    The logarithm of the ratio is taken round by round, so that what slows both alike (a warmer chip) cancels; the
    interval is Student's t of their mean. Another program slows contenders unequally: see :mod:`.interference`.

    Args:
        times: One time a round.
        reference: The reference's time in the same rounds.

    Raises:
        ValueError: The two have different lengths, none, or a time that is not positive.
    """
    if len(times) != len(reference):
        raise ValueError(f"{len(times)} rounds against {len(reference)}")
    logs = _logs(times) - _logs(reference)
    if len(logs) < 2:
        return Ratio(math.exp(float(logs.mean())), None, None)
    return _with_interval(float(logs.mean()), _error_of_mean(logs), len(logs) - 1)


def independent_ratio(times: Sequence[float], others: Sequence[float]) -> Ratio:
    """How many times as long as in another run something takes; the rounds of the two have nothing in common.

    Welch's interval on the logarithms. It knows the noise between the rounds of each run. What differs between the
    runs as a whole, such as a machine that was busier all along, is in the ratio and not in the interval.

    Raises:
        ValueError: One of the two is empty, or a time is not positive.
    """
    logs = [_logs(times), _logs(others)]
    mean = float(logs[0].mean() - logs[1].mean())
    if min(map(len, logs)) < 2:
        return Ratio(math.exp(mean), None, None)
    squares = [_error_of_mean(one) ** 2 for one in logs]
    freedom = len(times) + len(others) - 2.0
    if sum(squares) > 0:
        freedom = sum(squares) ** 2 / sum(square**2 / (len(one) - 1) for square, one in zip(squares, logs, strict=True))
    return _with_interval(mean, math.sqrt(sum(squares)), max(int(freedom), 1))


def student_t(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t: tabulated below 10 degrees of freedom, beyond by Cornish and Fisher."""
    if freedom < 1:
        raise ValueError("there is no interval without a degree of freedom")
    if freedom <= len(_STUDENT_T):
        return _STUDENT_T[freedom - 1]
    z = _NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _logs(times: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(times, np.float64)
    if not values.size or not np.isfinite(values).all() or values.min() <= 0:
        raise ValueError("times must be positive numbers, and at least one")
    logs: NDArray[np.float64] = np.log(values)
    return logs


def _error_of_mean(logs: NDArray[np.float64]) -> float:
    return float(logs.std(ddof=1) / math.sqrt(len(logs)))


def _with_interval(mean: float, error: float, freedom: int) -> Ratio:
    reach = student_t(freedom) * error
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))
