"""Checkpoint files in, tensors and a few facts out; and back.

This module knows files, not models: whose weights these are is recognised elsewhere. It runs no code out of a
file (see :mod:`rtmo_deploy.model.unpickle`) and needs neither MMEngine nor MMPose.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model._checkpoint_meta import config_of, read_facts, read_strings
from rtmo_deploy.model._containers import identify, open_torch_file
from rtmo_deploy.model._pickle_refs import Inert, TensorRef, kind_of, quoted
from rtmo_deploy.model._safetensors import read_safetensors, unreadable_dtype
from rtmo_deploy.model._state import FORMAT_REMEDY, SAVE_STATE, choose, names_of, tensor_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from rtmo_deploy.model._containers import TorchFile

# Tensors may share numbers (tied weights, broadcast views), and float8 grows to float32. Past this multiple of the
# file, they are refused.
_MAX_GROWTH = 4
# Values in the entries that read_entries gives, and how deep they lie in each other.
_MAX_VALUES, _MAX_DEPTH = 1_000_000, 16


@dataclass(frozen=True, eq=False)
class CheckpointContents:
    """What a checkpoint file holds.

    Attributes:
        tensors: The chosen state dict on the CPU, in the file's order, without ``module.`` before its keys and
            ``_orig_mod.`` in them.
            Floating-point tensors are float32, whatever they were stored as; the others are as stored. No
            two of them share memory.
        source: Where in the file it was: "state_dict", "ema_state_dict", "model", "ema.module" and so on, "root" (the
            file is a bare state dict) or "safetensors".
        has_ema: Whether the file has an ``ema_state_dict`` (or ``ema``) as well.
        stored_dtype: What most floating-point values were stored as, for example "float16".
        meta: Facts from the file's ``meta``, ready for JSON, as many as are there: ``epoch``, ``iter``,
            ``time``, ``seed``, ``experiment_name``, ``mmengine_version``, ``mmpose_version``,
            ``dataset_meta`` (``dataset_name``, ``num_keypoints``, ``keypoint_names``), and this project's own
            ``rtmo_deploy``. Of a .safetensors file: all its metadata but the config, JSON values decoded.
        config: The ``cfg`` of the file's ``meta`` as it stands there: text or a dict; None if it has none.
    """

    tensors: dict[str, torch.Tensor]
    source: str
    has_ema: bool
    stored_dtype: str
    meta: dict[str, Any]
    config: Any = None


def read_checkpoint(path: Path, *, ema: bool = False, allow_non_finite: bool = False) -> CheckpointContents:
    """Read a checkpoint: .pth of ``torch.save`` (both formats), or .safetensors.

    On ``ema``: MMEngine's EMAHook, just before a training checkpoint is saved, puts the averaged model under
    ``ema_state_dict``, and then swaps the value of every key that begins with ``module.`` there with its
    counterpart in ``state_dict``. So ``state_dict``, which is read by default, already holds the averaged
    weights, and ``ema_state_dict`` holds the raw ones that training goes on from, under ``module.`` names,
    beside a counter ``steps`` that is left out here. Published checkpoints have no ``ema_state_dict``. In the
    files of other trainers the name may mean what it says.

    Args:
        path: The file.
        ema: Take ``ema_state_dict`` instead of ``state_dict``. Without, it is taken only if there is nothing else.
        allow_non_finite: Accept NaN and Inf among the weights.

    Raises:
        CheckpointError: There is no such file; it is damaged, unsafe, or no checkpoint; it lacks the state
            dict asked for; or weights are NaN or Inf.
        SetupError: The file may not be read.
    """
    form = identify(path)
    if form == "safetensors":
        contents = _read_safetensors(path, ema=ema)
    else:
        with open_torch_file(path, form) as file:
            contents = _read_torch(file, path, ema=ema)
    if not allow_non_finite:
        check_finite(contents.tensors, path)
    return contents


def read_entries(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Top-level entries of a file of ``torch.save``: dicts, lists, text, numbers and tensors, None for a missing one.

    Raises:
        CheckpointError: It is no such file, is damaged, or an entry holds something else or is nested too deep.
        SetupError: The file may not be read.
    """
    form = identify(path)
    if form == "safetensors":
        raise CheckpointError("A .safetensors file has weights alone.", remedy="Give a .pth file.", where=path)
    refs: dict[str, TensorRef] = {}
    count = 0

    def plain(value: Any, depth: int, tensor: Callable[[TensorRef], Any]) -> Any:
        nonlocal count
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise CheckpointError("Its entries are nested too deep or too many.", remedy=FORMAT_REMEDY, where=path)
        if isinstance(value, TensorRef):
            return tensor(value)
        if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
            return {key: plain(one, depth + 1, tensor) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one, depth + 1, tensor) for one in value]
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise CheckpointError(f"It holds a {kind_of(value)}.", remedy=FORMAT_REMEDY, where=path)

    with open_torch_file(path, form) as file:
        root = file.root if isinstance(file.root, dict) else {}
        chosen = {name: root.get(name) for name in names}
        plain(chosen, 0, lambda ref: refs.setdefault(str(id(ref)), ref))
        tensors = _load(file, refs, path)
    count = 0
    found: dict[str, Any] = plain(chosen, 0, lambda ref: tensors[str(id(ref))])
    return found


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse weights with NaN or Inf among them.

    Raises:
        CheckpointError: There are some; the message names the first tensor and says how many values.
    """
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
            where=path,
        )


# -- files of torch.save


def _read_torch(file: TorchFile, path: Path, *, ema: bool) -> CheckpointContents:
    root = file.root
    if not isinstance(root, dict):
        whole = isinstance(root, Inert)
        raise CheckpointError(
            f"The file holds a pickled {kind_of(root)}, not a checkpoint's dictionary"
            f"{': a whole model, saved by torch.save(model). Nothing of it was run' if whole else ''}.",
            remedy=SAVE_STATE,
            where=path,
        )
    source, state, has_ema = choose(root, path, ema=ema)
    refs = tensor_refs(state, source, path)
    meta = root.get("meta") if source != "root" else None
    return CheckpointContents(
        tensors=_load(file, {name: refs[key] for name, key in names_of(refs, path).items()}, path),
        source=source,
        has_ema=has_ema,
        stored_dtype=_usual_dtype((ref.dtype, ref.nbytes // ref.dtype.itemsize) for ref in refs.values()),
        meta=read_facts(meta, path) if isinstance(meta, dict) else {},
        config=config_of(meta) if isinstance(meta, dict) else None,
    )


def _load(file: TorchFile, refs: Mapping[str, TensorRef], path: Path) -> dict[str, torch.Tensor]:
    if sum(map(_loaded_bytes, refs.values())) > _MAX_GROWTH * file.size:
        raise CheckpointError(
            "Its tensors claim to have many times more values than the file has bytes.",
            remedy="The file is damaged or hostile; get it from its source again.",
            where=path,
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
        tensors[name] = _assemble(raw, ref, owned=not uses[key] and raw.numel() == ref.nbytes)
        if _must_widen(tensors[name]):
            tensors[name] = _widened(name, tensors[name], path)
    return tensors


def _loaded_bytes(ref: TensorRef) -> int:
    """Bytes of a tensor in memory, where floating-point values are float32."""
    count = ref.nbytes // ref.dtype.itemsize
    return count * (torch.float32.itemsize if ref.dtype.is_floating_point else ref.dtype.itemsize)


def _assemble(raw: torch.Tensor, ref: TensorRef, *, owned: bool) -> torch.Tensor:
    """The tensor a reference describes, as it is stored; in memory of its own where it need not be widened."""
    width = ref.dtype.itemsize
    flat = raw.ne(0) if ref.dtype == torch.bool else raw[: raw.numel() // width * width].view(ref.dtype)
    tensor = torch.as_strided(flat, ref.size, ref.stride, ref.offset)
    if _must_widen(tensor):
        return tensor
    return tensor.contiguous() if owned else tensor.clone(memory_format=torch.contiguous_format)


def _must_widen(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _widened(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    try:
        return tensor.to(torch.float32, memory_format=torch.contiguous_format)
    except (NotImplementedError, RuntimeError):  # float4: two values in a byte
        raise unreadable_dtype(name, tensor.dtype, path) from None


def _usual_dtype(counted: Iterable[tuple[torch.dtype, int]]) -> str:
    counts: Counter[torch.dtype] = Counter()
    for dtype, count in counted:
        counts[dtype] += count + 1
    floating = {dtype: count for dtype, count in counts.items() if dtype.is_floating_point} or counts
    return str(max(floating, key=lambda dtype: floating[dtype])).removeprefix("torch.")


# -- safetensors


def _read_safetensors(path: Path, *, ema: bool) -> CheckpointContents:
    if ema:
        raise CheckpointError(
            "A .safetensors file has one set of weights and no ema_state_dict.",
            remedy="Read it without asking for EMA, or give the training checkpoint (.pth).",
            where=path,
        )
    tensors: dict[str, torch.Tensor] = {}
    stored: list[tuple[torch.dtype, int]] = []
    found, metadata = read_safetensors(path)
    for name, tensor in found:
        stored.append((tensor.dtype, tensor.numel()))
        tensors[name] = _widened(name, tensor, path) if _must_widen(tensor) else tensor.clone()
    if not tensors:
        raise CheckpointError("The file holds no tensors.", remedy=FORMAT_REMEDY, where=path)
    facts = read_strings(metadata, path)
    config = config_of(facts)
    facts.pop("cfg", None)
    return CheckpointContents(
        tensors=tensors,
        source="safetensors",
        has_ema=False,
        stored_dtype=_usual_dtype(stored),
        meta=facts,
        config=config,
    )
