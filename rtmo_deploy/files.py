"""Files appear whole or not at all; and the names and hashes by which they are known."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["atomic_write", "human_size", "sha256_of"]


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
        temporary.chmod(0o666 & ~_umask())
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file's bytes, 64 hex digits.

    Raises:
        OSError: It cannot be opened, or is no regular file (:class:`rtmo_deploy.guarded.UnreadableError`).
    """
    from rtmo_deploy.guarded import open_regular  # which is built on this module

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
