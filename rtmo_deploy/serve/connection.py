"""uvicorn's connections, with limits on slow heads, slow readers and their number, and a kinder end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.serve.batcher import BusyError
from rtmo_deploy.serve.refusals import RefusedError, refusal_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol as _Socket
else:
    _Protocol = _Socket = object

#: Seconds in which a client must read some of what waits for it.
_READ_S: Final = 30.0
#: Headers of a WebSocket's request, and bytes of one, at most.
_SOCKET_HEADERS, _SOCKET_LINE = 100, 8000
#: What a refused client still sends is thrown away, so that it reads the answer: until it is silent for so many
#: seconds, and no longer than so many.
_SILENT_S, _DEAF_S = 0.5, 5.0


def connection_classes(*, head_s: float, grace_s: float, most: int, refused: Callable[[int], None]) -> tuple[Any, Any]:
    """The protocols that uvicorn makes connections of: HTTP, and WebSocket.

    Args:
        head_s: Seconds in which the head of a request must arrive.
        grace_s: When the server ends, seconds in which an idle connection may still bring a request.
        most: Connections at a time; more are answered 503.
        refused: Told the status of what is answered here.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    limits = {"head_s": head_s, "grace_s": grace_s, "most": most, "refused": staticmethod(refused)}
    return type("Connection", (_Limited, H11Protocol), limits), type("Socket", (_Stream, WebSocketsSansIOProtocol), {})


class _Read:
    """Ends the connection of a client that does not read what is sent to it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _check: asyncio.TimerHandle | None = None
    _paused = False
    _unread = 0  # bytes at the last look, while nothing is added to them
    _deaf = False
    _heard = _deaf_until = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._check = self.loop.call_later(_READ_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._paused, self._unread = True, 0

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._paused = False

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._heard = self.loop.time()
        else:
            super().data_received(data)  # type: ignore[misc]

    def _close_when_silent(self) -> None:
        """Close the connection when the client has sent what it was about to send."""
        now = self.loop.time()
        if not self._deaf:
            self._deaf, self._heard, self._deaf_until = True, now, now + _DEAF_S
        if now - self._heard >= _SILENT_S or now >= self._deaf_until:
            self.transport.close()
        else:
            self.loop.call_later(_SILENT_S / 2, self._close_when_silent)

    def _look(self) -> None:
        held_by: object = self.transport.get_protocol()  # HTTP hands it to a WebSocket
        if held_by is not self:
            return
        waiting = self.transport.get_write_buffer_size() if self._paused or self.transport.is_closing() else 0
        if waiting >= self._unread > 0:
            self.transport.abort()
        self._unread = waiting
        self._check = self.loop.call_later(_READ_S, self._look)


class _Limited(_Read, _Protocol):
    """What comes before the methods of uvicorn's ``H11Protocol``."""

    head_s: float
    grace_s: float
    most: int
    refused: Callable[[int], None]
    _late: Any = None  # the timer of a head that is not there yet
    _full = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._full = len(self.connections) > self.most
        self._watch()
        if len(self.connections) > self.most + self.most // 10:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._full and not self._deaf:
            self._refuse(refusal_of(BusyError("connections", 1)))
        super().data_received(data)
        if self._deaf:
            return
        if self.transport.get_protocol() is not self or not self._idle():
            self._unwatch()
        elif self._late is None:
            self._watch()

    def _should_upgrade(self) -> bool:
        """Only what the WebSocket protocol can read as well; the rest is HTTP."""
        return self.scope["method"] == "GET" and self.scope["http_version"] == "1.1" and super()._should_upgrade()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection on, unless the head is larger than the WebSocket protocol takes: it would be silent."""
        sizes = [len(event.target), *(len(name) + len(value) for name, value in self.headers)]
        if len(sizes) > _SOCKET_HEADERS or max(sizes) > _SOCKET_LINE:
            self._refuse(RefusedError(400, "The head of the request is too large for a WebSocket."))
        else:
            super().handle_websocket_upgrade(event)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether to stay: for a client that sends no more, and waits for its answer."""
        if self._deaf or self._idle() or self.cycle.more_body or self.scheme == "https":
            return None
        self.cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless it comes while another answer is sent."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self._refuse(RefusedError(400, msg))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        if self._idle():
            self.loop.call_later(self.grace_s, self._close_idle)
        else:
            super().shutdown()

    def _refuse(self, refused: RefusedError) -> None:
        self.refused(refused.status)
        if self.cycle is not None:  # its application learns that nobody listens
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = refused.body("/v2")
        head = {
            "content-type": "application/json",
            "content-length": len(body),
            "connection": "close",
            **refused.headers,
        }
        reason = {400: "Bad Request", 503: "Service Unavailable"}[refused.status]
        lines = [f"HTTP/1.1 {refused.status} {reason}", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        self.transport.write("\r\n".join(lines).encode() + body)
        self._close_when_silent()

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


class _Stream(_Read, _Socket):
    """What comes before the methods of uvicorn's WebSocket protocol."""

    def handle_parser_exception(self) -> None:
        """Say why it ends, and let the client read that while it still sends."""
        self.close_sent = True
        sent = self.conn.close_sent
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006 if sent is None else sent.code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_timer = self.loop.call_later(_DEAF_S, self.transport.close)  # without one it is closed at once
        self._close_when_silent()

    async def send(self, message: Any) -> None:
        """Send; a refusal ends the handshake, which uvicorn would call unfinished."""
        await super().send(message)
        self.handshake_complete = self.handshake_complete or (self.initial_response is not None and self.close_sent)

    def pause_writing(self) -> None:
        """Answers to pings wait for nobody: read no more until they are read."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on, unless a message still waits."""
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def shutdown(self) -> None:
        """Leave the end of a stream to the stream, which answers its frame first."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
