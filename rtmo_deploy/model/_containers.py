"""The files checkpoints come in: what a file is, and where in it the pickle and the numbers lie.

Two formats of ``torch.save`` are read: the zip archive (PyTorch 1.6 and newer), whose check sums are checked,
and the legacy stream of pickles before it. Numbers are read from the file one storage at a time and only when
they are asked for, so a training checkpoint's optimizer never enters memory.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn

import torch

from rtmo_deploy.errors import CheckpointError, SetupError
from rtmo_deploy.model._pickle_refs import StorageRef, quoted
from rtmo_deploy.model.unpickle import interpret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_FETCH_AGAIN = "Fetch or copy the file again, and compare its size or SHA-256 with the source."

# What people pass instead of a checkpoint: (offset, bytes there, what it is, what to do).
_OTHER_FILES = (
    (
        0,
        b"<",
        "an HTML or XML page, probably an error or login page saved under the checkpoint's name",
        _FETCH_AGAIN,
    ),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run: git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it (tar xzf or gunzip) and give the checkpoint inside."),
    (0, b"\xfd7zXZ", "an xz archive", "Unpack it (unxz) and give the checkpoint inside."),
    (0, b"BZh", "a bzip2 archive", "Unpack it (bunzip2) and give the checkpoint inside."),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it (unzstd) and give the checkpoint inside."),
    (0, b"7z\xbc\xaf", "a 7z archive", "Unpack it and give the checkpoint inside."),
    (257, b"ustar", "a tar archive", "Unpack it (tar xf) and give the checkpoint inside."),
    (0, b"\x89HDF", "an HDF5 file", "Give the PyTorch checkpoint (.pth) it was made from."),
    (0, b"\x80", "a pickle, but not one that torch.save wrote", "Give a file written by torch.save."),
)


@dataclass(frozen=True)
class TorchFile:
    """An open checkpoint.

    Attributes:
        root: What its pickle describes.
        size: Size of the file in bytes.
        fetch: Reads one storage as a tensor of uint8.
    """

    root: Any
    size: int
    fetch: Callable[[StorageRef], torch.Tensor]


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open an ordinary file for reading; everything that can be wrong with a path is told apart."""
    try:
        if path.is_dir():
            raise CheckpointError(
                "This is a folder, not a checkpoint.",
                remedy="Give one .pth or .safetensors file in it.",
                where=path,
            )
        if path.exists() and not path.is_file():
            raise CheckpointError("This is no ordinary file.", remedy="Give a checkpoint file.", where=path)
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise CheckpointError(
            "There is no such file.", remedy="Check the path, and whether the download finished.", where=path
        ) from None
    except PermissionError:
        raise SetupError(
            "The file may not be read by this user.",
            remedy="Change its permissions or its owner.",
            where=path,
        ) from None
    except OSError as error:
        raise SetupError(
            f"The file could not be read: {error.strerror or error}.",
            remedy="Check the disk or the network share it lies on.",
            where=path,
        ) from error


def identify(path: Path) -> Literal["zip", "legacy", "safetensors"]:
    """Tell a checkpoint's format by its first bytes.

    Raises:
        CheckpointError: There is no such file, or it is no checkpoint; the message says what it is instead.
        SetupError: The file may not be read.
    """
    with open_file(path) as stream:
        head = stream.read(512)
        size = stream.seek(0, 2)
    if not head:
        raise CheckpointError("The file is empty.", remedy=_FETCH_AGAIN, where=path)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80" and _LEGACY_HEAD in head[:32]:
        return "legacy"
    if len(head) > 8 and head[8:9] == b"{" and (path.suffix == ".safetensors" or _header_fits(head, size)):
        return "safetensors"
    if (b"\x80\x02" + _LEGACY_HEAD).startswith(head) or b"PK\x03\x04".startswith(head):
        _damaged(path, "it ends after a few bytes")
    for offset, signature, what, remedy in _OTHER_FILES:
        if head[offset:].startswith(signature) or head.lstrip(b"\xef\xbb\xbf\t\r\n ").startswith(signature):
            raise CheckpointError(f"This is {what}.", remedy=remedy, where=path)
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        raise CheckpointError(
            "This is an ONNX model, not a checkpoint.",
            remedy="Give the .pth file it was exported from.",
            where=path,
        )
    what = "a text file" if _is_text(head) else "in no format a checkpoint comes in"
    raise CheckpointError(
        f"This is {what}.",
        remedy="Give a file written by torch.save (.pth), or a .safetensors file.",
        where=path,
    )


def _header_fits(head: bytes, size: int) -> bool:
    length: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= length <= size - 8


def _is_text(head: bytes) -> bool:
    try:  # incremental, for the head may end within a character
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _damaged(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"The file is damaged or was cut short: {why}.", remedy=_FETCH_AGAIN, where=path) from None


@contextlib.contextmanager
def open_torch_file(path: Path, form: Literal["zip", "legacy"]) -> Iterator[TorchFile]:
    """Open a file of ``torch.save``; its numbers can be fetched while it is open.

    Raises:
        CheckpointError: The file is damaged, holds no checkpoint, or asks for something no checkpoint needs.
    """
    with open_file(path) as stream:
        yield _open_zip(stream, path) if form == "zip" else _open_legacy(stream, path)


# -- the zip archive

_MOST_RECORDS = 20_000
_CHUNK = 1 << 20
# Everything that zipfile raises on archives that contradict themselves.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    IndexError,
)


def _open_zip(stream: BinaryIO, path: Path) -> TorchFile:
    # Each entry of the table of contents begins so. Counted before zipfile makes an object of each.
    if sum(part.count(b"PK\x01\x02") for part in iter(lambda: stream.read(_CHUNK), b"")) > _MOST_RECORDS:
        _damaged(path, f"it has more than {_MOST_RECORDS:,} records")
    size = stream.seek(0, 2)
    try:
        archive = zipfile.ZipFile(stream)
    except (*_ZIP_ERRORS, OSError):
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
        except (*_ZIP_ERRORS, OSError):
            _damaged(path, f"the record {quoted(folder + name)} does not match its check sum")
        if len(data) != record.file_size:
            _damaged(path, f"the record {quoted(folder + name)} is not whole")
        return data

    if folder + "byteorder" in records and read("byteorder") != b"little":
        raise CheckpointError(
            "The file was written on a big-endian machine.",
            remedy="Load it there and save the weights as .safetensors.",
            where=path,
        )
    root, _ = interpret(io.BytesIO(read("data.pkl")), path)

    def fetch(ref: StorageRef) -> torch.Tensor:
        return _bytes_tensor(read(f"data/{ref.key}"), ref, path)

    return TorchFile(root, size, fetch)


def _check_records(archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], size: int, path: Path) -> str:
    """Check the archive's table of contents, and give the folder ("archive/") everything lies in."""
    if len(records) != len(archive.infolist()):
        _damaged(path, "two records have the same name")
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
    if folder + "constants.pkl" in records or any(name.startswith(f"{folder}code/") for name in records):
        raise CheckpointError(
            "This is a TorchScript program, not a checkpoint.",
            remedy="Give the .pth file it was traced or scripted from.",
            where=path,
        )
    if len(pickles) != 1:
        raise CheckpointError(
            f"This is a zip archive, but no checkpoint: it has {len(pickles)} records named data.pkl, not 1.",
            remedy="If the checkpoint was packed into it, unpack it first.",
            where=path,
        )
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records.values()):
        raise CheckpointError(
            "The archive's records are compressed or encrypted, which torch.save never does.",
            remedy="Give the file that torch.save wrote, not one that was packed again.",
            where=path,
        )
    if sum(record.file_size for record in records.values()) > size:
        _damaged(path, "its records are larger than the file")
    return folder


# -- the legacy stream


def _open_legacy(stream: BinaryIO, path: Path) -> TorchFile:
    size = stream.seek(0, 2)
    stream.seek(0)
    magic, _ = interpret(stream, path)
    protocol, _ = interpret(stream, path)
    system, _ = interpret(stream, path)
    if magic != _LEGACY_MAGIC or protocol != 1001 or not isinstance(system, dict):
        _damaged(path, "its header is not that of torch.save")
    if system.get("little_endian") is not True:
        raise CheckpointError(
            "The file was written on a big-endian machine.",
            remedy="Load it there and save the weights as .safetensors.",
            where=path,
        )
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


def _bytes_tensor(data: bytearray, ref: StorageRef, path: Path) -> torch.Tensor:
    if len(data) != ref.nbytes:
        _damaged(path, f"storage {quoted(ref.key)} has {len(data)} bytes, and its tensors need {ref.nbytes}")
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
