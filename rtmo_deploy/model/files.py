"""The files checkpoints come in: archive and legacy stream of ``torch.save``, and .safetensors.

Numbers of a .pth file are read one storage at a time and only when they are asked for, so a training checkpoint's
optimizer never enters memory. What is written has the official layout that MMPose loads, and the same content gives
the same bytes, as far as PyTorch's and safetensors' own versions are the same.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save_file

from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import UnreadableError, atomic_write
from rtmo_deploy.model.facts import copied
from rtmo_deploy.model.pickled import DTYPES, StorageRef, TensorRef, damaged, quoted
from rtmo_deploy.model.unpickle import interpret
from rtmo_deploy.plain import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class CheckpointFile(NamedTuple):
    """An open checkpoint."""

    #: What its pickle describes; of a .safetensors file, its tensors by name.
    root: Any
    #: Size of the file in bytes.
    size: int
    #: Reads one storage as a tensor of uint8.
    fetch: Callable[[StorageRef], torch.Tensor]
    #: The metadata of a .safetensors file; None for any other.
    metadata: dict[str, str] | None = None


def read_file(stream: BinaryIO, kind: Kind) -> CheckpointFile:
    """What a checkpoint of this kind holds; its numbers can be fetched while the stream is open."""
    match kind:
        case Kind.TORCH | Kind.TORCHSCRIPT:
            return _read_zip(stream)
        case Kind.TORCH_LEGACY:
            return _read_legacy(stream)
        case Kind.SAFETENSORS:
            return _read_safetensors(stream)
    raise CheckpointError(f"It is {kind.article}.", remedy="Give a file written by torch.save.")


def _bytes_tensor(data: bytearray, ref: StorageRef) -> torch.Tensor:
    if len(data) != ref.nbytes:
        raise damaged(f"storage {quoted(ref.key)} has {len(data)} bytes, and its tensors need {ref.nbytes}")
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _require_little_endian(little: bool) -> None:
    if not little:
        raise CheckpointError(
            "The file was written on a big-endian machine.",
            remedy="Load it there and save the weights as .safetensors.",
        )


# -- the zip archive

_MOST_RECORDS = 20_000
_CHUNK = 1 << 20
# Everything that zipfile raises on archives that contradict themselves.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, IndexError, OSError),
)


def _read_zip(stream: BinaryIO) -> CheckpointFile:
    # Each entry of the table of contents begins so. Counted before zipfile makes an object of each.
    if sum(part.count(b"PK\x01\x02") for part in iter(lambda: stream.read(_CHUNK), b"")) > _MOST_RECORDS:
        raise damaged(f"it has more than {_MOST_RECORDS:,} records")
    size = stream.seek(0, 2)
    try:
        archive = zipfile.ZipFile(stream)
    except _ZIP_ERRORS:
        raise damaged("it begins like a checkpoint, but the table of contents at its end is missing or wrong") from None
    records = {record.filename: record for record in archive.infolist()}
    if len(records) != len(archive.infolist()):
        raise damaged("two records have the same name")
    folder = _check_records(records)
    if sum(record.file_size for record in records.values()) > size:
        raise damaged("its records are larger than the file")
    if all(record.CRC == 0 for record in records.values()):
        for record in records.values():  # written under torch.serialization.set_crc32_options(False)
            record.CRC = None  # type: ignore[assignment]

    def read(name: str) -> bytearray:
        name = folder + name
        if name not in records:
            raise damaged(f"the record {quoted(name)} is missing")
        try:
            data = bytearray(archive.read(records[name]))
        except _ZIP_ERRORS:
            raise damaged(f"the record {quoted(name)} does not match its check sum") from None
        if len(data) != records[name].file_size:
            raise damaged(f"the record {quoted(name)} is not whole")
        return data

    _require_little_endian(folder + "byteorder" not in records or read("byteorder") == b"little")
    root, _ = interpret(io.BytesIO(read("data.pkl")))
    return CheckpointFile(root, size, lambda ref: _bytes_tensor(read(f"data/{ref.key}"), ref))


def _check_records(records: Mapping[str, zipfile.ZipInfo]) -> str:
    """Refuse an archive of another program; the folder ("archive/") in which everything lies."""
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
    finding = ""
    if folder + "constants.pkl" in records or any(name.startswith(f"{folder}code/") for name in records):
        finding = "This is a TorchScript program, not a checkpoint."
        remedy = "Give the .pth file it was traced or scripted from."
    elif len(pickles) != 1:
        finding = f"This is a zip archive, but no checkpoint: it has {len(pickles)} records named data.pkl, not 1."
        remedy = "If the checkpoint was packed into it, unpack it first."
    elif any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records.values()):
        finding = "The archive's records are compressed or encrypted, which torch.save never does."
        remedy = "Give the file that torch.save wrote, not one that was packed again."
    if finding:
        raise CheckpointError(finding, remedy=remedy)
    return folder


# -- the legacy stream


def _read_legacy(stream: BinaryIO) -> CheckpointFile:
    size = stream.seek(0, 2)
    stream.seek(0)
    magic, protocol, system = (interpret(stream)[0] for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != 1001 or not isinstance(system, dict):
        raise damaged("its header is not that of torch.save")
    _require_little_endian(system.get("little_endian") is True)
    root, storages = interpret(stream)
    keys, _ = interpret(stream)
    if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != set(storages):
        raise damaged("its list of storages does not match its tensors")
    starts: dict[str, int] = {}
    for key in keys:
        ref = storages[key]
        head = stream.read(8)
        if len(head) != 8 or struct.unpack("<q", head)[0] != ref.numel or key in starts:
            raise damaged(f"storage {quoted(key)} is not where it should be")
        starts[key] = stream.tell()
        if starts[key] + ref.nbytes > size:
            raise damaged(f"storage {quoted(key)} is not whole")
        stream.seek(ref.nbytes, 1)

    def fetch(ref: StorageRef) -> torch.Tensor:
        stream.seek(starts[ref.key])
        return _bytes_tensor(bytearray(stream.read(ref.nbytes)), ref)

    return CheckpointFile(root, size, fetch)


# -- .safetensors

#: Bytes of a header that are read; that of RTMO-l has 0.1 MB.
MAX_HEADER = 8 << 20
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def _read_safetensors(stream: BinaryIO) -> CheckpointFile:
    """The header is checked before the library sees the file."""
    length = int.from_bytes(stream.read(8), "little")
    if length > MAX_HEADER:
        raise damaged(f"its header claims {length:,} bytes; at most {MAX_HEADER:,} are read")
    raw = stream.read(length)
    try:
        header = parse_json(raw)
        json.loads(raw, object_pairs_hook=_refuse_repeats)
    except UnreadableError as error:
        raise damaged(f"of its header, {error}") from None
    if not isinstance(header, dict):
        raise damaged("its header is not a dictionary")
    metadata = header.pop("__metadata__", {})
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and f"torch.{_DTYPES.get(dtype)}" not in DTYPES:
            raise unreadable_dtype(name, dtype)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise damaged("its metadata is not a dictionary of text")
    stream.seek(0)
    content = stream.read()
    refs, data = {}, {}
    try:
        found = dict(deserialize(content))  # type: ignore[no-untyped-call]
        for name in header:
            entry = found[name]
            dtype, size = DTYPES[f"torch.{_DTYPES[entry['dtype']]}"], tuple(entry["shape"])
            stride = torch.empty(size, dtype=dtype, device="meta").stride()
            refs[name] = TensorRef(StorageRef(name, dtype, math.prod(size)), dtype, 0, size, stride)
            data[name] = entry["data"]
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(quoted(str(error))) from None
    return CheckpointFile(refs, len(content), lambda ref: _bytes_tensor(data[ref.key], ref), metadata)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise UnreadableError("an entry is there twice")


def unreadable_dtype(name: str, dtype: object) -> CheckpointError:
    """The error for a tensor of a type that cannot become float32."""
    return CheckpointError(
        f"The tensor {quoted(name)} is stored as {quoted(str(dtype).removeprefix('torch.'))}, which is not read here.",
        remedy="Save the weights as float32 or float16.",
    )


# -- writing


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights and facts as a checkpoint; the file appears whole or not at all."""
    if path.suffix not in (".pth", ".safetensors"):
        raise UsageError(
            f"A checkpoint cannot be written as {path.suffix!r}.", remedy="Name it .pth or .safetensors.", where=path
        )
    try:
        facts: dict[str, Any] = copied(dict(meta))
    except ValueError as error:
        raise UsageError(
            f"The facts to write are not plain data: there is {error} among them.",
            remedy="Pass dict, list, str, int, float, bool and None only.",
            where=path,
        ) from None
    owned = _owned(tensors)
    with atomic_write(path) as temporary:
        try:
            if path.suffix == ".pth":
                with temporary.open("wb") as stream:  # given a path, torch.save would write the name into the file
                    torch.save({"meta": facts, "state_dict": owned}, stream)
            else:
                save_file(dict(owned), temporary, metadata={key: json.dumps(value) for key, value in facts.items()})
                _sort_header(temporary)
        except (RuntimeError, SafetensorError) as error:  # how both libraries report a full disk
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
        owned[copied(key)] = copy
    return owned


def _sort_header(path: Path) -> None:
    """Put the metadata of a .safetensors file, which comes in random order, in order."""
    with path.open("rb+") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            stream.seek(8)
            stream.write(text.ljust(length))
