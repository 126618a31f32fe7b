"""Keeps two processes from working in one release's folder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME: Final = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other release out of a folder; the system lets go of the lock when a process dies."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK_NAME, timeout=0):
            yield
    except Timeout as error:
        raise SetupError(
            "Another release is at work in this folder.",
            remedy="Wait for it, or use another folder.",
            where=folder,
        ) from error
    except OSError as error:
        raise SetupError(
            f"The folder cannot be used: {error.strerror or error}.",
            remedy="Use another folder.",
            where=error.filename or folder,
        ) from error
