"""Another input size for every batch (mmpose's ``BatchSyncRandomResize``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import STRIDE
from rtmo_deploy.train.augment.geometry import move_people, resize_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rtmo_deploy.data import People

__all__ = ["random_size", "resize_batch"]


def random_size(
    input_hw: tuple[int, int], seed: int, iteration: int, *, span: tuple[int, int] = (480, 800), step: int = STRIDE
) -> tuple[int, int]:
    """The size of one iteration's batch: every step from ``span[0]`` to ``span[1]`` is equally likely.

    The recipes draw anew for each iteration, to the very end of the training, from 480 to 800; rtmo-t, of
    416x416, from 320 to 640. (There the first iteration after every start keeps ``input_hw``, and one process
    draws for all. Here the size depends on nothing but the arguments, so neither is needed.)

    Args:
        input_hw: Height and width the samples have.
        seed: The training's seed.
        iteration: Counted from the beginning of the training.
        span: Smallest and largest height, pixels; rounded to whole steps.
        step: Height and width are multiples of it.

    Returns:
        Height and width, with about the aspect of ``input_hw``: the width is rounded down to a whole step.

    Raises:
        UsageError: ``span`` is empty or begins below one step.
    """
    low, high = (round(side / step) for side in span)
    if not 0 < low <= high:
        raise UsageError(f"The span of sizes {span} holds no multiple of {step}.", remedy="Give two heights.")
    steps = int(np.random.default_rng((seed, iteration)).integers(low, high, endpoint=True))
    return step * steps, step * max(1, int(steps * input_hw[1] / input_hw[0]))


def resize_batch(
    images: Tensor, people: Sequence[People], hw: tuple[int, int], ignore: Tensor | None = None
) -> tuple[Tensor, list[People], Tensor | None]:
    """A batch at another size, and everything that is measured in its pixels.

    Bilinear without smoothing (``align_corners=False``), as in the reference. Boxes and keypoints go where the
    pixels go, areas with the product of both scales.

    Args:
        images: ``(B, 3, h, w)`` of a floating type, on any device.
        people: One a picture, in its pixels.
        hw: New height and width.
        ignore: ``(B, h, w)``. A bool mask stays one, True where more than half is; a mask of a floating type
            becomes soft at its borders, as the reference's does.

    Returns:
        Images ``(B, 3, H, W)``, people and mask; the arguments themselves where the size is the same already.
    """
    from torch.nn.functional import interpolate

    old = (int(images.shape[-2]), int(images.shape[-1]))
    if old == tuple(hw):
        return images, list(people), ignore
    matrix = resize_matrix(old, hw)
    if ignore is not None:
        soft = ignore if ignore.is_floating_point() else ignore.to(images.dtype)
        soft = interpolate(soft[:, None], size=hw, mode="bilinear", align_corners=False)[:, 0]
        ignore = soft if ignore.is_floating_point() else soft > 0.5
    resized = interpolate(images, size=hw, mode="bilinear", align_corners=False)
    return resized, [move_people(persons, matrix) for persons in people], ignore
