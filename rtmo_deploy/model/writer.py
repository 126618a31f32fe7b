"""Writes checkpoints: the official .pth layout that MMPose loads, or .safetensors.

The same content gives the same bytes, as far as PyTorch's and safetensors' own versions are the same: strings
are copied so that pickle cannot tell them apart by identity, and safetensors' header, whose metadata comes in
random order, is sorted.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.model._checkpoint_meta import NotPlainError, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights and facts as a checkpoint; the file appears whole or not at all.

    Args:
        path: ``*.pth`` gets ``{"meta": ..., "state_dict": ...}``, which MMPose and
            ``torch.load(weights_only=True)`` read. ``*.safetensors`` gets the tensors, in an order of that
            library's choosing, and each entry of ``meta`` as JSON text in its metadata.
        tensors: The weights, written in the types they have.
        meta: Plain data: dict, list, tuple (written as a list), str, int, finite float, bool, None.

    Raises:
        UsageError: The file name ends in something else, or ``meta`` is not plain data.
        SetupError: The folder cannot be written to, or the disk is full.
    """
    if path.suffix not in (".pth", ".safetensors"):
        raise UsageError(
            f"A checkpoint cannot be written as {path.suffix!r}.",
            remedy="Name it .pth or .safetensors.",
            where=path,
        )
    try:
        facts: dict[str, Any] = plain(dict(meta))
    except NotPlainError as error:
        raise UsageError(
            f"The facts to write are not plain data: there is {error} among them.",
            remedy="Pass dict, list, str, int, float, bool and None only.",
            where=path,
        ) from None
    owned = _owned(tensors)
    with atomic_write(path) as temporary, _failures_as_os_errors():
        if path.suffix == ".pth":
            with temporary.open("wb") as stream:  # given a path, torch.save would write the name into the file
                torch.save({"meta": facts, "state_dict": owned}, stream)
        else:
            save_file(dict(owned), temporary, metadata={key: json.dumps(value) for key, value in facts.items()})
            _sort_header(temporary)


@contextlib.contextmanager
def _failures_as_os_errors() -> Iterator[None]:
    """Both libraries report a full disk as an error of their own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def _owned(tensors: Mapping[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """The tensors on the CPU, contiguous, none of them a window on more memory or on another's."""
    owned: OrderedDict[str, torch.Tensor] = OrderedDict()
    seen: set[int] = set()
    for key, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        storage = copy.untyped_storage()
        if storage.nbytes() != copy.nbytes or storage.data_ptr() in seen:
            copy = copy.clone()
        seen.add(copy.untyped_storage().data_ptr())
        owned[plain(key)] = copy
    return owned


def _sort_header(path: Path) -> None:
    with path.open("rb+") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            stream.seek(8)
            stream.write(text.ljust(length))
