"""Where published checkpoints are kept on this computer, and the settings of fetching them.

Three environment variables govern it; they are read at each call, never at import:

``RTMO_DEPLOY_CACHE``
    The folder the checkpoints are kept in, instead of the user's cache folder.
``RTMO_DEPLOY_OFFLINE``
    ``1``, ``true``, ``yes`` or ``on``: use what is in the cache, and never the network.
``RTMO_DEPLOY_MIRROR``
    An ``http://`` or ``https://`` prefix that takes the place of everything before the file's name in a
    published URL.

This module looks at names and hashes; it never downloads (see :mod:`rtmo_deploy.zoo.download`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from rtmo_deploy.errors import SetupError
from rtmo_deploy.zoo.records import VARIANTS

if TYPE_CHECKING:
    from rtmo_deploy.zoo.variant import Variant

CACHE_VARIABLE = "RTMO_DEPLOY_CACHE"
OFFLINE_VARIABLE = "RTMO_DEPLOY_OFFLINE"
MIRROR_VARIABLE = "RTMO_DEPLOY_MIRROR"

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


def cache_dir() -> Path:
    """Folder of the downloaded checkpoints; it need not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("rtmo-deploy", appauthor=False) / "checkpoints"


def cached_path(variant: Variant) -> Path:
    """Where the checkpoint of ``variant`` lies once it is fetched; the file need not exist yet."""
    return cache_dir() / variant.file_name


def is_offline() -> bool:
    """Whether ``RTMO_DEPLOY_OFFLINE`` forbids the network.

    Raises:
        SetupError: The variable is set to something that is neither yes nor no.
    """
    value = os.environ.get(OFFLINE_VARIABLE, "").strip().lower()
    if value not in _YES | _NO:
        raise SetupError(
            f"'{value}' is neither yes nor no.",
            remedy="Set it to 1 to forbid the network, or to 0 to allow it.",
            where=OFFLINE_VARIABLE,
        )
    return value in _YES


def download_url(variant: Variant) -> str:
    """The published URL of ``variant``, or its place below the prefix in ``RTMO_DEPLOY_MIRROR``.

    Raises:
        SetupError: The mirror is not an ``http://`` or ``https://`` prefix.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not mirror:
        return variant.url
    if not _is_http_prefix(mirror):
        raise SetupError(
            "It does not hold a prefix of the form https://host/path/.",
            remedy=f"Correct or unset it; for a local folder of checkpoints, set {CACHE_VARIABLE} instead.",
            where=MIRROR_VARIABLE,
        )
    return f"{mirror.rstrip('/')}/{variant.file_name}"


def _is_http_prefix(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is not a number
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or parts.fragment)


def without_credentials(url: str) -> str:
    """``https://user:secret@host/path`` -> ``https://host/path``, fit for a message or a log."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def identify_published(sha256: str) -> Variant | None:
    """The published checkpoint whose file has this SHA-256 (64 hex digits), or None.

    Where only the first 8 digits are known, as upstream publishes them in the file's name, they are compared: enough to
    recognise a file and to notice a damaged one, no proof that nobody forged it.
    """
    digits = sha256.lower()
    return next(
        (record for record in VARIANTS.values() if digits.startswith(record.sha256 or record.sha256_prefix)), None
    )
