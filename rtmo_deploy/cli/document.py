"""The one JSON document that a command prints with ``--json``: its result, its error, or both.

Help pages import this module: it loads neither Rich nor NumPy.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


#: Version of every ``--json`` document; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = 1
#: Commands that have commands of their own.
_GROUPS = {"data", "models", "package"}
_open: list[dict[str, Any]] = []


@contextlib.contextmanager
def collected(arguments: Sequence[str]) -> Iterator[None]:
    """Print at the end, as one document, what the command that these arguments call puts meanwhile."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    name = " ".join(words[: 2 if words[:1] and words[0] in _GROUPS else 1])
    document = {"schema_version": SCHEMA_VERSION, "command": name}
    empty = dict(document)
    _open.append(document)
    try:
        yield
    except Exception as error:
        put_error(type(error).__name__, 1, str(error))
        raise
    finally:
        _open.remove(document)
        if document != empty:
            _write(document)


def asked_for() -> bool:
    """Whether ``--json`` is among the arguments of the command that runs."""
    return bool(_open)


def put(command: str, fields: dict[str, Any]) -> None:
    """Print the result of a command; inside :func:`collected`, when the command has ended."""
    document = {"schema_version": SCHEMA_VERSION, "command": command, **fields}
    if _open:
        _open[-1].update(document)
    else:
        _write(document)


def put_error(kind: str, exit_code: int, message: str, *, remedy: str = "", where: str | None = None) -> None:
    """Add the error that a command ended with; nothing outside :func:`collected`."""
    if _open:
        error = {"type": kind, "exit_code": exit_code, "where": where, "message": message, "remedy": remedy or None}
        _open[-1].setdefault("error", error)


def _write(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


#: The same logger as ``rtmo_deploy.artifact.MODEL_LOG``, whose module loads NumPy.
_MODEL_LOG = logging.getLogger("rtmo_deploy.model_notes")


class _ModelNotes(logging.Handler):
    """Prints what is said against a model that is opened, each text once; remembers it for the JSON document."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)
            self._say(f"Note: {text}")


@contextlib.contextmanager
def model_notes(say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, notes of the models that are opened go to ``say`` and into ``model_notes`` of JSON documents."""
    handler = _ModelNotes(say)
    before = _MODEL_LOG.propagate
    _MODEL_LOG.addHandler(handler)
    _MODEL_LOG.propagate = False
    try:
        yield
    finally:
        _MODEL_LOG.removeHandler(handler)
        _MODEL_LOG.propagate = before


def notes_so_far() -> list[str]:
    """The notes printed so far in this command."""
    return [text for handler in _MODEL_LOG.handlers if isinstance(handler, _ModelNotes) for text in handler.texts]
