"""Checks, before any work, that a command may write its outputs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import SetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_free(
    outputs: Iterable[Path | None], inputs: Iterable[str | Path | None] = (), *, force: bool = False
) -> None:
    """Check, before any work, that a command may write its outputs; else UsageError or SetupError.

    Links, hard links and names that differ in case alone are followed: what counts is the file that is meant. An input
    is never replaced, nor is an image in a folder of inputs; another file is with ``force``. None among the outputs is
    one that was not asked for; None or the name of a published model among the inputs protects nothing.
    """
    written: set[str] = set()
    for output in (output for output in outputs if output is not None):
        if str(output) == "-":
            raise UsageError("This output is a file, and - stands for stdout.", remedy="Name a file.", where=output)
        place = os.path.realpath(output)
        if place in written:
            raise UsageError("Two outputs have this name.", remedy="Give each output a name of its own.", where=output)
        written.add(place)
        _require_writable(output)
        if not os.path.lexists(output):
            continue
        if output.is_dir():
            raise UsageError("This is a folder.", remedy="Name a file.", where=output)
        if output.exists() and not output.is_file():
            raise UsageError(
                "This is a device or a pipe, and files are made whole and renamed.",
                remedy="Name a file; where a command can write to stdout, its name is -.",
                where=output,
            )
        inputs = list(inputs)  # only now: listing the files of a model reads it
        if output.exists() and _is_input(output, inputs):  # a broken link is none
            raise UsageError(
                "This is one of the inputs, which no command writes over.",
                remedy="Give the output another name or another folder.",
                where=output,
            )
        if not force:
            raise UsageError(
                "The file exists already.", remedy="Choose another name, or replace it with --force.", where=output
            )


def _is_input(output: Path, inputs: Iterable[str | Path | None]) -> bool:
    """Whether an existing output is an input, or an image in a folder of inputs, by what the file system knows it."""
    folders = set()
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):  # the name of a published model is no file
            if path is not None and Path(path).is_dir():
                folders.add(_identity(Path(path)))
            elif path is not None and _identity(Path(path)) == _identity(output):
                return True
    above = (*output.absolute().parents, *output.resolve().parents)
    if not folders or folders.isdisjoint(map(_identity, above)):
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
