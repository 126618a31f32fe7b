"""Runs the server: the socket, uvicorn, signals, and an end at which nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import ssl
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.data.images import MAX_PIXELS as IMAGES_MAX_PIXELS
from rtmo_deploy.environment import MAX_PIXELS_VARIABLE, variable
from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError
from rtmo_deploy.files import read_bounded
from rtmo_deploy.serve.log import LOG, logging_to_stderr
from rtmo_deploy.serve.options import API_KEY_VARIABLE, LOOPBACK, MAX_CONNECTIONS, MAX_PIXELS, ServeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvicorn import Server as _Server

    from rtmo_deploy.runtime.estimator import RTMO
    from rtmo_deploy.serve.service import Service
else:
    _Server = object

#: Seconds after SIGTERM in which new connections are still taken: clients learn from answers that it ends.
_LINGER_S: Final = 0.5
#: Seconds in which the head of a request must arrive.
_HEAD_S: Final = 10.0
#: Seconds that a connection may stay idle.
_IDLE_S: Final = 20
_BACKLOG: Final = 1024
_ADDRESS: Final = "Give an address of this machine, as 127.0.0.1 or 0.0.0.0."


def bind(options: ServeOptions) -> socket.socket:
    """A socket at the server's address, not listening yet; what else a server needs is checked as well.

    Raises:
        MissingDependencyError: A package of the extra ``serve`` is missing.
        SetupError: The address is not there or in use, or a file of the key or the certificate cannot be read.
    """
    _prepare(options)
    where = f"{options.host}:{options.port}"
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SetupError(f"There is no such address: {error}.", remedy=_ADDRESS, where=where) from error
    family, kind, number, _, address = found[0]
    sock = socket.socket(family, kind, number)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _taken(error, where) from error
    return sock


def _taken(error: OSError, where: str) -> SetupError:
    reason = error.strerror or error
    absent = error.errno == errno.EADDRNOTAVAIL
    return SetupError(
        f"It cannot be listened on: {reason}.", remedy=_ADDRESS if absent else "Choose another --port.", where=where
    )


def serve(
    model: RTMO,
    options: ServeOptions | None = None,
    *,
    sock: socket.socket | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a model until SIGINT or SIGTERM; then answer what was accepted, and return.

    Args:
        model: Opened; it stays the caller's.
        options: How to serve it.
        sock: From :func:`bind`; bound here if not given.
        on_ready: Called with the server's address as soon as it takes requests.

    Raises:
        MissingDependencyError: A package of the extra ``serve`` is missing.
        SetupError: The address is in use, or a file of the key or the certificate cannot be read.
        UsageError: It is called in another thread than the main one or in an event loop, or the model is closed.
    """
    options = options or ServeOptions()
    _require_usable(model, options)
    key, context = _prepare(options)
    sock = sock or bind(options)
    pixels = os.environ.get(MAX_PIXELS_VARIABLE) or str(min(MAX_PIXELS, IMAGES_MAX_PIXELS))
    with contextlib.closing(sock), variable(MAX_PIXELS_VARIABLE, pixels), logging_to_stderr(options):
        if key is None and options.host not in LOOPBACK:
            LOG.warning("whoever reaches %s can use the model: there is no API key", options.host)
        asyncio.run(_serve(model, options, sock, key, context, on_ready))


def _require_usable(model: object, options: object) -> None:
    """Refuse what only fails later, in other words."""
    from rtmo_deploy.runtime.estimator import RTMO

    if not isinstance(model, RTMO) or not isinstance(options, ServeOptions):
        kinds = f"{type(model).__name__} and {type(options).__name__}"
        raise UsageError(
            f"serve() takes an RTMO and ServeOptions, not {kinds}.", remedy='Try serve(RTMO("rtmo-s"), ServeOptions()).'
        )
    if not hasattr(model, "backend"):
        raise UsageError("The model is closed.", remedy="Open it again.", where=model.artifact.path.name)
    if threading.current_thread() is not threading.main_thread() or _in_loop():
        remedy = "Call it in a program of its own, as 'rtmo-deploy serve' is."
        raise UsageError("A server that ends on signals runs in the main thread, and in no event loop.", remedy=remedy)


def _in_loop() -> bool:
    with contextlib.suppress(RuntimeError):
        return bool(asyncio.get_running_loop())
    return False


def _prepare(options: ServeOptions) -> tuple[str | None, ssl.SSLContext | None]:
    """The API key and the certificate, after a look for the packages."""
    for package in ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client"):
        try:
            import_module(package)
        except ImportError as error:
            name = package.replace("_", "-")
            raise MissingDependencyError(name, purpose="Serving a model", extra="serve") from error
    return _key(options), _tls(options)


async def _serve(
    model: RTMO,
    options: ServeOptions,
    sock: socket.socket,
    key: str | None,
    context: ssl.SSLContext | None,
    on_ready: Callable[[str], None] | None,
) -> None:
    import uvicorn

    from rtmo_deploy.serve.app import make_app
    from rtmo_deploy.serve.connection import connection_classes
    from rtmo_deploy.serve.service import Service

    service = Service(model, options)
    service.warm_up()
    connection, stream = connection_classes(
        head_s=_HEAD_S,
        grace_s=_LINGER_S,
        most=_connections(),
        refused=lambda status: service.metrics.requests.labels("other", status).inc(),
    )
    config = uvicorn.Config(
        make_app(service, options, key),
        http=connection,
        ws=stream,
        ws_max_size=options.frame_bytes,
        ws_per_message_deflate=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
    )
    config.load()
    config.ssl = context
    scheme = "http" if context is None else "https"
    host, port = sock.getsockname()[:2]
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    await _server(config, service, connection, lambda: on_ready and on_ready(address)).serve(sockets=[sock])


def _connections() -> int:
    """Connections at a time: what the process may open, less what else it opens."""
    try:
        import resource
    except ImportError:  # not on Windows
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2))


def _server(config: Any, service: Service, connection: Any, started: Callable[[], object]) -> Any:
    import uvicorn

    return type("Server", (_Ending, uvicorn.Server), {"service": service, "connection": connection, "told": started})(
        config
    )


class _Ending(_Server):
    """What comes before uvicorn's ``Server``: it first says that it ends, and takes what is already on its way."""

    service: Service
    connection: Any
    told: Callable[[], object]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop(number: int, _frame: object) -> None:
            if self.service.draining:
                self.service.forced = self.force_exit = self.should_exit = True
                loop.call_soon_threadsafe(self._abort)
                return
            self.service.draining = True
            LOG.info("stopping: %s", signal.Signals(number).name)
            loop.call_soon_threadsafe(self.service.stopping.set)
            loop.call_soon_threadsafe(loop.call_later, _LINGER_S, self._end)

        before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _end(self) -> None:
        self.should_exit = True

    def _abort(self) -> None:
        for one in list(self.server_state.connections):
            one.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # another process was faster
            await self.lifespan.shutdown()
            raise _taken(error, "{}:{}".format(*(sockets or [])[0].getsockname()[:2])) from error
        type(self).told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        waiting = []
        for sock in sockets or ():  # connections that nobody has taken yet would be reset
            with contextlib.suppress(OSError):
                while True:
                    waiting.append(sock.accept()[0])
        for server in self.servers:
            server.close()
        for one in waiting:
            one.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, one, ssl=self.config.ssl)
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    def _protocol(self) -> Any:
        return self.connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _key(options: ServeOptions) -> str | None:
    """The API key; None for none."""
    where: object = API_KEY_VARIABLE
    text = os.environ.get(API_KEY_VARIABLE)
    if options.api_key_file is not None:
        where = options.api_key_file
        try:
            text = read_bounded(options.api_key_file, max_bytes=4096).decode()
        except (OSError, ValueError) as error:
            raise SetupError(f"The API key cannot be read: {error}.", remedy="Check the file.", where=where) from error
    if text is None:
        return None
    key = text.strip()
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise SetupError("It holds no API key.", remedy="Write one line of letters and digits.", where=where)
    return key


def _tls(options: ServeOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        finding = f"The certificate or its key cannot be used: {error}."
        raise SetupError(
            finding, remedy="Both are PEM files, the key without a password.", where=options.tls_cert
        ) from error
    return context
