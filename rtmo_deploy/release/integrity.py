"""Checks a release's folder: its manifest, and that every file is what the manifest says and nothing else is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import ArtifactError, GateFailedError
from rtmo_deploy.files import read_bounded, sha256_of
from rtmo_deploy.plain import read_json, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION: Final = 1
MAX_BYTES: Final = 64 << 20
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
#: Names of all files that are a release's own; it is there while the folder is written.
UNFINISHED: Final = ".unfinished"
#: What a run leaves in the folder that is no part of the release.
_WORKING: Final = frozenset({".cache", ".lock", UNFINISHED})
SHOWN: Final = 10
_FIELDS: Final = {
    **dict.fromkeys(("name", "verdict", "made", "command", "rtmo_deploy"), str),
    "strict": bool,
    **dict.fromkeys(("recipe", "source", "machine"), dict),
    **dict.fromkeys(("steps", "gates", "files"), list),
}


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read and check a manifest; of its files only that paths stay within the folder.

    Raises:
        ArtifactError: It is not there, is damaged, or is of a newer release.
    """
    path = folder / name
    try:
        data = read_json(path, max_bytes=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        unfinished = (folder / ".cache").is_dir() or (folder / UNFINISHED).is_file()
        raise ArtifactError(
            "There is no manifest: this release was not finished." if unfinished else "This is no release's folder.",
            remedy="Run the recipe again: it goes on where it was." if unfinished else "Name the folder of one.",
            where=path,
        ) from error
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if not isinstance(data, dict) or type(data.get("schema_version")) is not int:
        raise _damaged(path, "it has no schema version")
    if data["schema_version"] > SCHEMA_VERSION:
        raise ArtifactError(
            f"It has schema version {data['schema_version']}; this release knows up to {SCHEMA_VERSION}.",
            remedy="Upgrade rtmo-deploy.",
            where=path,
        )
    for field_name, kind in _FIELDS.items():
        if not isinstance(data.get(field_name), kind):
            raise _damaged(path, f"'{field_name}' is missing or no {kind.__name__}")
    if not (data["name"] + data["verdict"]).isprintable():
        raise _damaged(path, "its name or its verdict is no text")
    for entry in data["files"]:
        _check_entry(entry, path)
    if len({entry["path"] for entry in data["files"]}) < len(data["files"]):
        raise _damaged(path, "it names a file twice")
    return data


def _check_entry(entry: Any, where: Path) -> None:
    if not isinstance(entry, dict):
        raise _damaged(where, "an entry of 'files' is no mapping")
    name, sha256, size = entry.get("path"), entry.get("sha256"), entry.get("size")
    if not isinstance(name, str) or not is_inside(name):
        raise _damaged(where, f"{str(name)[:200]!r} is no path, or leads out of the folder")
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise _damaged(where, f"the hash of {name} is none")
    if type(size) is not int or size < 0:
        raise _damaged(where, f"the size of {name} is none")


def is_inside(name: str) -> bool:
    """Whether a name with ``/`` is one of a file within the folder, and plainly written."""
    if not name or not name.isprintable() or "\\" in name or ":" in name:
        return False
    parts = PurePosixPath(name)
    return not parts.is_absolute() and ".." not in parts.parts and str(parts) == name and name != "."


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The manifest is damaged ({' '.join(why.split())}).",
        remedy="Get the release again from where it came from; or run the recipe again.",
        where=path,
    )


@dataclass(frozen=True)
class Verification:
    """How a folder compares with its manifest, which gives ``name`` and ``verdict``."""

    directory: Path
    name: str
    verdict: str
    #: Files that were compared with their hash.
    checked: int
    missing: tuple[str, ...]
    #: Files with other bytes, and why that is known.
    changed: tuple[str, ...]
    #: Files that the manifest does not know.
    extra: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as the manifest says."""
        return not (self.missing or self.changed or self.extra)

    def require_ok(self) -> None:
        """Raise unless everything is as the manifest says."""
        kinds = {"changed": self.changed, "missing": self.missing, "extra": self.extra}
        found = [f"{kind}: {shorten(names, SHOWN)}" for kind, names in kinds.items() if names]
        if found:
            raise GateFailedError(
                f"It is not what its manifest says: {'; '.join(found)}.",
                remedy="Do not use it; get it again, or run the recipe again.",
                where=self.directory,
            )


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
            elif not _is_plain(path, folder) or not is_same(path, entry["size"], entry["sha256"]):
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


def is_same(path: Path, size: int, sha256: str) -> bool:
    """Whether a file has these bytes."""
    return path.stat().st_size == size and sha256_of(path) == sha256


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
    own = found.pop(MANIFEST, None)
    if own is None or found != {name: entry["sha256"] for name, entry in listed.items()}:
        changed.append(SUMS)
    elif own != sha256_of(folder / MANIFEST):
        changed.append(f"{MANIFEST} (or its line in {SUMS})")
