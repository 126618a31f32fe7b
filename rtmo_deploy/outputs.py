"""Checks, before any work, that a command may write its outputs."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_free(
    outputs: Iterable[Path | None], inputs: Iterable[str | Path | None] = (), *, force: bool = False
) -> None:
    """Check, before any work, that a command may write its outputs.

    Links, hard links and names that differ in case alone are followed: what counts is the file that is meant.

    Args:
        outputs: Files that will be written; None for an output that was not asked for.
        inputs: Files and folders that are read; None or the name of a published model protects nothing. They are
            asked for when an output exists.
        force: Replace an output that exists. An input is never replaced, nor is an image in a folder of inputs.

    Raises:
        UsageError: An output is an input, is given twice, is a folder, or exists and ``force`` is not set.
        SetupError: An output cannot be written where it is asked to be.
    """
    protected: _Inputs | None = None
    written: set[str] = set()
    for output in outputs:
        if output is None:
            continue
        place = os.path.realpath(output)
        if place in written:
            raise UsageError("Two outputs have this name.", remedy="Give each output a name of its own.", where=output)
        written.add(place)
        _require_writable(output)
        if not os.path.lexists(output):
            continue
        if output.is_dir():
            raise UsageError("This is a folder.", remedy="Name a file.", where=output)
        if protected is None:  # only now: listing the files of a model reads it
            protected = _Inputs(inputs)
        if protected.hold(output):
            raise UsageError(
                "This is one of the inputs, which no command writes over.",
                remedy="Give the output another name or another folder.",
                where=output,
            )
        if not force:
            raise UsageError(
                "The file exists already.", remedy="Choose another name, or replace it with --force.", where=output
            )


class _Inputs:
    """Files and folders that are read, by what the file system knows them by."""

    def __init__(self, paths: Iterable[str | Path | None]) -> None:
        self._files: set[tuple[int, int]] = set()
        self._folders: set[tuple[int, int]] = set()
        for path in paths:
            with contextlib.suppress(OSError, ValueError):  # the name of a published model is no file
                if path is not None:
                    status = os.stat(path)  # noqa: PTH116 - of a text as well
                    known = self._folders if stat.S_ISDIR(status.st_mode) else self._files
                    known.add((status.st_dev, status.st_ino))

    def hold(self, output: Path) -> bool:
        """Whether an existing output is an input, or an image in a folder of inputs."""
        if not output.exists():
            return False  # a broken link
        if _identity(output) in self._files:
            return True
        if not self._folders:
            return False
        folders = (*output.absolute().parents, *output.resolve().parents)
        if self._folders.isdisjoint(map(_identity, folders)):
            return False
        from rtmo_deploy.file_kind import kind_of  # its reader needs this module

        return kind_of(output).is_image


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _require_writable(output: Path) -> None:
    folder = next((folder for folder in output.absolute().parents if os.path.lexists(folder)), Path())
    if not folder.is_dir():
        raise SetupError(
            f"The file could not be written: {folder} is not a folder.", remedy="Name another folder.", where=output
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise SetupError(
            f"The file could not be written: {folder} is not writable.",
            remedy="Change its permissions, or name another folder.",
            where=output,
        ) from None


def require_suffix(output: Path | None, *suffixes: str, what: str = "The output") -> None:
    """Check the suffix of an output that was asked for.

    Raises:
        UsageError: It has another one.
    """
    if output is not None and output.suffix.lower() not in suffixes:
        remedy = f"Give it the suffix {' or '.join(suffixes)}."
        raise UsageError(f"{what} is called {output.name}.", remedy=remedy)
