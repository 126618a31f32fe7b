"""The files checkpoints come in, read and written: archive and legacy stream of ``torch.save``, and .safetensors.

Numbers are read one storage at a time and only when they are asked for, so a training checkpoint's optimizer never
enters memory. What is written has the official layout that MMPose loads, and the same content gives the same bytes,
as far as PyTorch's and safetensors' own versions are the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rtmo_deploy.errors import CheckpointError, SetupError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, Kind, require
from rtmo_deploy.files import UnreadableError, atomic_write, open_regular, reading
from rtmo_deploy.model.facts import copied
from rtmo_deploy.model.pickled import quoted
from rtmo_deploy.model.unpickle import interpret
from rtmo_deploy.plain import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rtmo_deploy.model.pickled import StorageRef

Form = Literal["zip", "legacy", "safetensors"]
_FORMS: dict[Kind, Form] = {
    Kind.TORCH: "zip",
    Kind.TORCHSCRIPT: "zip",
    Kind.TORCH_LEGACY: "legacy",
    Kind.SAFETENSORS: "safetensors",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_FETCH_AGAIN = "Fetch or copy the file again, and compare its size or SHA-256 with the source."


class TorchFile(NamedTuple):
    """An open file of ``torch.save``."""

    #: What its pickle describes.
    root: Any
    #: Size of the file in bytes.
    size: int
    #: Reads one storage as a tensor of uint8.
    fetch: Callable[[StorageRef], torch.Tensor]


def form_of(path: Path) -> Form:
    """A checkpoint's format, by its first and last bytes."""
    kind = require(path, CHECKPOINT)
    if kind not in _FORMS:
        raise CheckpointError(f"It is {kind.article}.", remedy="Give a file written by torch.save.", where=path)
    return _FORMS[kind]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    remedy = "Check its permissions, and the disk or network share it lies on."
    with reading(path, SetupError, remedy=remedy), open_regular(path) as stream:
        yield stream


def _damaged(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"The file is damaged or was cut short: {why}.", remedy=_FETCH_AGAIN, where=path) from None


@contextlib.contextmanager
def open_torch_file(path: Path, form: Form) -> Iterator[TorchFile]:
    """Open a file of ``torch.save``; its numbers can be fetched while it is open."""
    with _opened(path) as stream:
        yield _open_zip(stream, path) if form == "zip" else _open_legacy(stream, path)


def _bytes_tensor(data: bytearray, ref: StorageRef, path: Path) -> torch.Tensor:
    if len(data) != ref.nbytes:
        _damaged(path, f"storage {quoted(ref.key)} has {len(data)} bytes, and its tensors need {ref.nbytes}")
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _require_little_endian(little: bool, path: Path) -> None:
    if not little:
        raise CheckpointError(
            "The file was written on a big-endian machine.",
            remedy="Load it there and save the weights as .safetensors.",
            where=path,
        )


# -- the zip archive

_MOST_RECORDS = 20_000
_CHUNK = 1 << 20
# Everything that zipfile raises on archives that contradict themselves.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, IndexError, OSError),
)


def _open_zip(stream: BinaryIO, path: Path) -> TorchFile:
    # Each entry of the table of contents begins so. Counted before zipfile makes an object of each.
    if sum(part.count(b"PK\x01\x02") for part in iter(lambda: stream.read(_CHUNK), b"")) > _MOST_RECORDS:
        _damaged(path, f"it has more than {_MOST_RECORDS:,} records")
    size = stream.seek(0, 2)
    try:
        archive = zipfile.ZipFile(stream)
    except _ZIP_ERRORS:
        _damaged(path, "it begins like a checkpoint, but the table of contents at its end is missing or wrong")
    records = {record.filename: record for record in archive.infolist()}
    folder = _check_records(archive, records, size, path)
    if all(record.CRC == 0 for record in records.values()):
        for record in records.values():  # written under torch.serialization.set_crc32_options(False)
            record.CRC = None  # type: ignore[assignment]

    def read(name: str) -> bytearray:
        record = records.get(folder + name)
        if record is None:
            _damaged(path, f"the record {quoted(folder + name)} is missing")
        try:
            with archive.open(record) as part:
                data = bytearray(part.read())
        except _ZIP_ERRORS:
            _damaged(path, f"the record {quoted(folder + name)} does not match its check sum")
        if len(data) != record.file_size:
            _damaged(path, f"the record {quoted(folder + name)} is not whole")
        return data

    _require_little_endian(folder + "byteorder" not in records or read("byteorder") == b"little", path)
    root, _ = interpret(io.BytesIO(read("data.pkl")), path)
    return TorchFile(root, size, lambda ref: _bytes_tensor(read(f"data/{ref.key}"), ref, path))


def _check_records(archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], size: int, path: Path) -> str:
    """Check the archive's table of contents, and give the folder ("archive/") everything lies in."""
    if len(records) != len(archive.infolist()):
        _damaged(path, "two records have the same name")
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
    finding, remedy = "", ""
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
        raise CheckpointError(finding, remedy=remedy, where=path)
    if sum(record.file_size for record in records.values()) > size:
        _damaged(path, "its records are larger than the file")
    return folder


# -- the legacy stream


def _open_legacy(stream: BinaryIO, path: Path) -> TorchFile:
    size = stream.seek(0, 2)
    stream.seek(0)
    magic, protocol, system = (interpret(stream, path)[0] for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != 1001 or not isinstance(system, dict):
        _damaged(path, "its header is not that of torch.save")
    _require_little_endian(system.get("little_endian") is True, path)
    root, storages = interpret(stream, path)
    keys, _ = interpret(stream, path)
    if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != set(storages):
        _damaged(path, "its list of storages does not match its tensors")
    starts: dict[str, int] = {}
    for key in keys:
        ref = storages[key]
        head = stream.read(8)
        if len(head) != 8 or struct.unpack("<q", head)[0] != ref.numel or key in starts:
            _damaged(path, f"storage {quoted(key)} is not where it should be")
        starts[key] = stream.tell()
        if starts[key] + ref.nbytes > size:
            _damaged(path, f"storage {quoted(key)} is not whole")
        stream.seek(ref.nbytes, 1)

    def fetch(ref: StorageRef) -> torch.Tensor:
        stream.seek(starts[ref.key])
        return _bytes_tensor(bytearray(stream.read(ref.nbytes)), ref, path)

    return TorchFile(root, size, fetch)


# -- .safetensors

#: Bytes of a header that are read; that of RTMO-l has 0.1 MB.
MAX_HEADER = 8 << 20
_DTYPES = {
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64",
    "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors as they are stored, by key, and the metadata. The header is checked before the library sees the file.

    A tensor is a window on the file and changes when the file does: copy it.
    """
    with _opened(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER:
            _damaged(path, f"its header claims {length:,} bytes; at most {MAX_HEADER:,} are read")
        raw = stream.read(length)
    try:
        header = parse_json(raw)
        json.loads(raw, object_pairs_hook=_refuse_repeats)
    except UnreadableError as error:
        _damaged(path, f"of its header, {error}")
    if not isinstance(header, dict):
        _damaged(path, "its header is not a dictionary")
    metadata = header.pop("__metadata__", {})
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and dtype not in _DTYPES:
            raise unreadable_dtype(name, dtype, path)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _damaged(path, "its metadata is not a dictionary of text")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        _damaged(path, quoted(str(error)))


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise UnreadableError("an entry is there twice")


def unreadable_dtype(name: str, dtype: object, path: Path) -> CheckpointError:
    """The error for a tensor of a type that cannot become float32."""
    return CheckpointError(
        f"The tensor {quoted(name)} is stored as {quoted(str(dtype).removeprefix('torch.'))}, which is not read here.",
        remedy="Save the weights as float32 or float16.",
        where=path,
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
