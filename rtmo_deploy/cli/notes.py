"""Notes of the models that a command opens: printed once on stderr, and put into JSON documents.

Help pages import this module: it loads neither Rich nor NumPy.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The same logger as ``rtmo_deploy.artifact.MODEL_LOG``, whose module loads NumPy.
_MODEL_LOG = logging.getLogger("rtmo_deploy.model_notes")


class _ModelNotes(logging.Handler):
    """Prints what is said against a model that is opened, each text once; remembers it for the JSON document."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)
            from rtmo_deploy.cli.console import stderr

            stderr().print(f"Note: {text}")


@contextlib.contextmanager
def model_notes() -> Iterator[None]:
    """While it lasts, notes of the models that are opened go to stderr and into ``model_notes`` of JSON documents."""
    handler = _ModelNotes()
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
