"""How far apart two tensors are, over as many pieces as they come in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorError:
    """The difference of two tensors of one shape.

    Attributes:
        signal: Sum of the first one's squares.
        noise: Sum of the squares of the difference; infinite where one of them is not finite and the other not the
            same.
        max_abs: Largest difference; infinite likewise.
        magnitude: The first one's largest magnitude.
    """

    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    magnitude: float = 0.0

    @classmethod
    def between(cls, one: NDArray[Any], two: NDArray[Any]) -> TensorError:
        """Compare two tensors in float64; the same infinity on both sides is no difference."""
        a, b = one.astype(np.float64), two.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
            worst = float(difference.max(initial=0.0))
            finite = a[np.isfinite(a)]
            if not math.isfinite(worst):
                return cls(float(np.square(finite).sum()), math.inf, math.inf, float(np.abs(finite).max(initial=0.0)))
            noise = float(np.square(difference).sum())
        return cls(float(np.square(finite).sum()), noise, worst, float(np.abs(finite).max(initial=0.0)))

    def __add__(self, other: TensorError) -> TensorError:
        return TensorError(
            self.signal + other.signal,
            self.noise + other.noise,
            max(self.max_abs, other.max_abs),
            max(self.magnitude, other.magnitude),
        )

    @property
    def snr_db(self) -> float:
        """How far the signal is above the error, decibels: ``10 log10(signal / noise)``; infinite if they are equal."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or math.isinf(self.noise):
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``snr_db`` is None where there is no error at all, or one that is not finite."""
        snr, worst = self.snr_db, self.max_abs
        return {
            "equal": self.noise == 0,
            "snr_db": snr if math.isfinite(snr) else None,
            "max_abs": worst if math.isfinite(worst) else None,
            "magnitude": self.magnitude,
        }
