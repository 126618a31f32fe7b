"""Files appear whole or not at all; and the names and hashes by which they are known."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from rtmo_deploy.errors import RtmoDeployError


#: What :func:`is_portable_name` asks for, as an error says it; ``{}`` is the greatest length.
PORTABLE_NAME = (
    "a name is made of at most {} letters, digits, '.', '_' and '-', a letter or digit first, no '.' last, "
    "and is not one that Windows keeps for devices (con, nul, aux, com1, ...)"
)
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in range(10)
}


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write into; it becomes ``path`` only if the block succeeds.

    The file is flushed to disk (fsync) before it is renamed. On any error, KeyboardInterrupt included, the
    temporary file is removed and whatever stood at ``path`` before is untouched.

    Raises:
        SetupError: The folder cannot be written to, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)  # there is no other way to read it
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise SetupError(
            f"The file could not be written: {error.strerror or error}.",
            remedy="Check that the folder exists, is writable and has space left; nothing was left behind.",
            where=path,
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file by :func:`atomic_write`; text in UTF-8, with its own line ends."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder`` to write into; it becomes ``folder`` only if the block succeeds.

    A folder that was there is replaced. On any error, KeyboardInterrupt included, it stays, and nothing else does.

    Raises:
        SetupError: It cannot be written to, or the disk is full.
    """
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as place:
            made, old = Path(place, "new"), Path(place, "old")
            made.mkdir()
            yield made
            try:
                if target.exists():
                    target.replace(old)
                made.replace(target)
            except BaseException:
                if old.exists() and not target.exists():
                    old.replace(target)
                raise
    except OSError as error:
        raise SetupError(
            f"The folder could not be written: {error.strerror or error}.",
            remedy="Check that the folder above it is writable and has space left; nothing was left behind.",
            where=folder,
        ) from error


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder for files that are needed within the block only; TMPDIR says where.

    Raises:
        SetupError: It cannot be made, or the disk is full.
    """
    remedy = "Set TMPDIR to a folder that is writable and has space left."
    try:
        made = tempfile.TemporaryDirectory(prefix="rtmo-deploy-")
    except OSError as error:
        raise SetupError(f"No temporary folder can be made: {error.strerror or error}.", remedy=remedy) from error
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            raise SetupError(
                f"A temporary file could not be written: {error.strerror}.", remedy=remedy, where=name
            ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, 64 hex digits; OSError where it cannot be opened."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def human_size(count: int) -> str:
    """``27618651`` -> ``26.3 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def is_portable_name(name: str, longest: int = 60) -> bool:
    """Whether every system can have a file of this name: no path, no device of Windows, no '.' last."""
    plain = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", name) is not None
    return plain and len(name) <= longest and name.partition(".")[0].lower() not in _DEVICES


def is_inside(name: str) -> bool:
    """Whether a name with ``/`` is one of a file within the folder, and plainly written."""
    if not name or not name.isprintable() or "\\" in name or ":" in name:
        return False
    parts = PurePosixPath(name)
    return not parts.is_absolute() and ".." not in parts.parts and str(parts) == name and name != "."


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class UnreadableError(OSError, ValueError):
    """A file that must not or cannot be read; the message is a clause such as ``it is a FIFO, not a regular file``."""


def open_regular(path: Path, *, max_bytes: int | None = None) -> BufferedReader:
    """Open a regular file for reading in binary; never waits for a writer, as opening a FIFO would.

    Args:
        path: The file. A symbolic link is followed.
        max_bytes: Refuse a file larger than this; None for no limit.

    Raises:
        UnreadableError: It is a FIFO, a device, a socket or a folder, its name has a NUL byte or a lone surrogate, or
            it is larger than ``max_bytes``.
        OSError: It does not exist or cannot be opened.
    """
    try:
        # O_NONBLOCK: a FIFO without a writer would wait here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # an embedded NUL, or a lone surrogate (UnicodeEncodeError)
        raise UnreadableError("its name is not a file name") from error
    status, problem = os.fstat(descriptor), None
    if not stat.S_ISREG(status.st_mode):
        problem = f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a special file')}, not a regular file"
    elif max_bytes is not None and status.st_size > max_bytes:
        problem = f"it has {human_size(status.st_size)}; at most {human_size(max_bytes)} are read"
    if problem is not None:
        os.close(descriptor)
        raise UnreadableError(problem)
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file of at most ``max_bytes``; errors as :func:`open_regular`."""
    with open_regular(path, max_bytes=max_bytes) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnreadableError(f"it has more than {human_size(max_bytes)}")
    return data


@contextlib.contextmanager
def reading(
    path: Path | str,
    kind: type[RtmoDeployError] = ArtifactError,
    *,
    remedy: str = "Check its permissions.",
    damaged: str | None = None,
) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error of ``kind`` at ``path``.

    Args:
        path: The file that is read.
        kind: Error to raise.
        remedy: What to do when it cannot be read or makes no sense.
        damaged: What a file that makes no sense is not, such as ``a calibration record``: then ValueError, KeyError,
            TypeError, AttributeError and OverflowError are turned as well. None lets these through.

    Raises:
        RtmoDeployError: Of ``kind``, for OSError and, with ``damaged``, for a file that makes no sense.
    """
    try:
        yield
    except UnreadableError as error:
        raise kind(f"It cannot be read: {error}.", remedy=remedy, where=path) from error
    except OSError as error:
        raise kind(f"It cannot be read: {error.strerror or error}.", remedy=remedy, where=path) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if damaged is None:
            raise
        raise kind(f"It is not {damaged}, or is damaged ({error}).", remedy=remedy, where=path) from error
