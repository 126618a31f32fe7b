"""What a training writes down: a checkpoint in the official layout, and everything needed to go on exactly."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.model.checkpoint import load_training
from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.recipe import Recipe

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


@dataclass(frozen=True, eq=False)
class State:
    """What :func:`save_state` wrote, checked as far as the file alone can tell.

    Attributes:
        model: The network as it is trained; ``average``: the averaged one.
        skeleton: Keypoints.
        progress: Plain data, as it was given.
        parts: ``optimizer``, ``scaler`` and ``auxiliary`` as they stand in the file.
    """

    model: RTMO
    average: RTMO
    skeleton: Skeleton
    progress: dict[str, Any]
    parts: dict[str, Any]


def load_state(path: Path) -> State:
    """Read what :func:`save_state` wrote, without running code from it.

    Raises:
        CheckpointError: The file is damaged or was written by something else.
        SetupError: It may not be read.
    """
    try:
        raw, average, parts = load_training(path, ("optimizer", "scaler", "auxiliary"))
        if not average.contents.has_ema or average.contents.source != "state_dict":
            raise unusable(path, "its weights or its averaged weights are missing")
        facts = average.contents.meta.get("rtmo_deploy", {})
        if not isinstance(facts.get("progress"), dict):
            raise unusable(path, "'rtmo-deploy train' did not write it")
        skeleton = Skeleton.from_dict(facts["skeleton"])
    except CheckpointError as error:
        raise unusable(path, error.finding) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise unusable(path, "its keypoints are damaged") from error
    if skeleton != average.skeleton or raw.spec != average.spec:
        raise unusable(path, "its weights, its averaged weights and its keypoints do not belong together")
    return State(raw.model, average.model, skeleton, facts["progress"], parts)


def unusable(path: Path, why: str) -> CheckpointError:
    """The error of a state that a run cannot go on from; ``why`` is a clause."""
    return CheckpointError(
        f"Training cannot go on from this file: {why.removesuffix('.')}.",
        remedy="Start from the best.pth beside it with --init, in another folder; or train anew, without --resume.",
        where=path,
    )


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
    left = [path for name in RUN_FILES for path in folder.glob(f".{name}.*.part")]
    for path in left if keep_run else [*left, *(folder / name for name in RUN_FILES)]:
        path.unlink(missing_ok=True)
