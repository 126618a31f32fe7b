"""Where published checkpoints are kept on this computer, how they are trusted, and the settings of fetching them.

Three environment variables govern it; they are read at each call, never at import:

``RTMO_DEPLOY_CACHE``
    The folder the checkpoints are kept in, instead of the user's cache folder.
``RTMO_DEPLOY_OFFLINE``
    ``1``, ``true``, ``yes`` or ``on``: use what is in the cache, and never the network.
``RTMO_DEPLOY_MIRROR``
    An ``http://`` or ``https://`` prefix that takes the place of everything before the file's name in a
    published URL.

Trust on first use: upstream publishes 8 hex digits of each SHA-256. They tell a damaged file, but a forger needs
minutes to match them. So the whole SHA-256 is recorded beside a file at its first use, and a change is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from rtmo_deploy.errors import DownloadError, SetupError
from rtmo_deploy.files import UnreadableError, atomic_write
from rtmo_deploy.plain import read_json
from rtmo_deploy.zoo.records import VARIANTS, Variant

#: A secret in the query of an address, behind its name.
_SECRET = re.compile("([?&][^=&#]*(?:pass|pwd|token|secret|key|sig|auth)[^=&#]*=)[^&#]+", re.IGNORECASE)

CACHE_VARIABLE = "RTMO_DEPLOY_CACHE"
OFFLINE_VARIABLE = "RTMO_DEPLOY_OFFLINE"
MIRROR_VARIABLE = "RTMO_DEPLOY_MIRROR"

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})
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


def is_offline() -> bool:
    """Whether ``RTMO_DEPLOY_OFFLINE`` forbids the network; SetupError where it is neither yes nor no."""
    value = os.environ.get(OFFLINE_VARIABLE, "").strip().lower()
    if value not in _YES | _NO:
        raise SetupError(
            f"'{value}' is neither yes nor no.",
            remedy="Set it to 1 to forbid the network, or to 0 to allow it.",
            where=OFFLINE_VARIABLE,
        )
    return value in _YES


def download_url(variant: Variant) -> str:
    """The published URL of ``variant``, or its place below ``RTMO_DEPLOY_MIRROR``; SetupError if that is no prefix."""
    return mirrored(variant.url)


def mirrored(url: str) -> str:
    """A published URL, or its place below ``RTMO_DEPLOY_MIRROR``; SetupError if that is no prefix."""
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not mirror:
        return url
    try:
        parts = urlsplit(mirror)
        _ = parts.port  # raises where it is not a number
        is_prefix = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        is_prefix = False
    if not is_prefix:
        raise SetupError(
            "It does not hold a prefix of the form https://host/path/.",
            remedy=f"Correct or unset it; for a local folder of checkpoints, set {CACHE_VARIABLE} instead.",
            where=MIRROR_VARIABLE,
        )
    return f"{mirror.rstrip('/')}/{url.rsplit('/', 1)[-1]}"


def without_credentials(url: str) -> str:
    """``https://user:secret@host/path?token=secret`` -> ``https://host/path?token=***``, fit for a message or a log."""
    return _SECRET.sub(r"\1***", re.sub("(?<=//)[^/?#]*@", "", url, count=1))


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


def _recorded(path: Path) -> str | None:
    record = record_path(path)
    try:
        content = read_json(record, max_bytes=_MAX_RECORD)
    except FileNotFoundError:
        return None
    except UnreadableError:
        content = None
    digest = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise DownloadError(
            "The record of a downloaded file's SHA-256 is damaged.",
            remedy="Delete it to trust the file anew at its next use.",
            where=record,
        )
    return digest


def require_trusted(path: Path, sha256: str, *, pinned: str | None, what: str) -> None:
    """Refuse a file whose hash differs from the one that is known or was recorded at the first download."""
    known = pinned or _recorded(path)
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


def trust(path: Path, sha256: str, url: str) -> None:
    """Record the hash of a cached file at its first use; a cache that cannot be written to keeps no records."""
    record = record_path(path)
    if not record.exists():
        with contextlib.suppress(SetupError), atomic_write(record) as temporary:
            text = json.dumps({"schema_version": 1, "file": path.name, "sha256": sha256, "url": url}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
