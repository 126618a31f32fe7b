"""Transfers one file over HTTP from one address, and continues what was interrupted.

``requests`` is used and not ``pooch``, which cannot continue a download.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rtmo_deploy.address import without_credentials
from rtmo_deploy.errors import DownloadError
from rtmo_deploy.files import human_size

if TYPE_CHECKING:
    from pathlib import Path

    import requests

#: Called with the bytes that are there so far and the bytes there will be (None where the server is silent).
ProgressCallback = Callable[[int, int | None], None]

_log = logging.getLogger(__name__)

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0  # a server that asks for more is not waited for
#: Seconds for a connection and between two parts: of the last address, and of one after which another is tried.
_TIMEOUTS_S = (10.0, 30.0)
_SHORT_TIMEOUTS_S = (4.0, 10.0)
_SLOW_S, _SLOW_BYTES = 30.0, 1 << 15  # fewer bytes in this time are too few
_CHUNK_BYTES = 1 << 16
_MAX_BYTES = 1 << 32
_MAX_REDIRECTS = 10
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Source:
    """One address that a file is fetched from."""

    url: str

    @property
    def shown(self) -> str:
        """The address without credentials."""
        return without_credentials(self.url)

    def auth(self) -> Any:
        """What ``requests`` adds to the first request; None for nothing."""
        return None

    def facts(self, answers: list[requests.Response]) -> dict[str, str]:
        """What the headers of the answers say of the file: ``sha256`` (64 hex digits), ``commit``."""
        del answers
        return {}

    def refusal(self, answer: requests.Response) -> str:
        """Why there is no file, as a clause."""
        return f"the server answered {answer.status_code} ({answer.reason or 'no reason given'})"


class _GivenUpError(Exception):
    """This address is not asked again."""


class Transfer:
    """The download from ``source`` into the file ``part``, which is continued if it is there already.

    Args:
        source: The address.
        part: The file.
        known: The whole file's hash will be checked, so a joint that does not fit is noticed. Otherwise a file is
            continued only if the server vouches for it by its ETag or date.
        last: There is no other address: be patient, and try again what may pass.
        progress: Told of the bytes that have come.
    """

    def __init__(
        self, source: Source, part: Path, *, known: bool, last: bool = True, progress: ProgressCallback | None = None
    ) -> None:
        #: Whether ``part`` came in several answers, so that the joint may be what makes its hash wrong.
        self.joined = False
        #: What the headers say of the file; see :meth:`Source.facts`.
        self.facts: dict[str, str] = {}
        self.source, self._part, self._progress = source, part, progress
        self._known, self._last = known, last
        self._timeouts = _TIMEOUTS_S if last else _SHORT_TIMEOUTS_S
        self._pause_s: float | None = None
        self._anew = False
        self._validator: str | None = None
        self._total: int | None = None

    def run(self) -> None:
        """Fetch until the file is whole, in a few attempts with a growing pause between them.

        Raises:
            DownloadError: It cannot be had from here. What has come stays if it can be continued.
        """
        import requests

        problem = ""
        with requests.Session() as session:
            session.max_redirects = _MAX_REDIRECTS
            for attempt in range(_ATTEMPTS):
                if attempt:
                    _log.warning("%s: %s; trying again.", self.source.shown, problem)
                    time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) if self._pause_s is None else self._pause_s)
                before, self._anew = self._size(), False
                try:
                    problem = self._attempt(session)
                except _GivenUpError as error:
                    raise self._error(f"{error}") from error
                if not problem:
                    return
                if not (self._last or self._anew or self._size() > before):  # another address may be better
                    raise self._error(problem)
        raise self._error(f"the download failed {_ATTEMPTS} times; the last time, {problem}")

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self, session: requests.Session) -> str:
        """One request. Returns what went wrong and may pass; nothing when the file is whole."""
        import requests
        import urllib3

        self._pause_s = None
        if not self._known and self._validator is None:
            self._part.unlink(missing_ok=True)
        start = self._size()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._validator:
                headers["If-Range"] = self._validator
        how: dict[str, Any] = {"headers": headers, "auth": self.source.auth(), "timeout": self._timeouts}
        try:
            with session.get(self.source.url, stream=True, **how) as answer:
                return self._refusal(answer, start) or self._take(answer, start)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            why = failure_of(error, *self._timeouts)
            if isinstance(error, (requests.TooManyRedirects, ValueError)):  # an address that is none is a ValueError
                raise _GivenUpError(why) from error
            return why
        except OSError:
            self._part.unlink(missing_ok=True)
            raise

    def _refusal(self, answer: requests.Response, start: int) -> str:
        status, chain = answer.status_code, [urlsplit(one.url).scheme for one in (*answer.history, answer)]
        if "https" in chain and "http" in chain[chain.index("https") :]:
            raise _GivenUpError("the server redirected from https to http")
        if status in _MAY_PASS:
            self._pause_s = _retry_after(answer)
            if self._pause_s is not None and self._pause_s > _LONGEST_PAUSE_S:
                raise _GivenUpError(f"the server answered {status}, and asks to wait for {self._pause_s:.0f} s")
            return f"the server answered {status}"
        if status == 416 and start:
            return self._start_again("the partial file is not shorter than the file on the server")
        if status == 206 and not self._continues(answer, start):
            return self._start_again("the server sent another range than asked for, or of another file")
        if status not in {200, 206}:
            raise _GivenUpError(self.source.refusal(answer))
        return ""

    def _continues(self, answer: requests.Response, start: int) -> bool:
        match = _range(answer)
        if match is None or int(match[1]) != start or _encoded(answer):
            return False
        if self._validator is not None and _validator(answer) not in {None, self._validator}:
            return False  # another file, of a server that does not know If-Range
        return match[2] == "*" or self._total in {None, int(match[2])}

    def _start_again(self, why: str) -> str:
        self._part.unlink(missing_ok=True)
        self._total = self._validator = None
        self._anew = True
        return why

    def _take(self, answer: requests.Response, start: int) -> str:
        """Write the body behind the ``start`` bytes that are there, or in their place if it is the whole."""
        if answer.status_code == 200:
            start = 0
        self.joined = start > 0
        self.facts = self.source.facts([*answer.history, answer])
        length, encoded = answer.headers.get("Content-Length", ""), _encoded(answer)
        self._total = start + int(length) if length.isdecimal() and not encoded else None
        part = _range(answer) if answer.status_code == 206 else None
        if part is not None and part[2] != "*":
            self._total = int(part[2])
        self._validator = _validator(answer)
        try:
            done = self._write(answer, start)
        except Exception:
            if encoded:  # its length is not that of what was sent
                self._start_again("")
            raise
        if self._total is not None and done < self._total:
            return f"the connection ended after {human_size(done)} of {human_size(self._total)}"
        return ""

    def _write(self, answer: requests.Response, start: int) -> int:
        read = answer.raw.read1  # read waits for a whole chunk
        done, mark, since = start, start, time.monotonic()
        with self._part.open("ab" if start else "wb") as stream:
            while chunk := read(_CHUNK_BYTES, decode_content=True):
                stream.write(chunk)
                done += len(chunk)
                if done > _MAX_BYTES:
                    raise _GivenUpError(f"it has more than {human_size(_MAX_BYTES)}")
                if self._progress is not None:
                    self._progress(done, self._total)
                now = time.monotonic()
                if now - since > _SLOW_S:
                    if done - mark < _SLOW_BYTES:
                        raise _GivenUpError(f"only {human_size(done - mark)} came in {now - since:.0f} s")
                    mark, since = done, now
            stream.flush()
            os.fsync(stream.fileno())
        return done

    def _error(self, why: str) -> DownloadError:
        return DownloadError(f"{why[0].upper()}{why[1:]}.", where=self.source.shown)


def _validator(answer: requests.Response) -> str | None:
    """What If-Range may hold (RFC 9110, 13.1.5): a strong ETag, else the date."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _range(answer: requests.Response) -> re.Match[str] | None:
    """The first byte and the whole file's size ("*" where that is not said) of an answer that holds a part."""
    return re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))


def _encoded(answer: requests.Response) -> bool:
    return answer.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}


def _retry_after(answer: requests.Response) -> float | None:
    """Seconds that the server asks to wait; None where it does not, or not in a form that is understood."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return max(0.0, (when - dt.datetime.now(dt.UTC)).total_seconds())


_PROXY = "the proxy could not be used; HTTP_PROXY and HTTPS_PROXY name it, and NO_PROXY the hosts without one"


def failure_of(error: Exception, connect_s: float = 10.0, read_s: float = 10.0) -> str:
    """What a failed request comes down to. The exception's own text is long and may hold a password."""
    import requests
    import urllib3

    known, lower = requests.exceptions, urllib3.exceptions
    cause = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return (
            "the server's TLS certificate was not accepted; REQUESTS_CA_BUNDLE names a file of certificates to accept"
        )
    if "SOCKS" in cause:
        return "the proxy is a SOCKS proxy, which needs the package PySocks"
    if isinstance(error, known.InvalidURL) and cause.startswith("Proxy URL"):
        return _PROXY
    if isinstance(error, known.ConnectionError) and "Failed to resolve" in cause:
        return "the name of the host is not known, or there is no network"
    reasons: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
        ((known.SSLError, lower.SSLError), "no TLS connection could be made; the server may speak http"),
        ((known.ProxyError, known.InvalidProxyURL), _PROXY),
        ((known.ConnectTimeout,), f"no connection was made within {connect_s:.0f} s"),
        ((known.ReadTimeout, lower.ReadTimeoutError), f"nothing came for {read_s:.0f} s"),
        ((known.ChunkedEncodingError, lower.ProtocolError), "the connection was cut"),
        ((known.ContentDecodingError, lower.DecodeError), "what came is compressed, and damaged"),
        ((known.ConnectionError,), "the server could not be reached or the connection was cut"),
        ((known.TooManyRedirects,), "the server redirected in circles"),
        ((known.InvalidSchema, known.MissingSchema), "the server redirected to something that is not http(s)"),
        ((ValueError,), "the address is not valid"),
    )
    found = (text for kinds, text in reasons if isinstance(error, kinds))
    return next(found, f"the request failed ({type(error).__name__})")
