"""Is a release's folder what its manifest says: every file, byte by byte, and nothing else?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import ArtifactError, GateFailedError
from rtmo_deploy.files import read_bounded, sha256_of
from rtmo_deploy.release.manifest import MANIFEST, MAX_BYTES, SUMS, UNFINISHED, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: What a run leaves in the folder that is no part of the release.
_WORKING: Final = frozenset({".cache", ".lock", UNFINISHED})
SHOWN: Final = 10


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        folder: The release.
        name: Its name.
        verdict: The one that its manifest records.
        checked: Files that were compared with their hash.
        missing: Files that are not there.
        changed: Files with other bytes, and why that is known.
        extra: Files that the manifest does not know.
    """

    folder: Path
    name: str
    verdict: str
    checked: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as the manifest says."""
        return not (self.missing or self.changed or self.extra)

    def require_ok(self) -> None:
        """Raise unless everything is as the manifest says.

        Raises:
            GateFailedError: It is not; the files are named.
        """
        found = []
        for what, names in (("changed", self.changed), ("missing", self.missing), ("extra", self.extra)):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                found.append(f"{what}: {', '.join(names[:SHOWN])}{more}")
        if found:
            raise GateFailedError(
                f"It is not what its manifest says: {'; '.join(found)}.",
                remedy="Do not use it; get it again, or run the recipe again.",
                where=self.folder,
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "directory": str(self.folder),
            "ok": self.ok,
            "name": self.name,
            "verdict": self.verdict,
            "checked": self.checked,
            "missing": list(self.missing),
            "changed": list(self.changed),
            "extra": list(self.extra),
        }


def verify_release(folder: Path) -> Verification:
    """Compare a folder with its manifest, and the manifest with SHA256SUMS.

    Symbolic links are followed nowhere: one in the place of a file counts as changed.

    Raises:
        ArtifactError: The manifest is missing or damaged, or a file cannot be read.
    """
    manifest = read_manifest(folder)
    listed = {entry["path"]: entry for entry in manifest["files"]}
    missing: list[str] = []
    changed: list[str] = []
    try:
        for name, entry in listed.items():
            path = folder / name
            if not os.path.lexists(path):
                missing.append(name)
            elif not _is_plain(path, folder) or (path.stat().st_size, sha256_of(path)) != (
                entry["size"],
                entry["sha256"],
            ):
                changed.append(name)
        _check_sums(folder, listed, missing, changed)
        present = {
            os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
            for path in folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
    except OSError as error:
        raise ArtifactError(
            f"A file cannot be read: {error.strerror or error}.", remedy="Check who may read it.", where=error.filename
        ) from error
    known = {*listed, MANIFEST, SUMS}
    extra = sorted(name for name in present - known if name.split("/")[0] not in _WORKING)
    return Verification(
        folder,
        manifest["name"],
        manifest["verdict"],
        len(listed) + 2,
        tuple(sorted(missing)),
        tuple(sorted(set(changed))),
        tuple(extra),
    )


def _is_plain(path: Path, folder: Path) -> bool:
    """Whether it is a regular file, with no link on the way from the folder."""
    return path.is_file() and path.resolve() == folder.resolve() / path.relative_to(folder)


def _check_sums(folder: Path, listed: Mapping[str, Any], missing: list[str], changed: list[str]) -> None:
    """SHA256SUMS must say what the manifest says, and know the manifest itself."""
    path = folder / SUMS
    if not os.path.lexists(path):
        missing.append(SUMS)
        return
    if linked := [name for name in (MANIFEST, SUMS) if not _is_plain(folder / name, folder)]:
        changed += linked
        return
    found: dict[str, str] = {}
    for line in read_bounded(path, max_bytes=MAX_BYTES).split(b"\n")[:-1]:
        digest, gap, name = line.partition(b"  ")
        found[name.decode("utf-8", "replace") if gap else ""] = digest.decode("ascii", "replace")
    own = sha256_of(folder / MANIFEST)
    wanted = {name: entry["sha256"] for name, entry in listed.items()}
    if {name: digest for name, digest in found.items() if name != MANIFEST} != wanted or MANIFEST not in found:
        changed.append(SUMS)
    elif found[MANIFEST] != own:
        changed.append(f"{MANIFEST} (or its line in {SUMS})")
