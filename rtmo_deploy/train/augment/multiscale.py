"""Another input size for every batch (mmpose's ``BatchSyncRandomResize``)."""

from __future__ import annotations

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import STRIDE


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
