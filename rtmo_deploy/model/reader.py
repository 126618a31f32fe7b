"""Checkpoint files in, tensors and a few facts out.

This module knows files, not models: whose weights these are is recognised elsewhere. It runs no code out of a
file (see :mod:`rtmo_deploy.model.unpickle`) and needs neither MMEngine nor MMPose.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy.errors import CheckpointError, SetupError, located
from rtmo_deploy.file_kind import CHECKPOINT, require
from rtmo_deploy.files import open_regular, reading
from rtmo_deploy.model.facts import decoded, read_facts
from rtmo_deploy.model.files import CheckpointFile, read_file, unreadable_dtype
from rtmo_deploy.model.pickled import Inert, TensorRef, kind_of, quoted
from rtmo_deploy.model.unpickle import SAVE_STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

_FORMAT_REMEDY = "Give a checkpoint with a 'state_dict', as MMEngine and this project write it."
_SAVE_REMEDY = f"Save the weights alone, where it was made: {SAVE_STATE}."
# Tensors may share numbers (tied weights, broadcast views), and float8 grows to float32. Past this multiple of the
# file, they are refused.
_MAX_GROWTH = 4
_MAX_TENSORS = 20_000
# Values in the entries that read_training gives, and how deep they lie in each other.
_MAX_VALUES, _MAX_DEPTH = 1_000_000, 16

_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_EMA = ("ema_state_dict", "ema", "ema_model", "model_ema")
_INNER = (*_USUAL, *_EMA, "module")
_INNER_DEPTH = 3
#: Counters that averaged models keep among their tensors (MMEngine; torch.optim.swa_utils).
_COUNTERS = ("steps", "n_averaged")


@dataclass(frozen=True, eq=False)
class CheckpointContents:
    """What a checkpoint file holds."""

    #: The chosen state dict on the CPU, in the file's order, without ``module.`` before its keys and ``_orig_mod.`` in
    #: them. Floating-point tensors are float32, whatever they were stored as; the others are as stored. No two of
    #: them share memory.
    tensors: dict[str, torch.Tensor]
    #: Where in the file it was: "state_dict", "ema_state_dict", "model", "ema.module" and so on, "root" (the file is a
    #: bare state dict) or "safetensors".
    source: str
    #: Whether the file has an ``ema_state_dict`` (or ``ema``) as well.
    has_ema: bool
    #: What most floating-point values were stored as, for example "float16".
    stored_dtype: str
    #: Facts of the file's ``meta``, ready for JSON: see :func:`rtmo_deploy.model.facts.read_facts`. Of a .safetensors
    #: file, all its metadata but the config, JSON values decoded.
    meta: dict[str, Any]
    #: The ``cfg`` of the file's ``meta`` as it stands there: text or a dict; None if it has none.
    config: Any = None

    @property
    def record(self) -> dict[str, Any]:
        """This project's record in ``meta``; empty if there is none."""
        stored = self.meta.get("rtmo_deploy")
        return stored if isinstance(stored, dict) else {}


def read_checkpoint(path: Path, *, ema: bool = False) -> CheckpointContents:
    """Read a checkpoint: .pth of ``torch.save`` (both formats), or .safetensors.

    On ``ema``: MMEngine's EMAHook, just before a training checkpoint is saved, puts the averaged model under
    ``ema_state_dict``, and then swaps the value of every key that begins with ``module.`` there with its
    counterpart in ``state_dict``. So ``state_dict``, which is read by default, already holds the averaged
    weights, and ``ema_state_dict`` holds the raw ones that training goes on from, under ``module.`` names,
    beside a counter ``steps`` that is left out here. Published checkpoints have no ``ema_state_dict``. In the
    files of other trainers the name may mean what it says.
    """
    with _opened(path) as file:
        return _contents(file, ema=ema)


def read_training(path: Path, names: Iterable[str]) -> tuple[CheckpointContents, CheckpointContents, dict[str, Any]]:
    """Of a training checkpoint ``ema_state_dict``, ``state_dict``, and other top-level entries; the file is read once.

    Entries are dicts, lists, text, numbers and tensors, None for a missing one.
    """
    with _opened(path) as file:
        return _contents(file, ema=True), _contents(file, ema=False), _entries(file, names)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[CheckpointFile]:
    remedy = "Check its permissions, and the disk or network share it lies on."
    kind = require(path, CHECKPOINT)
    with located(path), reading(path, SetupError, remedy=remedy), open_regular(path) as stream:
        yield read_file(stream, kind)


def _contents(file: CheckpointFile, *, ema: bool) -> CheckpointContents:
    root = file.root
    if not isinstance(root, dict):
        whole = ": a whole model, saved by torch.save(model). Nothing of it was run" if isinstance(root, Inert) else ""
        raise CheckpointError(
            f"The file holds a pickled {kind_of(root)}, not a checkpoint's dictionary{whole}.", remedy=_SAVE_REMEDY
        )
    if file.metadata is not None and not root:
        raise CheckpointError("The file holds no tensors.", remedy=_FORMAT_REMEDY)
    source, state, has_ema = _choose(root, ema=ema)
    refs = _tensor_refs(state, source)
    meta = root.get("meta") if source != "root" else None
    if file.metadata is not None:
        source, meta = "safetensors", decoded(file.metadata)
    meta = meta if isinstance(meta, dict) else {}
    facts = read_facts(meta)
    if file.metadata is not None:
        facts = {key: value for key, value in meta.items() if key != "cfg"} | facts
    tensors = _load(file, {name: refs[key] for name, key in _names_of(refs).items()})
    check_finite(tensors)
    config = meta.get("cfg", meta.get("config"))  # MMEngine's; "config" in older files
    return CheckpointContents(tensors, source, has_ema, _usual_dtype(refs.values()), facts, config)


def _entries(file: CheckpointFile, names: Iterable[str]) -> dict[str, Any]:
    refs: dict[str, TensorRef] = {}
    count = 0

    def copied(value: Any, depth: int, tensor: Callable[[TensorRef], Any]) -> Any:
        nonlocal count
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise CheckpointError("Its entries are nested too deep or too many.", remedy=_FORMAT_REMEDY)
        if isinstance(value, TensorRef):
            return tensor(value)
        if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
            return {key: copied(one, depth + 1, tensor) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [copied(one, depth + 1, tensor) for one in value]
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise CheckpointError(f"It holds a {kind_of(value)}.", remedy=_FORMAT_REMEDY)

    chosen = {name: file.root.get(name) for name in names}
    copied(chosen, 0, lambda ref: refs.setdefault(str(id(ref)), ref))
    tensors = _load(file, refs)
    count = 0
    found: dict[str, Any] = copied(chosen, 0, lambda ref: tensors[str(id(ref))])
    return found


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights with NaN or Inf among them."""
    counts = {
        key: int(tensor.numel() - torch.isfinite(tensor).sum())
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    }
    if counts:
        raise CheckpointError(
            f"{sum(counts.values())} weights are NaN or Inf, in {len(counts)} tensors, the first of them "
            f"{quoted(next(iter(counts)))}.",
            remedy="The training diverged or the file is damaged: take an earlier checkpoint.",
        )


# -- where the state dict is, and the names of its tensors


def _choose(root: dict[Any, Any], *, ema: bool) -> tuple[str, dict[Any, Any], bool]:
    """The state dict that is meant: where it is (such as "state_dict" or "root"), itself, any EMA weights."""
    averaged = _states(root, _EMA)
    # The file's dictionary itself, if most of it is tensors.
    bare = {"root": root} if 2 * sum(isinstance(value, TensorRef) for value in root.values()) > len(root) else {}
    found = averaged if ema else _states(root, _USUAL) or bare or averaged
    if len(found) == 1:
        ((where, state),) = found.items()
        return where, state, bool(averaged)
    if found:
        raise CheckpointError(
            f"The file has several sets of weights: {', '.join(map(quoted, found))}.",
            remedy="Save the one that is meant alone: torch.save({'state_dict': weights}, ...).",
        )
    for name in _EMA if ema else (*_USUAL, *_EMA):
        value = root.get(name)
        if isinstance(value, Inert):
            raise CheckpointError(
                f"Its {name} is a pickled {kind_of(value)}, a whole model and not a state dict. Nothing of it was run.",
                remedy=_SAVE_REMEDY,
            )
        if name.endswith("state_dict") and name in root and not isinstance(value, dict):
            raise CheckpointError(f"Its {name} is a {kind_of(value)}.", remedy=_FORMAT_REMEDY)
    if ema:
        raise CheckpointError(
            "The file has no ema_state_dict; only training checkpoints have one.",
            remedy="Read it without asking for EMA: published checkpoints hold the averaged weights already.",
        )
    keys = ", ".join(quoted(key) for key in list(root)[:8] if isinstance(key, str)) or "nothing"
    raise CheckpointError(f"There is no state_dict in this file; it has {keys}.", remedy=_FORMAT_REMEDY)


def _states(node: dict[Any, Any], names: Iterable[str], depth: int = _INNER_DEPTH) -> dict[str, dict[Any, Any]]:
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


def _tensor_refs(state: dict[Any, Any], where: str) -> dict[str, TensorRef]:
    """The tensors of a state dict, without the counter of an averaged model."""
    for key, value in state.items():
        if type(key) is not str or type(value) is not TensorRef:
            name = quoted(key) if type(key) is str else f"of type {kind_of(key)}"
            raise CheckpointError(
                f"The entry {name} of its {where} is not a named tensor but a {kind_of(value)}.",
                remedy=f"{_FORMAT_REMEDY} Its entries must be dense tensors.",
            )
    refs = {key: ref for key, ref in state.items() if key not in _COUNTERS}
    if where == "ema_state_dict" and any(key.startswith("module.") for key in refs):
        refs = {key: ref for key, ref in refs.items() if key.startswith("module.")}
    if not refs:
        raise CheckpointError(f"Its {where} is empty.", remedy=_FORMAT_REMEDY)
    return refs


def _names_of(keys: Iterable[str]) -> dict[str, str]:
    """From each name to its key in the file, where wrappers may have put ``module.`` or ``_orig_mod.`` into it."""
    names: dict[str, str] = {}
    for key in keys:
        name = ".".join(part for part in key.split(".") if part != "_orig_mod")  # torch.compile, at any depth
        while name.startswith("module."):  # DataParallel
            name = name.removeprefix("module.")
        if name in names:
            raise CheckpointError(
                f"The tensor {quoted(name)} is there twice, with and without a wrapper's prefix before its name.",
                remedy="Save the state dict of one model alone.",
            )
        names[name] = key
    if len(names) > _MAX_TENSORS:
        raise CheckpointError(
            f"It has {len(names):,} tensors; no RTMO model has more than {_MAX_TENSORS:,}.",
            remedy=_FORMAT_REMEDY,
        )
    return names


# -- the numbers


def _load(file: CheckpointFile, refs: Mapping[str, TensorRef]) -> dict[str, torch.Tensor]:
    # In memory, floating-point values are float32.
    sizes = (4 if ref.dtype.is_floating_point else ref.dtype.itemsize for ref in refs.values())
    if sum(ref.numel * size for ref, size in zip(refs.values(), sizes, strict=True)) > _MAX_GROWTH * file.size:
        raise CheckpointError(
            "Its tensors claim to have many times more values than the file has bytes.",
            remedy="The file is damaged or hostile; get it from its source again.",
        )
    uses = Counter(ref.storage.key for ref in refs.values())
    shared: dict[str, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, ref in refs.items():
        key = ref.storage.key
        raw = shared.pop(key) if key in shared else file.fetch(ref.storage)
        uses[key] -= 1
        if uses[key]:
            shared[key] = raw
        tensor = _view(raw, ref)
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            try:
                tensors[name] = tensor.to(torch.float32, memory_format=torch.contiguous_format)
            except (NotImplementedError, RuntimeError):  # float4: two values in a byte
                raise unreadable_dtype(name, tensor.dtype) from None
        elif not uses[key] and raw.numel() == tensor.nbytes:
            tensors[name] = tensor.contiguous()
        else:  # in memory of its own
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    return tensors


def _view(raw: torch.Tensor, ref: TensorRef) -> torch.Tensor:
    """The tensor a reference describes, as it is stored, on the bytes of its storage."""
    width = ref.dtype.itemsize
    flat = raw.ne(0) if ref.dtype == torch.bool else raw[: raw.numel() // width * width].view(ref.dtype)
    return torch.as_strided(flat, ref.size, ref.stride, ref.offset)


def _usual_dtype(refs: Iterable[TensorRef]) -> str:
    counts: Counter[torch.dtype] = Counter()
    for ref in refs:
        counts[ref.dtype] += ref.numel + 1
    floating = {dtype: count for dtype, count in counts.items() if dtype.is_floating_point} or counts
    return str(max(floating, key=lambda dtype: floating[dtype])).removeprefix("torch.")
