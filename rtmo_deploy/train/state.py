"""What a training writes down: a checkpoint in the official layout, and everything needed to go on exactly."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.poses import Skeleton

__all__ = ["load_state", "save_state"]


def save_state(
    path: Path,
    *,
    model: RTMO,
    average: RTMO,
    optimizer: torch.optim.Optimizer,
    skeleton: Skeleton,
    input_hw: tuple[int, int],
    progress: dict[str, Any],
    scaler: dict[str, Any] | None,
) -> None:
    """Write a training checkpoint; it appears whole or not at all.

    The layout is mmengine's: ``state_dict`` holds the averaged weights, ``ema_state_dict`` the raw ones (that is
    how mmengine swaps them), ``optimizer`` the optimiser. So every command here, and MMPose, can use the file.

    Args:
        path: The file.
        model: The network as it is trained.
        average: The averaged one.
        optimizer: Its optimiser.
        skeleton: Keypoints.
        input_hw: Height and width in pixels the model is made for.
        progress: Plain data: step, best result, history, recipe.
        scaler: State of the gradient scaler.
    """
    facts = {
        "version": __version__,
        "skeleton": skeleton.to_dict(),
        "input_hw": list(input_hw),
        "progress": progress,
    }
    raw: OrderedDict[str, Any] = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    raw["steps"] = torch.tensor(progress["step"])
    contents = {
        "meta": {"rtmo_deploy": facts, "epoch": progress["epoch"], "iter": progress["step"]},
        "state_dict": average.state_dict(),
        "ema_state_dict": raw,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(contents, stream)


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, without running code from it.

    Returns:
        ``state_dict``, ``ema_state_dict`` (without the prefix), ``optimizer``, ``scaler`` and ``progress``.

    Raises:
        CheckpointError: The file is damaged or was written by something else.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        facts = contents["meta"]["rtmo_deploy"]
        raw = {key.removeprefix("module."): value for key, value in contents["ema_state_dict"].items()}
        raw.pop("steps")
        return {
            "state_dict": contents["state_dict"],
            "ema_state_dict": raw,
            "optimizer": contents["optimizer"],
            "scaler": contents["scaler"],
            "progress": facts["progress"],
        }
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"Training cannot go on from this file: {type(error).__name__}: {error}",
            remedy="Give the last.pth of a run of rtmo-deploy train, or start without --resume.",
            where=path,
        ) from error
