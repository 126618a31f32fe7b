"""How far apart two tensors are, over as many pieces as they come in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.measure.comparison import worst
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorError:
    """The difference of two tensors of one shape."""

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
            largest = worst(difference)
            finite = a[np.isfinite(a)]
            noise = float(np.square(difference).sum()) if math.isfinite(largest) else math.inf
        return cls(float(np.square(finite).sum()), noise, largest, worst(finite))

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
        return {
            "equal": self.noise == 0,
            "snr_db": plain(self.snr_db),
            "max_abs": plain(self.max_abs),
            "magnitude": self.magnitude,
        }


def compare_tensors(
    expected: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]]
) -> dict[str, TensorError]:
    """How far each expected tensor is off: infinitely where it is missing, of another shape, or not finite."""
    compared = {}
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape or not np.isfinite(other).all():
            compared[name] = TensorError(0.0, math.inf, math.inf, worst(value))
        else:
            compared[name] = TensorError.between(value, other)
    return compared
