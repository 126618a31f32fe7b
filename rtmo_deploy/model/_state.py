"""Finds the state dict in a checkpoint's dictionary, and the names of its tensors under a wrapper's prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model._pickle_refs import Inert, TensorRef, kind_of, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FORMAT_REMEDY = "Give a checkpoint with a 'state_dict', as MMEngine and this project write it."
SAVE_STATE = "Save the weights alone, where it was made: torch.save({'state_dict': model.state_dict()}, ...)."
MAX_TENSORS = 20_000
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_EMA = ("ema_state_dict", "ema", "ema_model", "model_ema")
_INNER = (*_USUAL, *_EMA, "module")
_DEPTH = 3
#: Counters that averaged models keep among their tensors (MMEngine; torch.optim.swa_utils).
_COUNTERS = ("steps", "n_averaged")


def choose(root: dict[Any, Any], path: Path, *, ema: bool) -> tuple[str, dict[Any, Any], bool]:
    """The state dict that is meant: where it is ("state_dict", "model", "ema.module", "root"), itself, any EMA weights.

    Raises:
        CheckpointError: There is none, or more than one that may be meant.
    """
    averaged = _states(root, _EMA)
    found = averaged if ema else _states(root, _USUAL) or _bare(root) or averaged
    if len(found) == 1:
        ((where, state),) = found.items()
        return where, state, bool(averaged)
    if found:
        raise CheckpointError(
            f"The file has several sets of weights: {', '.join(map(quoted, found))}.",
            remedy="Save the one that is meant alone: torch.save({'state_dict': weights}, ...).",
            where=path,
        )
    for name in _EMA if ema else (*_USUAL, *_EMA):
        value = root.get(name)
        if isinstance(value, Inert):
            raise CheckpointError(
                f"Its {name} is a pickled {kind_of(value)}, a whole model and not a state dict. Nothing of it was run.",
                remedy=SAVE_STATE,
                where=path,
            )
        if name.endswith("state_dict") and name in root and not isinstance(value, dict):
            raise CheckpointError(f"Its {name} is a {kind_of(value)}.", remedy=FORMAT_REMEDY, where=path)
    if ema:
        raise CheckpointError(
            "The file has no ema_state_dict; only training checkpoints have one.",
            remedy="Read it without asking for EMA: published checkpoints hold the averaged weights already.",
            where=path,
        )
    keys = ", ".join(quoted(key) for key in list(root)[:8] if isinstance(key, str)) or "nothing"
    raise CheckpointError(f"There is no state_dict in this file; it has {keys}.", remedy=FORMAT_REMEDY, where=path)


def _states(node: dict[Any, Any], names: Iterable[str], depth: int = _DEPTH) -> dict[str, dict[Any, Any]]:
    """State dicts under these names or under usual names within them; of several, those that hold a tensor."""
    found: dict[str, dict[Any, Any]] = {}
    for name in names if depth else ():
        value = node.get(name)
        if isinstance(value, dict):
            inner = {f"{name}.{key}": state for key, state in _states(value, _INNER, depth - 1).items()}
            found |= inner or ({name: value} if name.endswith("state_dict") or _has_tensors(value) else {})
    filled = {name: state for name, state in found.items() if _has_tensors(state)}
    return filled if len(found) > 1 and filled else found


def _has_tensors(state: dict[Any, Any]) -> bool:
    return any(isinstance(value, TensorRef) for value in state.values())


def _bare(root: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    """The file's dictionary itself, if most of it is tensors."""
    tensors = sum(isinstance(value, TensorRef) for value in root.values())
    return {"root": root} if 2 * tensors > len(root) else {}


def tensor_refs(state: dict[Any, Any], where: str, path: Path) -> dict[str, TensorRef]:
    """The tensors of a state dict, without the counter of an averaged model.

    Raises:
        CheckpointError: It is empty, too large, or an entry is not a tensor with a name.
    """
    for key, value in state.items():
        if type(key) is not str or type(value) is not TensorRef:
            name = quoted(key) if type(key) is str else f"of type {kind_of(key)}"
            raise CheckpointError(
                f"The entry {name} of its {where} is not a named tensor but a {kind_of(value)}.",
                remedy=f"{FORMAT_REMEDY} Its entries must be dense tensors.",
                where=path,
            )
    refs = {key: ref for key, ref in state.items() if key not in _COUNTERS}
    if where == "ema_state_dict" and any(key.startswith("module.") for key in refs):
        refs = {key: ref for key, ref in refs.items() if key.startswith("module.")}
    if not refs:
        raise CheckpointError(f"Its {where} is empty.", remedy=FORMAT_REMEDY, where=path)
    return refs


def names_of(keys: Iterable[str], path: Path) -> dict[str, str]:
    """From each name to its key in the file, where wrappers may have put ``module.`` or ``_orig_mod.`` into it.

    Raises:
        CheckpointError: Two keys have one name, or there are more than any network has.
    """
    names: dict[str, str] = {}
    for key in keys:
        name = ".".join(part for part in key.split(".") if part != "_orig_mod")  # torch.compile, at any depth
        while name.startswith("module."):  # DataParallel
            name = name.removeprefix("module.")
        if name in names:
            raise CheckpointError(
                f"The tensor {quoted(name)} is there twice, with and without a wrapper's prefix before its name.",
                remedy="Save the state dict of one model alone.",
                where=path,
            )
        names[name] = key
    if len(names) > MAX_TENSORS:
        raise CheckpointError(
            f"It has {len(names):,} tensors; no RTMO model has more than {MAX_TENSORS:,}.",
            remedy=FORMAT_REMEDY,
            where=path,
        )
    return names
