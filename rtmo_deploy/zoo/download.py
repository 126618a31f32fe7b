"""Fetches published checkpoints over HTTP into the cache.

A file stands under its published name only after it was checked against the 8 published digits of its hash (for
damage, not for forgery) and against the whole hash of its first download. Until then it is ``<name>.part``, beside
it; a download that was interrupted is continued by the next one, which is why ``requests`` is used and not ``pooch``.
Processes that want the same file wait for each other at a lock file, and those that come late find the file there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rtmo_deploy.errors import DownloadError, SetupError
from rtmo_deploy.file_kind import Kind, kind_of
from rtmo_deploy.files import atomic_write, human_size, sha256_of
from rtmo_deploy.zoo.cache import (
    CACHE_VARIABLE,
    MIRROR_VARIABLE,
    OFFLINE_VARIABLE,
    cache_dir,
    cached_path,
    download_url,
    is_offline,
    mirrored,
    require_trusted,
    trust,
    without_credentials,
)
from rtmo_deploy.zoo.records import BASE_URL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from rtmo_deploy.zoo.records import Variant

#: Called with the bytes that are there so far and the bytes there will be (None where the server is silent).
ProgressCallback = Callable[[int, int | None], None]

#: Where the author of rtmlib keeps copies of OpenMMLab's ONNX exports.
_ONNX_COPIES = "https://huggingface.co/Tau-J/RTMPose/resolve/main/rtmo/"

_log = logging.getLogger(__name__)

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 60.0
_CHUNK_BYTES = 1 << 16  # a chunk that the cut falls into is lost
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch(variant: Variant, *, progress: ProgressCallback | None = None, force: bool = False) -> Path:
    """The path of the checkpoint of ``variant`` in the cache, downloaded if need be.

    Args:
        variant: Which checkpoint.
        progress: Called during a download with the bytes so far and in all (None where that is not known);
            not called at all when the cached file is good.
        force: Download it even if the cached file is good.

    Raises:
        DownloadError: It could not be fetched, what came or is there has another hash, or the network is forbidden.
        SetupError: The cache cannot be written to, the disk is full, or a variable makes no sense.
    """
    path = cached_path(variant)
    with _cache_errors(path):
        found = _sha256(path)
        differs = _differs(found, variant)
        if not differs:
            require_trusted(path, found, pinned=variant.sha256, what="The cached file")
            if not force:
                trust(path, found, variant.url)
                return path
        if is_offline():
            raise _offline(variant, path, found)
        if found and differs:
            _log.warning("%s is damaged (%s); it is fetched again.", path, differs)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            # Another process may have fetched it while this one waited.
            if force or _differs(_sha256(path), variant):
                _download(variant, path, progress)
    return path


@contextlib.contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"The cache cannot be used: {error.strerror or error}.",
            remedy=f"Make the folder writable, free some space, or set {CACHE_VARIABLE} to another folder.",
            where=error.filename or path,
        ) from error


def fetch_onnx(url: str, *, progress: ProgressCallback | None = None) -> Path:
    """The path in the cache of an ONNX model at an address, downloaded if need be; out of OpenMMLab's ``.zip`` too.

    Nothing is known of it beforehand: its whole hash is recorded at the first download, and a change is refused.

    Raises:
        DownloadError: It could not be fetched or is no such file, its copy has changed, or the network is forbidden.
        SetupError: The cache cannot be written to, the disk is full, or a variable makes no sense.
    """
    name = PurePosixPath(urlsplit(url).path)
    shown = without_credentials(url)
    if name.suffix.lower() not in {".zip", ".onnx"}:
        raise DownloadError("It ends neither in .onnx nor in .zip.", remedy="Check the address.", where=shown)
    # Other models of other places may have the same name.
    path = cache_dir("onnx") / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{name.stem}.onnx"
    remedy = f"Try again later, or put the ONNX file there yourself: {path}"
    with _cache_errors(path):
        if not path.is_file():
            if is_offline():
                raise DownloadError(
                    f"It is not in the cache, and {OFFLINE_VARIABLE} forbids the network.", remedy=remedy, where=shown
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                if not path.is_file():  # another process may have fetched it while this one waited
                    _log.info("Fetching %s.", shown)
                    part = path.with_name(f"{name.name}.part")
                    _transfer_first(_sources(url), part, remedy, progress)
                    _unpack(part, path, zipped=name.suffix.lower() == ".zip", where=shown, remedy=remedy)
        found = _sha256(path)
        require_trusted(path, found, pinned=None, what="The cached file")
        trust(path, found, shown)
    return path


def _sources(url: str) -> list[str]:
    """Where the file at an address is looked for, in this order."""
    if not url.startswith(BASE_URL):
        return [url]
    source = mirrored(url)
    return [source] if source != url else [url, _ONNX_COPIES + url.removeprefix(BASE_URL)]


def _transfer_first(sources: list[str], part: Path, remedy: str, progress: ProgressCallback | None) -> None:
    """Fetch from the first source that has the file."""
    for number, source in enumerate(sources, start=1):
        try:
            _Transfer(source, part, remedy=remedy, progress=progress).run()
        except DownloadError as error:
            if number == len(sources):
                raise
            _log.warning("%s: %s Trying %s.", error.where, error.finding, sources[number])
            part.unlink(missing_ok=True)
        else:
            return


def _unpack(part: Path, path: Path, *, zipped: bool, where: str, remedy: str) -> None:
    """What was fetched, or the model inside the archive, to its place; the archive is removed."""
    wrong = DownloadError("What came is no ONNX model. It was removed.", remedy=remedy, where=where)
    try:
        if zipped:
            with zipfile.ZipFile(part) as archive:
                # MMDeploy calls it end2end.onnx.
                name = max(archive.namelist(), key=lambda one: (one.endswith(".onnx"), one.endswith("end2end.onnx")))
                with archive.open(name) as packed, atomic_write(path) as temporary, temporary.open("wb") as stream:
                    shutil.copyfileobj(packed, stream)
        else:
            part.replace(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise wrong from error
    finally:
        part.unlink(missing_ok=True)
    if kind_of(path) is not Kind.ONNX:
        path.unlink()
        raise wrong


def _sha256(path: Path) -> str:
    """Empty where there is no file."""
    return sha256_of(path) if path.is_file() else ""


def _differs(sha256: str, variant: Variant) -> str:
    """How the SHA-256 of a damaged file differs from the published digits; nothing where it begins with them."""
    if sha256.startswith(variant.sha256_prefix):
        return ""
    return f"its SHA-256 begins with {sha256[:8]}, expected {variant.sha256_prefix}"


def _download(variant: Variant, path: Path, progress: ProgressCallback | None) -> None:
    """Fetch into ``<path>.part``, check, and rename. The caller holds the lock."""
    part = path.with_name(f"{path.name}.part")
    url = download_url(variant)
    remedy = (
        f"Try again later, set {MIRROR_VARIABLE} to the prefix of a mirror (https://host/path/), "
        f"or put the file there yourself: {path}"
    )
    transfer = _Transfer(url, part, remedy=remedy, progress=progress)
    found = _sha256(part)
    if _differs(found, variant):  # else it was whole already, and only its renaming was interrupted
        transfer.run()
        found = _sha256(part)
    if _differs(found, variant) and transfer.joined:
        _log.warning("%s: the parts do not fit together; fetching it again in one go.", path.name)
        part.unlink()
        transfer.run()
        found = _sha256(part)
    if differs := _differs(found, variant):
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"What came is not the published file: {differs}. It was removed; a proxy or a mirror may have sent "
            "something else.",
            remedy=remedy,
            where=without_credentials(url),
        )
    try:
        require_trusted(path, found, pinned=variant.sha256, what="What came")
    except DownloadError:
        part.unlink()
        raise
    part.replace(path)
    trust(path, found, without_credentials(url))


def _offline(variant: Variant, path: Path, found: str) -> DownloadError:
    if not found:
        finding = f"'{variant.name}' is not in the cache"
    elif differs := _differs(found, variant):
        finding = f"The cached '{variant.name}' is damaged ({differs})"
    else:
        finding = f"'{variant.name}' is in the cache, but was asked for anew"
    return DownloadError(
        f"{finding}, and {OFFLINE_VARIABLE} forbids the network.",
        remedy=f"Without the network, rtmo-n works: it comes with the package. Or unset {OFFLINE_VARIABLE}, or put "
        f"{variant.url} there yourself: {path}",
    )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes from fetching ``path``. The system releases the lock when a process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("Another process is fetching %s; waiting for it.", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Transfer:
    """The download of ``url`` into the file ``part``, which is continued if it is there already."""

    def __init__(self, url: str, part: Path, *, remedy: str, progress: ProgressCallback | None = None) -> None:
        #: Whether ``part`` came in several answers, so that the joint may be what makes its hash wrong.
        self.joined = False
        self._url = url
        self._part = part
        self._remedy = remedy
        self._progress = progress
        self._validator: str | None = None
        self._total: int | None = None

    def run(self) -> None:
        """Fetch until the file is whole, in a few attempts with a growing pause between them."""
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
            return failure_of(error)
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
        # What If-Range may hold (RFC 9110, 13.1.5): a strong ETag, else the date.
        etag = answer.headers.get("ETag", "")
        self._validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
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


def failure_of(error: Exception) -> str:
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
    found = (text for kind, text in reasons if isinstance(error, kind))
    return next(found, f"the request failed ({type(error).__name__})")
