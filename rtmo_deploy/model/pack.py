"""A checkpoint as it is handed out: the weights alone, in half precision if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model.writer import write_checkpoint
from rtmo_deploy.zoo.variant import require_input_size

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model.checkpoint import LoadedCheckpoint

_FACTS = ("epoch", "iter")


def pack_checkpoint(
    checkpoint: LoadedCheckpoint, output: Path, *, half: bool = False, input_hw: tuple[int, int] | None = None
) -> None:
    """Write the weights of a checkpoint without optimiser, raw weights and the training's state.

    Args:
        checkpoint: The loaded checkpoint; what was loaded (averaged or raw weights) is what is written. What it
            lacks is not written.
        output: ``.pth`` or ``.safetensors``; appears whole or not at all.
        half: Store matrices and convolution kernels as float16. Vectors (biases, the norms' statistics and gains)
            stay float32: they are a hundredth of the file, and a variance may lie outside float16's range.
            Reading restores float32, and computes frequencies and bins anew.
        input_hw: Height and width in pixels that the file says it is made for; the checkpoint's if not given. A
            network is not bound to the size it was trained at, and may be best at another.

    Raises:
        UsageError: Height or width is no multiple of 32.
        CheckpointError: A weight is too large for float16.
        SetupError: The file cannot be written.
    """
    if input_hw is not None:
        require_input_size(input_hw)
    state = {key: value for key, value in checkpoint.model.state_dict().items() if key not in checkpoint.absent}
    if half:
        limit = torch.finfo(torch.float16).max
        for key, tensor in state.items():
            if not (tensor.is_floating_point() and tensor.ndim >= 2):
                continue
            largest = float(tensor.abs().max())
            if largest > limit:
                raise CheckpointError(
                    f"A weight of '{key}' is {largest:.3g}, more than float16 holds.",
                    remedy="Leave --half away.",
                    where=checkpoint.path,
                )
            state[key] = tensor.half()
    facts = {key: checkpoint.contents.meta[key] for key in _FACTS if key in checkpoint.contents.meta}
    own: dict[str, Any] = {
        "version": __version__,
        "skeleton": checkpoint.skeleton.to_dict(),
        "input_hw": list(input_hw or checkpoint.input_hw),
        "trained": not checkpoint.untrained,
        "domain": checkpoint.domain,
    }
    if changed := checkpoint.spec.settings.to_dict():
        own["settings"] = changed
    own.update(checkpoint.taken.thresholds())
    write_checkpoint(output, state, {"rtmo_deploy": own, **facts})
