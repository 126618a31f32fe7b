"""Checks a training state as a whole against the run that takes it up; what a file says is never taken on trust.

Every check raises ValueError with a clause that says what is wrong, and returns what may be restored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from rtmo_deploy.train.criterion import TERMS
from rtmo_deploy.train.start import is_network_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.model import NetworkSpec
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.train.recipe import Recipe

_COUNTS = ("epoch", "step", "pictures")


def check_network(spec: NetworkSpec, recipe: Recipe, skeleton: Skeleton) -> None:
    """The weights must be of the recipe's network and keypoints."""
    if not is_network_of(spec, recipe) or spec.num_keypoints != len(skeleton):
        raise ValueError("its weights are of another network than the recipe's")


def check_tensors(stored: Any, own: Mapping[str, torch.Tensor], what: str) -> None:
    """Names, shapes, types and finite values of a state dict."""
    if not isinstance(stored, dict) or stored.keys() != own.keys():
        raise ValueError(f"the {what} in it are missing or others")
    for name, tensor in own.items():
        _check_tensor(stored[name], tensor, what)


def check_optimizer(stored: Any, optimizer: torch.optim.Optimizer, *, skipped: bool) -> dict[str, Any]:
    """Moments of every parameter. Rates and options are the recipe's, not the file's.

    Args:
        stored: ``optimizer`` of the file.
        optimizer: The run's, AdamW.
        skipped: Steps may have been skipped, and every moment with them.
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


def _check_tensor(stored: Any, own: torch.Tensor, what: str) -> None:
    if not isinstance(stored, torch.Tensor) or stored.shape != own.shape or stored.dtype != own.dtype:
        raise ValueError(f"the {what} in it have another shape or type than the network's")
    if not torch.isfinite(stored).all():
        raise ValueError(f"there is NaN or Inf among the {what} in it")


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 31


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_judgement(row: Any) -> bool:
    if not isinstance(row, dict) or not all(_is_count(row.get(name)) for name in _COUNTS):
        return False
    metrics = row.get("metrics")
    return isinstance(metrics, dict) and all(value is None or _is_number(value) for value in metrics.values())


def _is_pending(pending: Mapping[str, Any]) -> bool:
    count, sums = pending.get("count"), pending.get("sums")
    if not _is_count(count) or not isinstance(sums, dict) or bool(count) != bool(sums):
        return False
    return sums.keys() <= {*TERMS, "heatmap"} and all(map(_is_number, sums.values()))
