"""The server's log: a line for each request, and what libraries print themselves, on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.serve.options import ServeOptions

LOG: Final = logging.getLogger("rtmo_deploy.serve")


class _Lines(logging.Formatter):
    """One line for each record: JSON, or words."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = getattr(record, "told", {})
        error = self.formatException(record.exc_info) if record.exc_info else None
        if self._as_json:
            head = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
            return json.dumps({**head, **told, **({"error": error} if error else {})}, default=str)
        words = [f"{name}={_word(value)}" for name, value in told.items()]
        message = record.getMessage().strip().replace("\r", " ").replace("\n", " ")
        more = f"\n{error}".replace("\n", "\n    ") if error else ""
        return " ".join([when, record.levelname.lower(), message, *words]) + more


def _word(value: object) -> str:
    """A value in one word, whatever a client sent."""
    text = ",".join(f"{name}:{one}" for name, one in value.items()) if isinstance(value, dict) else str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


@contextlib.contextmanager
def logging_to_stderr(options: ServeOptions) -> Iterator[None]:
    """While it lasts, the server's log goes to stderr, and so do warnings of every package."""
    as_json = options.log_format == "json" or (options.log_format == "auto" and not sys.stderr.isatty())
    with _lines_of_libraries() if as_json else contextlib.nullcontext(sys.stderr) as stream:
        handler = logging.StreamHandler(stream)
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # noqa: ARG005 - a report is a line too
        handler.setFormatter(_Lines(as_json=as_json))
        levels = {LOG: logging.INFO, logging.getLogger(): logging.WARNING}
        levels |= {logging.getLogger(name): logging.ERROR for name in ("uvicorn", "asyncio", "python_multipart")}
        before = [(one, one.level, one.propagate) for one in levels]
        for one, level in levels.items():
            one.setLevel(level)
            one.propagate = False
            one.addHandler(handler)
        try:
            yield
        finally:
            for one, level, propagate in before:
                one.removeHandler(handler)
                one.setLevel(level)
                one.propagate = propagate


@contextlib.contextmanager
def _lines_of_libraries() -> Iterator[TextIO]:
    """A stream to stderr; what libraries print there themselves meanwhile (libjpeg does) is logged instead."""
    try:
        number = sys.stderr.fileno()
    except (OSError, ValueError):
        yield sys.stderr
        return
    sys.stderr.flush()
    reader, writer = os.pipe()
    stream = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    os.dup2(writer, number)
    os.close(writer)

    def pump() -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                logging.getLogger("stderr").warning("%s", line.rstrip())

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        sys.stderr.flush()
        os.dup2(stream.fileno(), number)
        thread.join(1)
        with contextlib.suppress(OSError):  # what a full disk did not take
            stream.close()
