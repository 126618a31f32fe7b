"""Where a training starts from: seeded weights, a checkpoint, or ``last.pth`` of a run that was ended."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from pydantic import ValidationError

from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint, load_training
from rtmo_deploy.model.rtmo import initialise
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.train.sections import TERMS
from rtmo_deploy.zoo import ARCHITECTURES
from rtmo_deploy.zoo.locate import resolve_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.model.checkpoint import LoadedCheckpoint
    from rtmo_deploy.train.recipe import Recipe


#: Factor on what attention is computed from, where a recipe sets ``calm``.
ATTENTION_SCALE = 0.2


def recipe_network(recipe: Recipe, num_keypoints: int) -> NetworkSpec:
    """The network that a recipe names; a checkpoint's own settings and widths are not in it."""
    section = recipe.model
    if section.architecture is not None:
        return NetworkSpec.of(ARCHITECTURES[section.architecture], num_keypoints)
    return NetworkSpec(section.deepen or 0.0, section.widen or 0.0, num_keypoints, section.hidden_dim)


def is_network_of(spec: NetworkSpec, recipe: Recipe) -> bool:
    """Whether a network is the recipe's, whatever its keypoints, settings and widths of single parts."""
    wanted = recipe_network(recipe, spec.num_keypoints)
    shapes = ("stage_channels", "stage_blocks", "hidden_dim")
    return all(getattr(spec, name) == getattr(wanted, name) for name in shapes)


def initial_checkpoint(recipe: Recipe) -> LoadedCheckpoint | None:
    """The checkpoint that a run starts from, None without one."""
    section = recipe.model
    if section.init is None:
        return None
    return load_checkpoint(resolve_checkpoint(section.init), ignore_cfg=True if section.ignore_cfg else None)


def starting_model(recipe: Recipe, skeleton: Skeleton, loaded: LoadedCheckpoint | None) -> RTMO:
    """The network a run begins with, in training mode.

    From a checkpoint every tensor of the same name and shape is taken. With another number of keypoints those are
    all but the ones that have a row for each keypoint: offsets, visibilities, deviations, position encodings and the
    layer that makes keypoint features; these start from the seed, as do those that the checkpoint lacks because only
    training uses them.
    """
    spec = recipe_network(recipe, len(skeleton))
    if loaded is not None:
        if not is_network_of(loaded.spec, recipe):
            raise UsageError(
                f"The recipe's model and its 'init' differ: {recipe.model.init} is {loaded.architecture}.",
                remedy="Name that architecture in the recipe, or another checkpoint.",
            )
        spec = replace(loaded.spec, num_keypoints=len(skeleton))
    model = RTMO(spec)
    initialise(model, recipe.seed)
    if skeleton.sigmas:
        model.head.loss_oks.sigmas.copy_(torch.tensor(skeleton.sigmas))
    if recipe.model.calm:
        _shrink_attention(model)
    if loaded is None:
        return model
    state = model.state_dict()
    for key, tensor in loaded.model.state_dict().items():
        if state[key].shape == tensor.shape and not key.endswith("loss_oks.sigmas") and key not in loaded.absent:
            state[key] = tensor
    model.load_state_dict(state)
    return model


@torch.no_grad()
def _shrink_attention(model: RTMO) -> None:
    """Start the classifier's attention as the identity, with small products of queries and keys.

    Its squared ReLU has no softmax: with position encodings of deviation 1 over 128 channels, keypoint features start
    fifteen times as large as their normalised inputs, and grow from there.
    """
    dcc = model.head.dcc
    dcc.gau.o.weight.zero_()
    dcc.pos_enc.mul_(ATTENTION_SCALE)
    dcc.gau.beta.mul_(ATTENTION_SCALE)


#: What a run writes into its folder, besides its recipe.
RUN_FILES = ("last.pth", "best.pth", "final.pth", "log.csv", "curves.png")


@dataclass(frozen=True, eq=False)
class State:
    """What a run wrote into ``last.pth``, checked as far as the file alone can tell."""

    model: RTMO
    average: RTMO
    skeleton: Skeleton
    progress: dict[str, Any]
    parts: dict[str, Any]


def load_state(path: Path) -> State:
    """Read a run's ``last.pth``, without running code from it."""
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
    """Remove what killed processes left half written and, unless ``keep_run``, the files of an earlier run."""
    left = [path for name in RUN_FILES for path in folder.glob(f".{name}.*.part")]
    for path in left if keep_run else [*left, *(folder / name for name in RUN_FILES)]:
        path.unlink(missing_ok=True)


def check_network(spec: NetworkSpec, recipe: Recipe, skeleton: Skeleton) -> None:
    """The weights must be of the recipe's network and keypoints."""
    if not is_network_of(spec, recipe) or spec.num_keypoints != len(skeleton):
        raise ValueError("its weights are of another network than the recipe's")


def check_tensors(stored: Any, own: Mapping[str, torch.Tensor], what: str) -> None:
    """Names, shapes, types and finite values of a state dict."""
    if not isinstance(stored, dict) or stored.keys() != own.keys():
        raise ValueError(f"the {what} in it are missing or others")
    for name, tensor in own.items():
        value = stored[name]
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise ValueError(f"the {what} in it have another shape or type than the network's")
        if not torch.isfinite(value).all():
            raise ValueError(f"there is NaN or Inf among the {what} in it")


def check_optimizer(stored: Any, optimizer: torch.optim.Optimizer, *, skipped: bool) -> dict[str, Any]:
    """Moments of every parameter; rates and options are the recipe's.

    ``skipped``: steps may have been skipped, and every moment with them.
    """
    groups = optimizer.state_dict()["param_groups"]
    theirs = stored.get("param_groups") if isinstance(stored, dict) else None
    if not isinstance(theirs, list) or not all(isinstance(group, dict) for group in theirs):
        raise ValueError("it has no state of the optimizer")
    if [group.get("params") for group in theirs] != [group["params"] for group in groups]:
        raise ValueError("its optimizer has other groups of parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = stored.get("state")
    if not isinstance(state, dict) or state.keys() != (set(range(len(parameters))) if state or not skipped else set()):
        raise ValueError("its optimizer lacks the state of parameters")
    step = torch.tensor(0.0)
    moments = {}
    for index, values in state.items():
        parameter = parameters[index].detach()
        check_tensors(values, {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}, "optimizer's moments")
        if values["step"] < 0 or (values["exp_avg_sq"] < 0).any():
            raise ValueError("its optimizer's moments are negative")
        # In the parameter's own memory layout: the fused optimizer reads both side by side.
        laid = {name: torch.zeros_like(parameter).copy_(values[name]) for name in ("exp_avg", "exp_avg_sq")}
        moments[index] = {"step": values["step"], **laid}
    return {"state": moments, "param_groups": groups}


def check_scaler(stored: Any, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """Scale of the gradients in FP16; an empty dict without one."""
    own: dict[str, Any] = scaler.state_dict()
    if not own:
        return own
    scale, tracker = (stored.get(key) if isinstance(stored, dict) else None for key in ("scale", "_growth_tracker"))
    if not _is_number(scale) or not 0 < scale < 2.0**127 or not _is_count(tracker):
        raise ValueError("the scale of its FP16 gradients is missing or wrong")
    return {**own, "scale": float(scale), "_growth_tracker": tracker}


def check_progress(stored: Mapping[str, Any], steps: int, steps_per_epoch: int) -> dict[str, Any]:
    """Step, best result, history, sums of the log's next row, and the recipe, as far as it is a dictionary."""
    step, epoch, best, history, pending = (stored.get(k) for k in ("step", "epoch", "best", "history", "pending"))
    if not _is_count(step) or not _is_count(epoch) or step > steps:
        raise ValueError(f"its step or epoch is not one of the {steps} steps of this run")
    if step // steps_per_epoch != epoch:
        raise ValueError(f"step {step} is in its epoch {epoch}; here an epoch has {steps_per_epoch} steps")
    if not _is_number(best) or not -1 <= best <= 1:
        raise ValueError("its best AP is not one")
    if not isinstance(history, list) or not all(_is_judgement(row) for row in history):
        raise ValueError("its history of validations is damaged")
    if not isinstance(pending, dict) or not _is_pending(pending):
        raise ValueError("its sums of loss terms are damaged")
    if not isinstance(stored.get("recipe"), dict) or not stored["recipe"]:
        raise ValueError("it has no recipe")
    return {**stored, "best": float(best)}


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 31


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_judgement(row: Any) -> bool:
    if not isinstance(row, dict) or not all(_is_count(row.get(name)) for name in ("epoch", "step", "pictures")):
        return False
    metrics = row.get("metrics")
    return isinstance(metrics, dict) and all(value is None or _is_number(value) for value in metrics.values())


def _is_pending(pending: Mapping[str, Any]) -> bool:
    count, sums = pending.get("count"), pending.get("sums")
    if not _is_count(count) or not isinstance(sums, dict) or bool(count) != bool(sums):
        return False
    return sums.keys() <= {*TERMS, "heatmap"} and all(map(_is_number, sums.values()))
