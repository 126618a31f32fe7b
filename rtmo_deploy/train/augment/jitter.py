"""The random affine: numbers drawn first, their matrix when the picture's size is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.train.augment.geometry import about
from rtmo_deploy.train.augment.options import AffineOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.train.augment.options import WindowOptions


@dataclass(frozen=True, eq=False)
class Jitter:
    """One draw.

    Attributes:
        linear: ``(2, 2)`` float64: shear after rotation after enlargement.
        shift: ``(2,)`` float64, x, y, as fractions.
        of_input: Whether those are fractions of the input, and the content moves by them after it was turned;
            otherwise of the fitted picture, and the window does before.
    """

    linear: NDArray[np.float64]
    shift: NDArray[np.float64]
    of_input: bool

    def matrix(self, fitted_hw: tuple[float, float], input_hw: tuple[int, int]) -> NDArray[np.float64]:
        """Input frame -> input frame; ``fitted_hw`` is the picture's height and width in it, without padding."""
        size, none = np.array(input_hw[::-1], np.float64), np.zeros(2)
        if self.of_input:
            return about(size / 2, self.linear, before=none, after=self.shift * size)
        return about(size / 2, self.linear, before=self.shift * fitted_hw[::-1], after=none)


def draw_jitter(options: AffineOptions | WindowOptions, rng: np.random.Generator) -> Jitter:
    """Draw shift, scale, rotation and shear, in that order."""
    if isinstance(options, AffineOptions):
        shift_x, shift_y, size, turn, shear_x, shear_y = rng.uniform(-1, 1, 6)
        scale = _between(options.scale, size)
        shear = np.tan(np.radians(options.shear * np.array([shear_x, shear_y])))
        linear = np.array([[1, shear[0]], [shear[1], 1]]) @ _rotation(options.rotate * turn) * scale
    else:
        shift_x, shift_y, size, turn = _cut_normal(rng, 4)
        # A window turned one way shows the picture turned the other way; a larger one shows it smaller.
        linear = _rotation(-options.rotate * turn) / _between(options.window, size)
    return Jitter(linear, options.shift * np.array([shift_x, shift_y]), isinstance(options, AffineOptions))


def _between(limits: tuple[float, float], draw: float) -> float:
    """-1 to 1, to the first limit to the second."""
    return limits[0] + (limits[1] - limits[0]) * (draw + 1) / 2


def _rotation(degrees: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float64)


def _cut_normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Standard normal numbers between -1 and 1."""
    drawn = np.empty(0)
    while len(drawn) < count:
        more = rng.standard_normal(2 * count)
        drawn = np.concatenate([drawn, more[abs(more) <= 1]])
    return drawn[:count]
