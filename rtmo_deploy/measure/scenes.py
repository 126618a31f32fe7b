"""Made-up pictures to compare networks on: gradients, shapes and texture, the same for a seed on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def structured_images(batch: int, height: int, width: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Network inputs with structure at every scale; white noise would leave most of a network's range unused.

    Args:
        batch: Number of pictures, each different.
        height: Pixels.
        width: Pixels.
        seed: Seed.

    Returns:
        ``(batch, 3, height, width)`` float32, 0..255, whole numbers like a decoded picture.
    """
    rng = np.random.default_rng([seed, batch, height, width])
    pictures = [_picture(rng, height, width) for _ in range(batch)]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2), dtype=np.float32)


def _picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = rng.uniform(-1, 1, (3, 2))
    ramp = np.stack([a * x / width + b * y / height for a, b in slope], axis=-1)
    picture = (127 + 90 * ramp).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(6, 14))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        size = float(rng.uniform(0.03, 0.3)) * min(height, width)
        axes = (max(int(size), 1), max(int(size * rng.uniform(1, 3)), 1))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.line(picture, centre, end, colour[::-1], max(int(size / 6), 1), cv2.LINE_AA)
    grain = rng.normal(0, 8, (height, width, 1))
    return (picture + grain).clip(0, 255).astype(np.uint8)
