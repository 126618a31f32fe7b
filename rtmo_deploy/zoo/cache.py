"""Where fetched models are kept on this computer, and how they are trusted.

Two environment variables govern it; they are read at each call, never at import:

``RTMO_DEPLOY_CACHE``
    The folder the checkpoints are kept in, instead of the user's cache folder.
``RTMO_DEPLOY_OFFLINE``
    ``1``, ``true``, ``yes`` or ``on``: use what is in the cache, and never the network.

Trust on first use: upstream publishes 8 hex digits of each SHA-256. They tell a damaged file, but a forger needs
minutes to match them. So the whole SHA-256 is recorded beside a file at its first use, and a change is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.environment import is_yes
from rtmo_deploy.errors import DownloadError, SetupError
from rtmo_deploy.files import UnreadableError, write_whole
from rtmo_deploy.plain import read_json
from rtmo_deploy.zoo.records import VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

CACHE_VARIABLE = "RTMO_DEPLOY_CACHE"
OFFLINE_VARIABLE = "RTMO_DEPLOY_OFFLINE"

_MAX_RECORD = 1 << 16


def cache_dir(kind: str = "") -> Path:
    """Folder of the downloaded checkpoints, or of another kind of file that is kept; it need not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute() / kind
    import platformdirs

    return platformdirs.user_cache_path("rtmo-deploy", appauthor=False) / (kind or "checkpoints")


def cached_path(variant: Variant) -> Path:
    """Where the checkpoint of ``variant`` lies once it is fetched; the file need not exist yet."""
    return cache_dir() / variant.file_name


@contextlib.contextmanager
def cache_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with files of the cache into a SetupError."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"The cache cannot be used: {error.strerror or error}.",
            remedy=f"Make the folder writable, free some space, or set {CACHE_VARIABLE} to another folder.",
            where=error.filename or path,
        ) from error


@contextlib.contextmanager
def waiting_lock(file: Path, others: str) -> Iterator[None]:
    """Keep other processes out, by a lock that the system releases when a process ends; waits for one that holds it.

    ``others`` is a clause that says what that one is doing.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("%s; waiting for it.", others)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_offline() -> bool:
    """Whether ``RTMO_DEPLOY_OFFLINE`` forbids the network; SetupError where it is neither yes nor no."""
    return is_yes(OFFLINE_VARIABLE, "forbid the network")


def identify_published(sha256: str) -> Variant | None:
    """The published checkpoint whose file has this SHA-256 (64 hex digits), or None.

    Where only the first 8 digits are known, they are compared: no proof that nobody forged the file.
    """
    digits = sha256.lower()
    return next(
        (record for record in VARIANTS.values() if digits.startswith(record.sha256 or record.sha256_prefix)), None
    )


def record_path(path: Path) -> Path:
    """Where the whole SHA-256 of the cached file ``path`` is kept."""
    return path.with_name(f".{path.name}.sha256.json")


def record_of(path: Path) -> dict[str, str]:
    """What was recorded of the cached file ``path`` at its first use: ``sha256``, ``url`` and more; else nothing.

    Raises:
        DownloadError: The record is damaged.
    """
    record = record_path(path)
    try:
        content = read_json(record, max_bytes=_MAX_RECORD)
    except FileNotFoundError:
        return {}
    except UnreadableError:
        content = None
    digest = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise DownloadError(
            "The record of a downloaded file's SHA-256 is damaged.",
            remedy="Delete it to trust the file anew at its next use.",
            where=record,
        )
    return {key: value for key, value in content.items() if isinstance(value, str)}


def require_trusted(path: Path, sha256: str, *, pinned: str | None, what: str) -> None:
    """Refuse a file whose hash differs from the one that is known or was recorded at the first download."""
    known = pinned or record_of(path).get("sha256")
    if known in (None, sha256):
        return
    if pinned:
        finding, remedy = f"the known one is {pinned}", f"Delete {path}, and download it again from the publisher."
    else:
        finding = f"at its first download it was {known}"
        remedy = f"To go back, restore that file. If you accept the change, delete {record_path(path)} and try again."
    raise DownloadError(
        f"{what} has changed: its SHA-256 is {sha256}, and {finding}. It is not used.", remedy=remedy, where=path
    )


def trust(path: Path, sha256: str, url: str, *, anew: bool = False, **more: str) -> None:
    """Record the hash of a cached file at its first use; a cache that cannot be written to keeps no records.

    Args:
        path: The file.
        sha256: Its hash.
        url: Where it comes from, without credentials.
        anew: Replace the record that is there.
        **more: What else is recorded, such as the commit.
    """
    record = record_path(path)
    if anew or not record.exists():
        content = {"schema_version": 1, "file": path.name, "sha256": sha256, "url": url, **more}
        with contextlib.suppress(SetupError):
            write_whole(record, json.dumps(content, indent=2) + "\n")
