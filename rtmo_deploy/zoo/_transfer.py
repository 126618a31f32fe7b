"""One file over HTTP, resumed where the connection was cut.

Written on ``requests`` rather than on ``pooch``: pooch (1.9) can retry, but each try starts again at the
first byte, and a checkpoint has up to some 170 MB. This module knows URLs and files; it does not know what a
checkpoint is, and leaves it to its caller to check what came.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rtmo_deploy.errors import DownloadError
from rtmo_deploy.files import human_size
from rtmo_deploy.zoo.cache import without_credentials

if TYPE_CHECKING:
    from pathlib import Path

    import requests

#: Called with the bytes that are there so far and the bytes there will be (None where the server is silent).
ProgressCallback = Callable[[int, int | None], None]

_log = logging.getLogger(__name__)

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 60.0
_CHUNK_BYTES = 1 << 16  # a chunk that the cut falls into is lost
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transfer:
    """The download of ``url`` into the file ``part``, which is continued if it is there already.

    Attributes:
        joined: Whether ``part`` was put together from more than one answer, so that a wrong hash may come
            from the joint and not from the server.
    """

    def __init__(self, url: str, part: Path, *, remedy: str, progress: ProgressCallback | None = None) -> None:
        self.joined = False
        self._url = url
        self._part = part
        self._remedy = remedy
        self._progress = progress
        self._validator: str | None = None
        self._total: int | None = None

    def run(self) -> None:
        """Fetch until the file is whole, in a few attempts with a growing pause between them.

        Raises:
            DownloadError: The server refuses, cannot be reached or keeps failing; what came stays there.
            OSError: ``part`` cannot be written; it is removed.
        """
        import requests

        problem = ""
        with requests.Session() as session:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    _log.warning("%s: %s; trying again.", without_credentials(self._url), problem)
                    time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
                problem = self._attempt(session)
                if not problem:
                    return
        raise self._error(f"The download failed {_ATTEMPTS} times; the last time, {problem}.")

    def _attempt(self, session: requests.Session) -> str:
        """One request. Returns what went wrong and may pass; nothing when the file is whole."""
        import requests

        start = self._part.stat().st_size if self._part.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._validator:
                headers["If-Range"] = self._validator
        timeout = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
        try:
            with session.get(self._url, headers=headers, stream=True, timeout=timeout) as answer:
                return self._refusal(answer, start) or self._take(answer, start)
        except requests.RequestException as error:
            return _reason(error)
        except OSError:
            self._part.unlink(missing_ok=True)
            raise

    def _refusal(self, answer: requests.Response, start: int) -> str:
        status = answer.status_code
        if status in _MAY_PASS:
            return f"the server answered {status}"
        if status == 416 and start:
            return self._start_again("the partial file is not shorter than the file on the server")
        if status == 206 and not self._continues(answer, start):
            return self._start_again("the server sent another range than asked for, or of another file")
        if status not in {200, 206}:
            raise self._error(f"The server answered {status} ({answer.reason or 'no reason given'}).")
        return ""

    def _continues(self, answer: requests.Response, start: int) -> bool:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            return False
        return match[2] == "*" or self._total in {None, int(match[2])}

    def _start_again(self, why: str) -> str:
        self._part.unlink(missing_ok=True)
        self._total = self._validator = None
        return why

    def _take(self, answer: requests.Response, start: int) -> str:
        """Write the body behind the ``start`` bytes that are there, or in their place if it is the whole."""
        if answer.status_code == 200:
            start = 0
        self.joined = start > 0
        length = answer.headers.get("Content-Length", "")
        counts = length.isdecimal() and "Content-Encoding" not in answer.headers
        self._total = start + int(length) if counts else None
        self._validator = _strong_validator(answer)
        done = start
        with self._part.open("ab" if start else "wb") as stream:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                stream.write(chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(done, self._total)
            stream.flush()
            os.fsync(stream.fileno())
        if self._total is not None and done < self._total:
            return f"the connection ended after {human_size(done)} of {human_size(self._total)}"
        return ""

    def _error(self, finding: str) -> DownloadError:
        return DownloadError(finding, remedy=self._remedy, where=without_credentials(self._url))


def _strong_validator(answer: requests.Response) -> str | None:
    """What to send as If-Range (RFC 9110, 13.1.5): a strong ETag, else the date, else nothing."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified")


def _reason(error: requests.RequestException) -> str:
    """What a failed request comes down to. The exception's own text is long and may hold a password."""
    import requests

    reasons: tuple[tuple[type[Exception], str], ...] = (
        (requests.exceptions.SSLError, "the server's TLS certificate was not accepted"),
        (requests.exceptions.ProxyError, "the proxy could not be used"),
        (requests.exceptions.ConnectTimeout, f"no connection was made within {_CONNECT_TIMEOUT_S:.0f} s"),
        (requests.exceptions.ReadTimeout, f"nothing came for {_READ_TIMEOUT_S:.0f} s"),
        (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
        (requests.exceptions.ConnectionError, "the server could not be reached or the connection was cut"),
        (requests.exceptions.TooManyRedirects, "the server redirected in circles"),
    )
    return next(
        (text for kind, text in reasons if isinstance(error, kind)),
        f"the request failed ({type(error).__name__})",
    )
