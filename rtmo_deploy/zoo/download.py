"""Getting a checkpoint: from the cache, from the publisher, or from where the caller says it is.

A file stands under its published name only after it was checked against the 8 published digits of its hash (for
damage, not for forgery) and against the whole hash of its first download (:mod:`rtmo_deploy.zoo.trust`). Until then it
is ``<name>.part``, beside it; a download that was interrupted is continued by the next one. Processes that want the
same file wait for each other at a lock file, and those that come late find the file there.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import CheckpointError, DownloadError, SetupError, UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.zoo._transfer import ProgressCallback, Transfer
from rtmo_deploy.zoo.cache import (
    CACHE_VARIABLE,
    MIRROR_VARIABLE,
    OFFLINE_VARIABLE,
    cached_path,
    download_url,
    is_offline,
    without_credentials,
)
from rtmo_deploy.zoo.records import ARCHITECTURES, EMBEDDED, variant
from rtmo_deploy.zoo.trust import require_trusted, trust

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.zoo.variant import EmbeddedModel, Variant

_log = logging.getLogger(__name__)


def fetch(variant: Variant, *, progress: ProgressCallback | None = None, force: bool = False) -> Path:
    """The path of the checkpoint of ``variant`` in the cache, downloaded if need be.

    It is checked for damage, not for forgery: 8 hex digits of its SHA-256 are published. The whole SHA-256 is recorded
    at its first use, and a file that differs from it is refused.

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
    with _disk_errors_explained(path):
        found = _sha256(path)
        if found and _is_whole(found, variant):
            require_trusted(path, found, pinned=variant.sha256, what="The cached file")
            if not force:
                trust(path, found, variant.url)
                return path
        if is_offline():
            raise _offline(variant, path, found)
        if found and not _is_whole(found, variant):
            _log.warning(
                "%s is damaged (its SHA-256 begins with %s, expected %s); it is fetched again.",
                path,
                found[:8],
                variant.sha256_prefix,
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            # Another process may have fetched it while this one waited.
            if force or not ((found := _sha256(path)) and _is_whole(found, variant)):
                _download(variant, path, progress)
    return path


def resolve_checkpoint(
    name_or_path: str, *, progress: ProgressCallback | None = None
) -> tuple[Path, Variant | EmbeddedModel | None]:
    """The checkpoint that a caller means.

    A file of theirs, a model that comes with the package, or a published one by name, fetched if need be. A file that
    exists wins over a model of the same name; a folder does not.

    Returns:
        Its path, and its record if it was asked for by name. For a file the record is None, even if the file
        is a published one: :func:`identify_published` tells that from its hash.

    Raises:
        CheckpointError: The argument is a path, and there is no file.
        UsageError: It is neither a file nor the name of a published model.
        DownloadError, SetupError: As :func:`fetch`; a model that comes with the package has changed.
    """
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path, None
        is_something = bool(name_or_path) and path.exists()
    except OSError as error:
        raise CheckpointError(
            f"The file cannot be reached: {error.strerror or error}.",
            remedy="Check the path and who may read it.",
            where=name_or_path,
        ) from error
    embedded = EMBEDDED.get(name_or_path.lower())
    if embedded is not None:
        _require_packed(embedded)
        return embedded.path, embedded
    try:
        record = published(name_or_path)
    except UsageError as error:
        if is_something:
            raise CheckpointError(
                "This is not a file.", remedy="Name the checkpoint file itself.", where=name_or_path
            ) from None
        if path.suffix or "/" in name_or_path or "\\" in name_or_path:
            raise CheckpointError(
                "There is no such file.",
                remedy="Check the path, or name a published model: 'rtmo-deploy models' lists them.",
                where=name_or_path,
            ) from None
        raise UsageError(f"'{name_or_path}' is neither a file nor a published model.", remedy=error.remedy) from None
    return fetch(record, progress=progress), record


def _require_packed(model: EmbeddedModel) -> None:
    if model.sha256 is not None and sha256_of(model.path) != model.sha256:
        raise SetupError(
            f"The file of '{model.name}', which comes with the package, has changed or is damaged.",
            remedy="Install the package again.",
            where=model.path,
        )


def published(name: str) -> Variant:
    """The record called ``name``, as :func:`rtmo_deploy.zoo.variant`; says so if it is only an architecture.

    Raises:
        UsageError: No such model, or nobody published weights for it.
    """
    try:
        return variant(name)
    except UsageError:
        if name.lower() not in ARCHITECTURES:
            raise
    embedded = EMBEDDED.get(name.lower())
    if embedded is not None:
        raise UsageError(
            f"'{name}' is not downloaded: it comes with the package.",
            remedy=f"Use it by its name; the file is {embedded.path}",
        )
    raise UsageError(
        f"Nobody has published weights for '{name}': it is an architecture of this project's own.",
        remedy=f"Write an untrained checkpoint of it with: rtmo-deploy models init {name} -o FILE",
    )


def _sha256(path: Path) -> str | None:
    """The file's SHA-256; None where there is no file."""
    return sha256_of(path) if path.is_file() else None


def _is_whole(sha256: str | None, variant: Variant) -> bool:
    """Whether the file is not damaged: its SHA-256 begins as published."""
    return sha256 is not None and sha256.startswith(variant.sha256_prefix)


def _download(variant: Variant, path: Path, progress: ProgressCallback | None) -> None:
    """Fetch into ``<path>.part``, check, and rename. The caller holds the lock."""
    part = path.with_name(f"{path.name}.part")
    url = download_url(variant)
    remedy = (
        f"Try again later, set {MIRROR_VARIABLE} to the prefix of a mirror (https://host/path/), "
        f"or put the file there yourself: {path}"
    )
    transfer = Transfer(url, part, remedy=remedy, progress=progress)
    found = _sha256(part)
    if not _is_whole(found, variant):  # else it was whole already, and only its renaming was interrupted
        transfer.run()
        found = _sha256(part)
    if not _is_whole(found, variant) and transfer.joined:
        _log.warning("%s: the parts do not fit together; fetching it again in one go.", path.name)
        part.unlink()
        transfer.run()
        found = _sha256(part)
    if found is None or not _is_whole(found, variant):
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"What came is not the published file: its SHA-256 begins with {(found or '')[:8]}, expected "
            f"{variant.sha256_prefix}. It was removed; a proxy or a mirror may have sent something else.",
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


def _offline(variant: Variant, path: Path, found: str | None) -> DownloadError:
    if found is None:
        finding = f"'{variant.name}' is not in the cache"
    elif _is_whole(found, variant):
        finding = f"'{variant.name}' is in the cache, but was asked for anew"
    else:
        finding = f"The cached '{variant.name}' is damaged (its SHA-256 begins with {found[:8]}, "
        finding += f"expected {variant.sha256_prefix})"
    return DownloadError(
        f"{finding}, and {OFFLINE_VARIABLE} forbids the network.",
        remedy=f"Without the network, rtmo-n works: it comes with the package. Or unset {OFFLINE_VARIABLE}, or put "
        f"{variant.url} there yourself: {path}",
    )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes from fetching ``path``. The system lets go of the lock when a process dies."""
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


@contextlib.contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"The cache cannot be used: {error.strerror or error}.",
            remedy=f"Make the folder writable, free some space, or set {CACHE_VARIABLE} to another folder.",
            where=error.filename or path,
        ) from error
