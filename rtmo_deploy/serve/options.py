"""What a server is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the command line reads the types
from typing import Final, Literal

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import option, settle

#: Where the API key may stand instead of a file.
API_KEY_VARIABLE: Final = "RTMO_DEPLOY_API_KEY"
#: Bytes of a JSON document in a request: its numbers take some ten times as much memory.
MAX_JSON_BYTES: Final = 16 * 2**20
#: Pixels of an image unless the environment or the command line says otherwise: 7680x4320 and a little more.
MAX_PIXELS: Final = 2**25
#: Connections that are open at a time, at most.
MAX_CONNECTIONS: Final = 1000
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_MIB: Final = 2**20


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for every network.")
    port: int = option(8000, "Port to listen on; 0 for a free one.", min=0, max=65535)
    name: str = option("rtmo", "Name of the model in /v2/models/NAME.")
    max_batch: int = option(8, "Most images in one run of the network.", min=1, max=256)
    max_delay_ms: float = option(5.0, "Most milliseconds that an image waits for others on their way.", min=0, max=1000)
    queue: int = option(64, "Most requests that are decoded, wait or run; others are answered 503.", min=1, max=10_000)
    timeout_s: float = option(
        10.0, "Seconds a request may take to arrive, and to wait; then 408, and 503.", min=0.1, max=3600
    )
    max_bytes: int = option(64 * _MIB, "Refuse larger requests (413).", min=1024, max=512 * _MIB)
    max_streams: int = option(16, "Most cameras at a time.", min=0, max=1000)
    drain_s: float = option(30.0, "On SIGTERM, seconds in which what was accepted is still answered.", min=0, max=3600)
    api_key_file: Path | None = option(
        None, f"File with the key that clients must send as bearer token. [default: {API_KEY_VARIABLE}, or none]",
        metavar="FILE",
    )  # fmt: skip
    allow_origin: tuple[str, ...] = option(
        (), "Web page that may use the server besides its own, as https://example.com.", several=True, metavar="ORIGIN"
    )
    tls_cert: Path | None = option(None, "Certificate chain in PEM, for https.", metavar="FILE")
    tls_key: Path | None = option(None, "Its private key.", metavar="FILE")
    log_format: Literal["auto", "text", "json"] = option(
        "auto", "Lines on stderr, one a request; auto is text on a terminal, else JSON."
    )

    def __post_init__(self) -> None:
        settle(self)
        if not self.name.isascii() or not self.name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UsageError(
                f"A model cannot be called '{self.name}'.",
                remedy="Use letters, digits, '-', '_' and '.'.",
                where="--name",
            )
        for origin in self.allow_origin:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d+)?", origin):
                remedy = "Give scheme, host and port as browsers do: https://example.com."
                raise UsageError(f"'{origin}' is not the origin of a web page.", remedy=remedy, where="--allow-origin")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("A certificate and its key go together.", remedy="Give --tls-cert and --tls-key.")

    @property
    def frame_bytes(self) -> int:
        """Bytes that a frame of a stream may have: all streams together have no more than :attr:`memory`."""
        return min(self.max_bytes, max(_MIB, self.memory // max(1, self.max_streams)))

    @property
    def memory(self) -> int:
        """Bytes that all requests and their answers may have together."""
        return max(256 * _MIB, 4 * self.max_bytes)
