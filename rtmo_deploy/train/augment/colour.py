"""Colours changed a little (YOLOX's HSV augmentation, as in mmpose's ``YOLOXHSVRandomAug``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_gains(strength: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw what is added to hue, saturation and value: evenly within the strength, and 0 by a coin for each."""
    gains = rng.uniform(-1, 1, 3) * strength * rng.integers(0, 2, 3)
    hue, saturation, value = (int(gain) for gain in gains)
    return hue, saturation, value


def shift_hsv(image: NDArray[np.uint8], gains: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Add to hue (of 180, around the circle), saturation and value (clipped to 0..255).

    Args:
        image: ``(h, w, 3)`` uint8, BGR.
        gains: What is added. With three zeros the picture is returned as it is; the reference takes it to HSV
            and back even then, which rounds some colours.

    Returns:
        ``(h, w, 3)`` uint8, BGR.
    """
    if not any(gains):
        return image
    levels = np.arange(256)
    hue = (levels + gains[0]) % 180
    saturation, value = (np.clip(levels + gain, 0, 255) for gain in gains[1:])
    table = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
