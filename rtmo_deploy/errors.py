"""Every error this project raises on purpose, and the exit code each one becomes.

::

    RtmoDeployError                 1  something failed
    ├── TrainingError                  a training cannot go on
    ├── UsageError                  2  the call itself makes no sense
    ├── InputDataError              3  an image, folder or annotation file
    ├── ModelError                  4  a checkpoint or an artifact
    │   ├── CheckpointError            a .pth / .safetensors file
    │   └── ArtifactError              an ONNX file or an engine
    ├── SetupError                  5  the environment: packages, devices, network, disk
    │   ├── MissingDependencyError     an optional package is not installed
    │   └── DownloadError              a file could not be fetched
    └── GateFailedError             6  a bound was measured and not met
        └── ParityError                two artifacts disagree

An error says what happened, why, and what to do about it, in one paragraph. Code raises one of these with a
``remedy``; the command line prints ``str(error)`` and exits with ``error.exit_code``. Any other exception that
reaches the command line is a bug in this project.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RtmoDeployError(Exception):
    """Base of every error raised on purpose.

    A finding says what happened and why, a remedy what the reader can do; ``where`` is the file, URL or option.
    """

    exit_code: int = 1

    def __init__(self, finding: str, *, remedy: str = "", where: object = None) -> None:
        # A file may hold lone surrogates, which no terminal prints.
        self.finding = finding.encode("utf-8", "backslashreplace").decode()
        self.remedy = remedy
        self.where = None if where is None else str(where)
        head = f"{self.where}: " if self.where else ""
        super().__init__(f"{head}{self.finding} {remedy}".strip())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """Errors that are raised in the block name this file, URL or option, unless they name one already."""
    try:
        yield
    except RtmoDeployError as error:
        if error.where is None:
            error.where = str(where)
            error.args = (f"{error.where}: {error}",)
        raise


def refuse_path(value: object, instead: str) -> None:
    """UsageError where a path is given in place of what is read from it; ``instead`` is the call that reads it."""
    if isinstance(value, str | os.PathLike):
        raise UsageError(f"{os.fspath(value)!r} is a path, and what it holds is needed.", remedy=f"Give {instead}.")


class TrainingError(RtmoDeployError):
    """A training cannot go on: its loss is no longer a number."""


class UsageError(RtmoDeployError):
    """The options contradict each other or name something that does not exist."""

    exit_code = 2


class InputDataError(RtmoDeployError):
    """An image, folder or annotation file cannot be used."""

    exit_code = 3


class ModelError(RtmoDeployError):
    """A checkpoint or an artifact cannot be used."""

    exit_code = 4


class CheckpointError(ModelError):
    """A checkpoint is damaged, unsafe, incomplete, or of another model."""


class ArtifactError(ModelError):
    """An exported model is damaged or is not what it is used as."""


class SetupError(RtmoDeployError):
    """The environment lacks something: a package, a device, a network, disk space."""

    exit_code = 5


class MissingDependencyError(SetupError):
    """An optional package (by its import name) is not installed; an extra of this project installs it."""

    def __init__(self, package: str, *, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            remedy=f"Install it with: pip install 'rtmo-deploy[{extra}]'",
        )
        self.package = package
        self.extra = extra


class DownloadError(SetupError):
    """A file could not be fetched, or what came is not what was asked for."""


class GateFailedError(RtmoDeployError):
    """A bound was measured and not met."""

    exit_code = 6


class ParityError(GateFailedError):
    """Two artifacts that should agree do not."""
