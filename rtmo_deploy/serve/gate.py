"""What stands before every request: key, origin, sizes, time limits; and what is counted and logged of it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from rtmo_deploy.serve.batcher import BusyError
from rtmo_deploy.serve.log import LOG
from rtmo_deploy.serve.options import LOOPBACK
from rtmo_deploy.serve.refusals import RefusedError, refusal_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from rtmo_deploy.serve.options import ServeOptions
    from rtmo_deploy.serve.service import Service

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Paths that need no key: probes, and the page, which asks for it.
_OPEN: Final = re.compile(r"/|/v2/health/(live|ready)")
#: Paths whose successes are not logged: they are asked every few seconds.
_QUIET: Final = re.compile(r"/metrics|/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: A body must come in at least so many bytes a second, after the timeout.
_SLOWEST: Final = 64 * 1024
#: Seconds and bytes for which the rest of a refused body is read, so that the client reads the answer.
_DISCARD_S, _DISCARD_BYTES = 1.0, 16 * 2**20
#: What pages of other sites may read and send, where they are allowed.
_SHARED: Final = [(b"access-control-expose-headers", b"inference-header-content-length, retry-after, x-request-id")]
_PREFLIGHT: Final = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, inference-header-content-length, x-request-id"),
    (b"access-control-max-age", b"600"),
]
#: Protocol of /stream, and the prefix of the one that carries the key: a browser can send no header there.
SUBPROTOCOL, _KEY_PREFIX = "rtmo", "key."


class Gate:
    """An ASGI application around the server's own."""

    def __init__(self, app: App, service: Service, options: ServeOptions, key: str | None) -> None:
        self._app, self._service, self._options, self._key = app, service, options, key
        self._held = 0  # bytes of the bodies and answers of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        """Why a request is not even looked at."""
        headers = dict(scope["headers"])
        socket = scope["type"] == "websocket"
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return RefusedError(415, "Compressed requests are not read.", "Send the body as it is.")
        if not self._same_origin(headers):
            remedy = "Allow it with --allow-origin and its address, as https://example.com."
            return RefusedError(403, "Another web page asks.", remedy, kind="ForbiddenError")
        if not socket and (scope["method"] == "OPTIONS" or _OPEN.fullmatch(scope["path"])):
            return None
        if self._key is not None and not self._has_key(headers, scope.get("subprotocols", ())):
            remedy = "Send the header 'Authorization: Bearer KEY'."
            return RefusedError(401, "The API key is missing or wrong.", remedy, kind="UnauthorizedError")
        return refusal_of(BusyError("drain", 5)) if socket and self._service.draining else None

    def _has_key(self, headers: dict[bytes, bytes], subprotocols: Iterable[str]) -> bool:
        assert self._key is not None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        keys = [given.strip()] if scheme.lower() == b"bearer" else []
        for protocol in subprotocols:
            if protocol.startswith(_KEY_PREFIX):
                text = protocol.removeprefix(_KEY_PREFIX)
                with contextlib.suppress(binascii.Error, ValueError):
                    keys.append(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return any(hmac.compare_digest(one, self._key.encode()) for one in keys)

    def _same_origin(self, headers: dict[bytes, bytes]) -> bool:
        """A page of another site may not use somebody's server through their browser.

        A server without a key on the machine itself is known by addresses and as localhost only: any other name may
        belong to a page whose site now says that it is this machine.
        """
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._options.allow_origin:
            return True
        try:
            parts = urlsplit(origin)
            own = parts.netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower()
            return own and (self._key is not None or self._options.host not in LOOPBACK or _local(parts.hostname or ""))
        except ValueError:
            return False

    def _sharing(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """What lets the pages of --allow-origin read answers."""
        origin = headers.get(b"origin", b"")
        if origin.decode("latin-1") not in self._options.allow_origin:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin"), *_SHARED]

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def answer(message: Message) -> None:
            if message["type"] == "websocket.accept":
                self._count(scope, 101)
            elif message["type"] == "websocket.http.response.start":
                self._note(scope, message["status"], _name(dict(scope["headers"])), start)
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await _send(refused, scope, answer)
        else:
            await self._app(scope, receive, answer)

    def _count(self, scope: Scope, status: int) -> str:
        route = getattr(scope.get("route"), "path", "other")
        self._service.metrics.requests.labels(route, status).inc()
        return route

    def _note(self, scope: Scope, status: int, name: str, start: float, **more: Any) -> None:
        """Count and log an answer."""
        route = self._count(scope, status)
        if status < 400 and _QUIET.fullmatch(scope["path"]):
            return
        client = scope["client"][0] if scope.get("client") else ""
        facts = {"id": name, "client": client, "method": "GET", "route": route, "status": status}
        milliseconds = round((time.perf_counter() - start) * 1000, 1)
        LOG.info("request", extra={"told": {**facts, "ms": milliseconds, **more}})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        headers = dict(scope["headers"])
        name = _name(headers)
        body = _Body(self, scope, receive)
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope  # uvicorn leaves the body out
        told = asked.setdefault("state", {}).setdefault("told", {})
        status = 499  # the client went away before an answer
        answered = False  # in place of the application, whose answer does not fit

        async def answer(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                size = dict(message.get("headers", ())).get(b"content-length", b"0")
                try:
                    body.hold(int(size))
                except BusyError as error:
                    self._service.metrics.rejected.labels(error.reason).inc()
                    await _send(refusal_of(error), scope, forward)
                    answered = True
            if not answered:
                await forward(message)

        async def forward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                complete = await body.discard()
                more = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
                if self._service.draining or not complete:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *more, *self._sharing(headers)]}
            await send(message)

        try:
            await self._dispatch(asked, body.receive, answer, forward)
        except asyncio.CancelledError:  # the time in which what was accepted is answered is over
            if status != 499 or self._service.forced:
                raise
            body.abandon()
            self._service.metrics.rejected.labels("drain").inc()
            await _send(refusal_of(BusyError("drain", 5)), scope, forward)
        except Exception:
            status = 500
            raise
        finally:
            self._held -= body.held
            self._note(asked, status, name, start, method=scope["method"], bytes=body.size, **told)

    async def _dispatch(self, scope: Scope, receive: Receive, answer: Send, forward: Send) -> None:
        """Answer a request: by a refusal, as a preflight, or by the application."""
        refused = self._refusal(scope)
        if refused is not None:
            await _send(refused, scope, forward)
        elif scope["method"] == "OPTIONS" and self._sharing(dict(scope["headers"])):
            await forward({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
            await forward({"type": "http.response.body"})
        else:
            await self._app(scope, receive, answer)

    def hold(self, size: int) -> None:
        """Count bytes of a body or an answer; BusyError where all together are too many."""
        if self._held + size > self._options.memory:
            raise BusyError("memory", 1)
        self._held += size

    @property
    def options(self) -> ServeOptions:
        return self._options


def _name(headers: dict[bytes, bytes]) -> str:
    """The id of a request: the client's, if it is short and plain."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


async def _send(refused: RefusedError, scope: Scope, send: Send) -> None:
    body = refused.body(scope["path"])
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    await send({"type": f"{kind}.start", "status": refused.status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})


def _local(host: str) -> bool:
    """Whether only this machine can go by that name, or it is an address."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return host == "localhost" or host.endswith(".localhost")


class _Body:
    """The body of one request, as it arrives."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self._gate, self._receive = gate, receive
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.length = int(length) if length.isdigit() else 0  #: As it is announced.
        self._whole = not self.length and b"transfer-encoding" not in headers
        self._asked = headers.get(b"expect", b"").lower() == b"100-continue"  # nothing was sent yet: nothing is read
        self._start = time.perf_counter()
        self.size = 0  #: Bytes so far.
        self.held = 0  #: Bytes of it and of its answer.

    async def receive(self) -> Message:
        """The next piece; RefusedError or BusyError where it is too large or too late."""
        options = self._gate.options
        if self._whole:
            return await self._receive()
        if self.length > options.max_bytes:
            raise self._too_large()
        left = self._start + options.timeout_s + self.size / _SLOWEST - time.perf_counter()
        try:
            async with asyncio.timeout(max(left, 0.001)):
                message = await self._receive()
        except TimeoutError:
            finding = f"The request did not arrive in time: {self.size} bytes came."
            raise RefusedError(408, finding, "Send it faster, or smaller.", kind="TimeoutError") from None
        self._asked = False
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self.size + size > options.max_bytes:
                raise self._too_large()
            self.hold(size)
            self.size += size
            self._whole = not message.get("more_body", False)
        return message

    def hold(self, size: int) -> None:
        """Count bytes for this request; BusyError where all requests have too many."""
        self._gate.hold(size)
        self.held += size

    def _too_large(self) -> RefusedError:
        finding = f"The request is larger than {self._gate.options.max_bytes:,} bytes."
        return RefusedError(413, finding, "Send a smaller image.", kind="TooLargeError")

    def abandon(self) -> None:
        """Read no more of it: there is no time left."""
        self._asked = True

    async def discard(self) -> bool:
        """Read for a moment what is left of a body that nobody wants; whether that was all."""
        if self._asked or self._whole:
            return self._whole
        left = _DISCARD_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while left > 0 and not self._whole:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        break
                    left -= len(message.get("body", b""))
                    self._whole = not message.get("more_body", False)
        return self._whole
