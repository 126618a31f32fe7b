"""Guarded reads of untrusted files: regular files only, bounded size; JSON of bounded depth with finite numbers.

Every reader of a file that a user names goes through here. Nothing here knows a file format other than JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import human_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from rtmo_deploy.errors import RtmoDeployError

#: Nesting of lists and objects that JSON may have unless the caller says otherwise.
MAX_DEPTH = 64
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
    try:
        _check(os.fstat(descriptor), max_bytes)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(status: os.stat_result, max_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise UnreadableError(f"it is {kind}, not a regular file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UnreadableError(f"it has {human_size(status.st_size)}; at most {human_size(max_bytes)} are read")


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file of at most ``max_bytes``; errors as :func:`open_regular`."""
    with open_regular(path, max_bytes=max_bytes) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnreadableError(f"it has more than {human_size(max_bytes)}")
    return data


def parse_json(text: str | bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON of bounded depth with finite numbers (no ``Infinity``, ``NaN``, ``1e999``), else UnreadableError."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise UnreadableError(f"its JSON is nested deeper than {max_depth} levels") from None
    except UnicodeDecodeError:
        raise UnreadableError("it is not UTF-8 text") from None
    except ValueError as error:
        raise UnreadableError(f"it is not JSON ({error})") from error
    level, depth = [document], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > max_depth:
            raise UnreadableError(f"its JSON is nested deeper than {max_depth} levels")
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return document


def read_json(path: Path, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Parse a JSON file with :func:`read_bounded` and :func:`parse_json`."""
    data = read_bounded(path, max_bytes=max_bytes)
    try:
        return parse_json(data, max_depth=max_depth)
    except UnreadableError:
        from rtmo_deploy.file_kind import FileKind, kind_of  # which is built on this module

        kind = kind_of(path)
        if kind in {FileKind.JSON, FileKind.ANNOTATION, FileKind.ENGINE_RECORD, FileKind.TEXT, FileKind.UNKNOWN}:
            raise
        raise UnreadableError(f"it is {kind.article}, not JSON") from None


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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value
