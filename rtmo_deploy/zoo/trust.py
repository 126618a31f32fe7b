"""Trust on first use: the whole SHA-256 of a downloaded checkpoint is kept beside it, and a change is refused.

The publisher gives 8 hex digits of each hash. They tell a damaged file; to forge a file to them takes minutes.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

from rtmo_deploy.errors import DownloadError, SetupError
from rtmo_deploy.files import UnreadableError, atomic_write
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from pathlib import Path

_MAX_RECORD = 1 << 16


def record_path(path: Path) -> Path:
    """Where the whole SHA-256 of the cached file ``path`` is kept."""
    return path.with_name(f".{path.name}.sha256.json")


def _recorded(path: Path) -> str | None:
    """The SHA-256 that was recorded for the cached file; None where there is no record.

    Raises:
        DownloadError: The record is damaged.
    """
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
    """Refuse a file whose hash differs from the one that is known or was recorded at the first download.

    Args:
        path: The cached file that is meant; its record lies beside it.
        sha256: Of the file that is there or came, 64 hex digits.
        pinned: The whole hash, where this project knows it.
        what: "The cached file" or "What came".

    Raises:
        DownloadError: It differs, or the record is damaged.
    """
    if pinned is not None:
        if sha256 == pinned:
            return
        finding, remedy = f"the known one is {pinned}", f"Delete {path}, and download it again from the publisher."
    else:
        known = _recorded(path)
        if known in (None, sha256):
            return
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
