"""Fetches models over HTTP into the cache: published checkpoints, and whatever else has an address.

A file stands under its name only after it was checked: a published one against the 8 published digits of its hash (for
damage, not for forgery), one with ``#sha256=`` against that, every one against the whole hash of its first download.
Until then it is ``<name>.part``, beside it. Several addresses are tried in turn; one that sends another file is passed
over. Processes that want the same file wait for each other at a lock file, and those that come late find the file
there.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rtmo_deploy.address import is_remote, split_hash, without_credentials, without_user
from rtmo_deploy.errors import ArtifactError, DownloadError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, Kind, kind_of
from rtmo_deploy.files import is_portable_name, sha256_of
from rtmo_deploy.zoo.archive import require_model
from rtmo_deploy.zoo.cache import (
    OFFLINE_VARIABLE,
    cache_dir,
    cache_errors,
    cached_path,
    is_offline,
    record_of,
    require_trusted,
    trust,
    waiting_lock,
)
from rtmo_deploy.zoo.hub import HubFile
from rtmo_deploy.zoo.records import BASE_URL, VARIANTS
from rtmo_deploy.zoo.sources import MIRROR_VARIABLE, published_sources, sources_of
from rtmo_deploy.zoo.transfer import Transfer
from rtmo_deploy.zoo.whole import is_cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.zoo.records import Variant
    from rtmo_deploy.zoo.transfer import ProgressCallback, Source

_log = logging.getLogger(__name__)

#: What a file with an address may be. An engine is code, and an OpenVINO model is two files.
_KINDS = frozenset({*CHECKPOINT.kinds, Kind.ONNX, Kind.ZIP})


@dataclass(frozen=True)
class _Wanted:
    """A file that is to be in the cache."""

    name: str  #: How messages call it.
    url: str  #: The address that it is known by, without credentials.
    path: Path
    digits: str = ""  #: What its SHA-256 begins with; nothing where that is not known.
    pinned: str | None = None  #: The whole SHA-256, where it is known.

    has_mirrors: bool = False  #: Whether a mirror may have it.

    @classmethod
    def published(cls, variant: Variant) -> _Wanted:
        path = cached_path(variant)
        return cls(f"'{variant.name}'", variant.url, path, variant.sha256_prefix, variant.sha256, has_mirrors=True)

    @classmethod
    def at(cls, url: str, pinned: str | None) -> _Wanted:
        shown = without_credentials(url)
        return cls(f"'{shown}'", shown, cached_address(url), pinned or "", pinned, url.startswith(BASE_URL))

    def differs(self, sha256: str) -> str:
        """How the SHA-256 of a damaged file differs from the known digits; nothing where it begins with them."""
        if sha256.startswith(self.digits):
            return ""
        return f"its SHA-256 begins with {sha256[:8]}, expected {self.digits}"

    def why_not(self, part: Path, facts: dict[str, str]) -> str:
        """What is wrong with a file that came, as sentences; nothing if it is the one."""
        sha256 = _sha256(part)
        if differs := self.differs(sha256):
            return f"What came is another file: {differs}. A proxy or a mirror may have sent it."
        if facts.get("sha256", sha256) != sha256:
            return f"What came is damaged: its SHA-256 is {sha256}, and the Hub's is {facts['sha256']}."
        kind = kind_of(part)
        if not self.digits and kind not in _KINDS:
            page = " Give the address of the file itself, not of its page." if kind is Kind.HTML else ""
            return f"What came is {kind.article}, not a checkpoint, an ONNX model or a .zip around one.{page}"
        if not self.digits and is_cut(part, kind):
            return f"What came is the beginning of {kind.article}, or is damaged."
        if kind is Kind.ZIP:
            try:
                require_model(part)
            except ArtifactError as error:
                return f"What came is a .zip archive that cannot be used. {error.finding}"
        if self.went_on(facts):
            return ""
        try:
            require_trusted(self.path, sha256, pinned=self.pinned, what="What came")
        except DownloadError as error:
            return f"{error.finding} {error.remedy}"
        return ""

    def went_on(self, facts: dict[str, str]) -> bool:
        """Whether its branch on the Hub has another commit than at its first download."""
        on_hub = self.url.lower().startswith("hf://") and "commit" in facts
        return on_hub and record_of(self.path).get("commit") != facts["commit"]


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
    sources = partial(published_sources, variant.url)
    return _obtain(_Wanted.published(variant), sources, progress, force=force)


def fetch_address(address: str, *, progress: ProgressCallback | None = None, force: bool = False) -> Path:
    """The path in the cache of a model at an address, downloaded if need be; an archive is not unpacked.

    Nothing is known of it beforehand but what ``#sha256=`` says: its whole hash is recorded at the first download, and
    a change is refused. The address of a published checkpoint is fetched as that.

    Args:
        address: ``http://``, ``https://`` or ``hf://``; ``#sha256=`` and 64 hex digits may follow.
        progress: As of :func:`fetch`.
        force: As of :func:`fetch`. Of a branch on the Hub the newest commit's file is taken then.

    Raises:
        DownloadError: It could not be fetched or is no model, its copy has changed, or the network is forbidden.
        SetupError: The cache cannot be written to, the disk is full, or a variable makes no sense.
        UsageError: It is no such address.
    """
    if not is_remote(address):
        raise UsageError("It is not an http(s):// or hf:// address.", remedy="Check it.", where=address)
    variant = _variant_at(address)
    if variant is not None:
        return fetch(variant, progress=progress, force=force)
    url, pinned = split_hash(address)
    return _obtain(_Wanted.at(url, pinned), partial(sources_of, url), progress, force=force)


def cached_address(address: str) -> Path:
    """Where the file at an address lies once it is fetched; the file need not exist yet."""
    variant, url = _variant_at(address), split_hash(address)[0]
    if variant is not None:
        return cached_path(variant)
    if url.lower().startswith("hf://"):
        url = HubFile.parse(url).source().url  # another Hub may have another file of that name
    name = unquote(PurePosixPath(_path_of(url)).name)
    # Other models of other places may have the same name; a query may choose the model.
    folder = cache_dir("addresses") / hashlib.sha256(without_user(url).encode()).hexdigest()[:16]
    return folder / (name if is_portable_name(name, 200) else "model")


def _variant_at(address: str) -> Variant | None:
    return next((one for one in VARIANTS.values() if one.url == address), None)


def _path_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.hostname:
            _ = parts.port  # raises where it is not a number
            return parts.path
    except ValueError:
        pass
    raise UsageError("The address cannot be understood.", remedy="Check it.", where=without_credentials(url))


def _obtain(
    wanted: _Wanted, sources: Callable[[], list[Source]], progress: ProgressCallback | None, *, force: bool
) -> Path:
    path = wanted.path
    with cache_errors(path):
        found = _sha256(path)
        differs = wanted.differs(found)
        if found and not differs:
            require_trusted(path, found, pinned=wanted.pinned, what="The cached file")
            if not force:
                trust(path, found, wanted.url)
                return path
        if is_offline():
            raise _offline(wanted, found)
        if found and differs:
            _log.warning("%s is damaged (%s); it is fetched again.", path, differs)
        known = sources()
        path.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(path.with_name(f".{path.name}.lock"), f"Another process is fetching {path.name}"):
            # Another process may have fetched it while this one waited.
            if force or not path.is_file() or wanted.differs(_sha256(path)):
                _download(wanted, known, progress)
    return path


def _download(wanted: _Wanted, sources: list[Source], progress: ProgressCallback | None) -> None:
    """Fetch into ``<path>.part`` from the first address that has it, check, and rename. The caller holds the lock."""
    part = wanted.path.with_name(f"{wanted.path.name}.part")
    failures: list[DownloadError] = []
    for number, source in enumerate(sources, start=1):
        last = number == len(sources)
        transfer = Transfer(source, part, known=bool(wanted.digits), last=last, progress=progress)
        try:
            _transfer(wanted, transfer, part)
        except DownloadError as error:
            failures.append(error)
            if not wanted.digits:
                part.unlink(missing_ok=True)
            if not last:
                _log.warning("%s: %s Trying %s.", error.where, error.finding, sources[number].shown)
            continue
        facts = {name: value for name, value in transfer.facts.items() if name != "sha256"}
        sha256, anew = _sha256(part), wanted.went_on(facts)
        part.replace(wanted.path)
        trust(wanted.path, sha256, source.shown, anew=anew, **facts)
        return
    raise _failed(wanted, failures)


def _transfer(wanted: _Wanted, transfer: Transfer, part: Path) -> None:
    """Fetch from one address; DownloadError where it has not the file. A wrong file is removed."""
    whole = bool(wanted.digits) and part.is_file() and not wanted.differs(_sha256(part))
    if not whole:  # else only its renaming was interrupted
        transfer.run()
    why = wanted.why_not(part, transfer.facts)
    if why and transfer.joined:
        _log.warning("%s: the parts do not fit together; fetching it again in one go.", wanted.path.name)
        part.unlink()
        transfer.run()
        why = wanted.why_not(part, transfer.facts)
    if why:
        part.unlink(missing_ok=True)
        raise DownloadError(why, where=transfer.source.shown)


def _failed(wanted: _Wanted, failures: list[DownloadError]) -> DownloadError:
    mirrors = f"set {MIRROR_VARIABLE} to the prefix of a mirror (https://host/path/), " if wanted.has_mirrors else ""
    remedy = f"Try again later, {mirrors}or put the file there yourself: {wanted.path}"
    if len(failures) == 1:
        return DownloadError(failures[0].finding, remedy=remedy, where=failures[0].where)
    listed = " ".join(f"({number}) {one.where}: {one.finding}" for number, one in enumerate(failures, start=1))
    what = wanted.path.name
    return DownloadError(f"It could be had from none of {len(failures)} addresses. {listed}", remedy=remedy, where=what)


def _offline(wanted: _Wanted, found: str) -> DownloadError:
    if not found:
        finding = f"{wanted.name} is not in the cache"
    elif differs := wanted.differs(found):
        finding = f"The cached {wanted.name} is damaged ({differs})"
    else:
        finding = f"{wanted.name} is in the cache, but was asked for anew"
    return DownloadError(
        f"{finding}, and {OFFLINE_VARIABLE} forbids the network.",
        remedy=f"Without the network, rtmo-n works: it comes with the package. Or unset {OFFLINE_VARIABLE}, or put "
        f"{wanted.url} there yourself: {wanted.path}",
    )


def _sha256(path: Path) -> str:
    """Empty where there is no file."""
    return sha256_of(path) if path.is_file() else ""
