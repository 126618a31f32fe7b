"""Standard streams that are closed or cannot be written to."""

from __future__ import annotations

import contextlib
import io
import os
import sys


class _Result(io.TextIOWrapper):
    """Stdout; remembers why it could not be written to."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            return self.failed(error, text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.failed(error)

    def failed(self, error: OSError, _: str = "") -> int:
        self.failure = error
        raise error


class _Notes(_Result):
    """Stderr; what a full disk does not take is left out, and the command goes on."""

    def failed(self, error: OSError, text: str = "") -> int:
        if isinstance(error, BrokenPipeError):
            raise error
        return len(text)


def prepare() -> None:
    """Make the standard streams usable, whatever state they are in.

    A closed one becomes the null device; files that are opened later must not take its number. A full one is noticed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name, kind in ((1, "stdout", _Result), (2, "stderr", _Notes)):
        old = getattr(sys, name)
        if old is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif type(old) is io.TextIOWrapper:
            flags = old.line_buffering, old.write_through
            setattr(sys, name, kind(old.buffer, old.encoding, old.errors, None, *flags))


def drop_stdout() -> None:
    """Let the interpreter not write to stdout once more when it ends."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def stdout_failure() -> OSError | None:
    """Why what was printed on stdout could not be written; None where it was, or nobody reads it."""
    failure = getattr(sys.stdout, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure
