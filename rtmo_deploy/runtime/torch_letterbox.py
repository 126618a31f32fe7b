"""Letterboxes an image that lies on a GPU without copying it to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from rtmo_deploy.runtime.letterbox import PAD_VALUE, Placement, reference_matrix, transform_of

if TYPE_CHECKING:
    from rtmo_deploy.runtime.letterbox import LetterboxTransform

#: Steps in which cv2.warpAffine rounds coordinates, a pixel; and those in which it adds them up.
_STEPS, _FIXED = 32, 1024


def letterbox_tensor(
    image: torch.Tensor, size_hw: tuple[int, int], placement: Placement
) -> tuple[torch.Tensor, LetterboxTransform]:
    """As :func:`rtmo_deploy.runtime.letterbox.letterbox`, on the image's device.

    Args:
        image: ``(h, w, 3)`` uint8, BGR, on any device.
        size_hw: Height and width of the network input, pixels.
        placement: Where the image stands in the canvas.

    Returns:
        ``(3, H, W)`` float32, BGR, whole numbers from 0 to 255, on the same device: those of the other, up to one grey
        level; and the same transform.
    """
    rows, columns = image.shape[:2]
    height, width = size_hw
    transform = transform_of((rows, columns), size_hw, placement)
    # Padding is zero in what follows.
    pixels = image.permute(2, 0, 1)[None].float() - PAD_VALUE
    if placement is Placement.TOP_LEFT:
        size = max(1, int(rows * transform.scale)), max(1, int(columns * transform.scale))
        small = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        canvas = functional.pad(small, (0, width - size[1], 0, height - size[0]))
    else:
        back = np.linalg.inv(np.vstack([reference_matrix(rows, columns, height, width), [0, 0, 1]]))
        fixed = back[:2] * _FIXED
        # As cv2.warpAffine adds up and rounds coordinates.
        x = np.rint(fixed[:, 0, None] * np.arange(width))[:, None]
        y = np.rint(fixed[:, 1, None] * np.arange(height) + fixed[:, 2:])[..., None]
        steps = np.floor((x + y + _FIXED // _STEPS // 2) / (_FIXED // _STEPS)) / _STEPS
        grid = torch.as_tensor(steps, device=image.device).permute(1, 2, 0)
        sides = torch.tensor([columns, rows], device=image.device)
        grid = ((2 * grid + 1) / sides - 1)[None].float()
        canvas = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (canvas[0] + PAD_VALUE).round(), transform
