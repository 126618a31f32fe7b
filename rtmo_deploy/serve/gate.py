"""What stands before every request: key, origin, sizes, time limits; and what is counted and logged of it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from rtmo_deploy.serve.batcher import BusyError
from rtmo_deploy.serve.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from rtmo_deploy.serve.options import ServeOptions
    from rtmo_deploy.serve.service import Service

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG: Final = logging.getLogger("rtmo_deploy.serve")
#: Paths that need no key: probes, and the page, which asks for it.
_OPEN: Final = re.compile(r"/|/v2/health/(live|ready)")
#: Paths whose successes are not logged: they are asked every few seconds.
_QUIET: Final = re.compile(r"/metrics|/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: A body must come in at least so many bytes a second, after the timeout.
_SLOWEST: Final = 64 * 1024
#: Seconds and bytes for which the rest of a refused body is read, so that the client reads the answer.
_DISCARD_S, _DISCARD_BYTES = 1.0, 16 * 2**20
#: Seconds a client may take to read a piece of an answer.
_SEND_S: Final = 30.0
#: Protocol of /stream, and the prefix of the one that carries the key: a browser can send no header there.
SUBPROTOCOL, _KEY_PREFIX = "rtmo", "key."


class Gate:
    """An ASGI application around the server's own."""

    def __init__(self, app: App, service: Service, options: ServeOptions, key: str | None) -> None:
        self._app, self._service, self._options, self._key = app, service, options, key
        self._held = 0  # bytes of the bodies of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket" and not self._welcome(scope):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        """Why a request is not even looked at."""
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return RefusedError(415, "Compressed requests are not read.", "Send the body as it is.")
        if not self._same_origin(headers):
            return RefusedError(403, "Another web page asks.", "Allow it with --allow-origin.", kind="ForbiddenError")
        if scope["method"] == "OPTIONS" or self._key is None or _OPEN.fullmatch(scope["path"]):
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key.encode()):
            return None
        remedy = "Send the header 'Authorization: Bearer KEY'."
        return RefusedError(401, "The API key is missing or wrong.", remedy, kind="UnauthorizedError")

    def _welcome(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        if self._service.draining or not self._same_origin(headers):
            return False
        if self._key is None:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        keys = [given.strip()] if scheme.lower() == b"bearer" else []
        for protocol in scope.get("subprotocols", ()):
            if protocol.startswith(_KEY_PREFIX):
                text = protocol.removeprefix(_KEY_PREFIX)
                with contextlib.suppress(binascii.Error, ValueError):
                    keys.append(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return any(hmac.compare_digest(one, self._key.encode()) for one in keys)

    def _same_origin(self, headers: dict[bytes, bytes]) -> bool:
        """A page of another site may not use somebody's server through their browser."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._options.allow_origin:
            return True
        try:
            return urlsplit(origin).netloc.encode() == headers.get(b"host")
        except ValueError:
            return False

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        body = _Body(self, scope, receive)
        told = scope.setdefault("state", {}).setdefault("told", {})
        status = 499  # the client went away before an answer

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                complete = await body.discard()
                more = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
                if self._service.draining or not complete:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            async with asyncio.timeout(_SEND_S):
                await send(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                await self._app(scope, body.receive, answer)
            else:
                await _send(refused, scope, answer)
        except TimeoutError:
            status = 499
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._held -= body.size
            route = getattr(scope.get("route"), "path", "other")
            milliseconds = (time.perf_counter() - start) * 1000
            self._service.metrics.requests.labels(route, status).inc()
            if status >= 400 or not _QUIET.fullmatch(scope["path"]):
                client = scope["client"][0] if scope.get("client") else ""
                facts = {"id": name, "client": client, "method": scope["method"], "route": route, "status": status}
                LOG.info("request", extra={"told": {**facts, "bytes": body.size, "ms": round(milliseconds, 1), **told}})

    def hold(self, size: int) -> None:
        """Count bytes of a body; BusyError where all bodies together are too many."""
        if self._held + size > self._options.memory:
            raise BusyError("memory", 1)
        self._held += size

    @property
    def options(self) -> ServeOptions:
        return self._options


async def _send(refused: RefusedError, scope: Scope, send: Send) -> None:
    body = refused.body(scope["path"])
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class _Body:
    """The body of one request, as it arrives."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self._gate, self._receive = gate, receive
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.length = int(length) if length.isdigit() else 0  #: As it is announced.
        self._whole = not self.length and b"transfer-encoding" not in headers
        self._asked = headers.get(b"expect", b"").lower() == b"100-continue"  # and nothing was sent yet
        self._start = time.perf_counter()
        self.size = 0  #: Bytes so far.

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
            self._gate.hold(size)
            self.size += size
            self._whole = not message.get("more_body", False)
        return message

    def _too_large(self) -> RefusedError:
        finding = f"The request is larger than {self._gate.options.max_bytes:,} bytes."
        return RefusedError(413, finding, "Send a smaller image.", kind="TooLargeError")

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
