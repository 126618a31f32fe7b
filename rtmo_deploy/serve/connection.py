"""uvicorn's HTTP connections, with limits on slow heads and on their number, and a kinder end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
else:
    _Protocol = object

_FULL = b"""HTTP/1.1 503 Service Unavailable\r
content-type: application/json\r
retry-after: 1\r
connection: close\r
content-length: 44\r
\r
{"error": "There are too many connections."}"""


def connection_class(*, head_s: float, grace_s: float, most: int) -> Any:
    """The protocol that uvicorn makes connections of.

    Args:
        head_s: Seconds in which the head of a request must arrive.
        grace_s: When the server ends, seconds in which an idle connection may still bring a request.
        most: Connections at a time; more are answered 503 at once.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    limits = {"head_s": head_s, "grace_s": grace_s, "most": most}
    return type("Connection", (_Limited, H11Protocol), limits)


class _Limited(_Protocol):
    """What comes before the methods of uvicorn's ``H11Protocol``."""

    head_s: float
    grace_s: float
    most: int
    _late: Any = None  # the timer of a head that is not there yet

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_protocol() is not self or not self._idle():
            self._unwatch()
        elif self._late is None:
            self._watch()

    def shutdown(self) -> None:
        if self._idle():
            self.loop.call_later(self.grace_s, self._close_idle)
        else:
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _watch(self) -> None:
        self._late = self.loop.call_later(self.head_s, self._close_idle)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
