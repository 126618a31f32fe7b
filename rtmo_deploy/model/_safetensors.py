"""Reads .safetensors files: the header is checked here before the library sees the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from safetensors import SafetensorError, safe_open

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.files import UnreadableError
from rtmo_deploy.model._containers import open_file
from rtmo_deploy.model._pickle_refs import quoted
from rtmo_deploy.model._state import names_of
from rtmo_deploy.plain import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

#: Bytes of a header that are read; that of RTMO-l has 0.1 MB.
MAX_HEADER = 8 << 20
_DTYPES = {
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64",
    "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[Iterator[tuple[str, torch.Tensor]], dict[str, str]]:
    """Tensors, by name and as they are stored, one after the other; and the metadata.

    A tensor is a window on the file and changes when the file does: copy it.

    Raises:
        CheckpointError: The file is damaged, or a tensor is of a type that is not read. The iterator raises it too.
        SetupError: The file may not be read.
    """
    with open_file(path) as stream:
        header = _header(stream, path)
    metadata = header.pop("__metadata__", {})
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and dtype not in _DTYPES:
            raise unreadable_dtype(name, dtype, path)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _damaged(path, "its metadata is not a dictionary of text")
    return _tensors(path), metadata


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name, key in names_of(file.keys(), path).items():
                yield name, file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        _damaged(path, quoted(str(error)))


def _header(stream: BinaryIO, path: Path) -> dict[str, Any]:
    length = int.from_bytes(stream.read(8), "little")
    if length > MAX_HEADER:
        _damaged(path, f"its header claims {length:,} bytes; at most {MAX_HEADER:,} are read")
    raw = stream.read(length)
    try:
        header = parse_json(raw)
        json.loads(raw, object_pairs_hook=_once)
    except UnreadableError as error:
        _damaged(path, f"of its header, {error}")
    if not isinstance(header, dict):
        _damaged(path, "its header is not a dictionary")
    return header


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise UnreadableError("an entry is there twice")


def unreadable_dtype(name: str, dtype: object, path: Path) -> CheckpointError:
    """The error for a tensor of a type that cannot become float32."""
    return CheckpointError(
        f"The tensor {quoted(name)} is stored as {quoted(str(dtype).removeprefix('torch.'))}, which is not read here.",
        remedy="Save the weights as float32 or float16.",
        where=path,
    )


def _damaged(path: Path, why: str) -> NoReturn:
    raise CheckpointError(
        f"The safetensors file is damaged or was cut short: {why}.",
        remedy="Fetch or copy the file again, and compare its size or SHA-256 with the source.",
        where=path,
    ) from None
