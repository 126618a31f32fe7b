"""Errors as answers: status, headers and a JSON body."""

from __future__ import annotations

import json
from typing import Any

from rtmo_deploy.data.images import TooManyPixelsError
from rtmo_deploy.errors import InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.serve.batcher import BusyError

_BUSY = {
    "queue": "The queue is full.",
    "timeout": "The request waited too long.",
    "memory": "Too many bytes arrive at the same time.",
    "connections": "There are too many connections.",
    "streams": "There are as many cameras as are allowed.",
    "drain": "The server is about to stop.",
}


class RefusedError(Exception):
    """A request that gets an answer of this status."""

    def __init__(self, status: int, finding: str, remedy: str = "", *, kind: str = "UsageError") -> None:
        super().__init__(finding)
        self.status, self.finding, self.remedy, self.kind = status, finding, remedy, kind
        self.headers: dict[str, str] = {}

    def to_dict(self) -> dict[str, Any]:
        """``type``, ``message`` and ``remedy``."""
        return {"type": self.kind, "message": self.finding, "remedy": self.remedy or None}

    def body(self, path: str) -> bytes:
        """The JSON document of the answer: under ``/v2`` the error is text, as the protocol has it."""
        text = f"{self.finding} {self.remedy}".strip()
        return json.dumps({"error": text if path.startswith("/v2") else self.to_dict()}).encode()


def refusal_of(error: Exception) -> RefusedError:
    """What a request is answered that raised this."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, BusyError):
        refused = RefusedError(503, _BUSY[error.reason], f"Try again in {error.retry_s} s.", kind="BusyError")
        refused.headers["retry-after"] = str(error.retry_s)
        return refused
    kind = type(error).__name__
    if isinstance(error, RtmoDeployError):
        status = 413 if isinstance(error, TooManyPixelsError) else 400
        if not isinstance(error, InputDataError | UsageError):
            status = 500
        return RefusedError(status, error.finding, error.remedy, kind=kind)
    return RefusedError(500, "Something failed in the server; its log says what.", kind="InternalError")
