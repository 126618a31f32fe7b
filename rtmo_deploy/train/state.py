"""What a training writes down: a checkpoint in the official layout, and everything needed to go on exactly."""

from __future__ import annotations

import contextlib
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.recipe import Recipe

__all__ = ["RUN_FILES", "check_same_recipe", "clear_folder", "load_state", "save_state"]

#: What a run writes into its folder, besides its recipe.
RUN_FILES = ("last.pth", "best.pth", "final.pth", "log.csv", "curves.png")


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
    auxiliary: dict[str, Any] | None = None,
    domain: str | None = None,
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
        progress: Plain data: step, best result, history, sums of the log's next row, recipe.
        scaler: State of the gradient scaler.
        auxiliary: State of the layers that are trained along and not shipped.
        domain: What kind of images it is trained on; see :class:`~rtmo_deploy.artifact.Artifact`.
    """
    facts = {
        "version": __version__,
        "skeleton": skeleton.to_dict(),
        "settings": model.spec.settings.to_dict(),
        "input_hw": list(input_hw),
        "trained": True,
        "domain": domain,
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
        "auxiliary": auxiliary,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(contents, stream)


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, without running code from it.

    Returns:
        ``state_dict``, ``ema_state_dict`` (without the prefix), ``optimizer``, ``scaler``, ``auxiliary``,
        ``progress`` and ``skeleton``.

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
            "auxiliary": contents.get("auxiliary"),
            "progress": facts["progress"],
            "skeleton": Skeleton.from_dict(facts["skeleton"]),
        }
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            f"Training cannot go on from this file: {type(error).__name__}: {error}",
            remedy="Give the last.pth of a run of 'rtmo-deploy train', or start without --resume.",
            where=path,
        ) from error


def check_same_recipe(stored: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Refuse to go on with another recipe; only the interval of judging may differ.

    A field that the stored recipe does not have yet counts as having its default.

    Raises:
        UsageError: They differ.
    """
    with contextlib.suppress(ValidationError):
        stored = type(recipe).model_validate(stored).model_dump(mode="json")
    mine = recipe.model_dump(mode="json")
    differing = sorted(key for key in stored.keys() | mine.keys() if stored.get(key) != mine.get(key))
    differing = [key for key in differing if key != "val_interval"]
    if differing:
        raise UsageError(
            f"The run was begun with another recipe: {', '.join(differing)} differ.",
            remedy="Go on with the recipe.yaml in its folder, or start a new run in another folder.",
            where=path,
        )


def clear_folder(folder: Path, *, keep_run: bool) -> None:
    """Remove what killed processes left half written and, unless ``keep_run``, the files of an earlier run.

    Otherwise a new run that is killed before its first ``last.pth`` would go on from the old one's.
    """
    names = () if keep_run else RUN_FILES
    for path in [*(folder / name for name in names), *folder.glob(".*.part")]:
        path.unlink(missing_ok=True)
