"""manifest.json: everything a release is, every file of it by hash; and SHA256SUMS, the same for ``sha256sum -c``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rtmo_deploy.release.release import Release
    from rtmo_deploy.release.results import StepResult

SCHEMA_VERSION: Final = 1
MAX_BYTES: Final = 64 << 20
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
#: Names of all files that are a release's own; it is there while the folder is written.
UNFINISHED: Final = ".unfinished"
_FIELDS: Final = {
    "name": str,
    "verdict": str,
    "strict": bool,
    "made": str,
    "command": str,
    "rtmo_deploy": str,
    "recipe": dict,
    "source": dict,
    "machine": dict,
    "steps": list,
    "gates": list,
    "files": list,
}


@dataclass(frozen=True)
class FileEntry:
    """A file of a release.

    Attributes:
        path: In the release's folder, with ``/``.
        sha256: 64 hex digits.
        size: Bytes.
        kind: ``onnx``, ``engine``, ``report`` and so on.
        step: The step that made it; None for what the release itself writes.
        parents: The files it was made of, by step and SHA-256.
        versions: Packages it was made with.
        origin: Where it lies before it is put there; not in the manifest.
    """

    path: str
    sha256: str
    size: int
    kind: str = "manifest"
    step: str | None = None
    parents: tuple[Mapping[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Path | None = None

    @classmethod
    def of_bytes(cls, path: str, data: bytes) -> FileEntry:
        """Of what is about to be written."""
        return cls(path, hashlib.sha256(data).hexdigest(), len(data))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = {key: value for key, value in vars(self).items() if key != "origin"}
        return {**values, "parents": [dict(parent) for parent in self.parents], "versions": dict(self.versions)}


def build_manifest(release: Release, files: Sequence[FileEntry]) -> dict[str, Any]:
    """What the manifest says."""
    source = release.source()
    return {
        "schema_version": SCHEMA_VERSION,
        "name": release.recipe.name,
        "verdict": release.verdict,
        "strict": release.strict,
        "made": release.started,
        "command": release.command,
        "rtmo_deploy": __version__,
        "recipe": {"path": "recipe.yaml", "sha256": hashlib.sha256(release.recipe_text).hexdigest()},
        "source": {
            "given": release.recipe.source,
            **{key: source.facts.get(key) for key in ("name", "sha256", "size", "architecture")},
        },
        "machine": dict(release.machine),
        "steps": [_step(result) for result in release.results.values()],
        "gates": [gate.to_dict() for gate in release.gates],
        "files": [entry.to_dict() for entry in files],
    }


def _step(result: StepResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "action": result.step.action,
        "kind": result.step.kind,
        "status": result.status.value,
        "key": result.key,
        "inputs": dict(result.step.inputs),
        "options": dict(result.step.options),
        "versions": dict(result.versions),
        "seconds": round(result.seconds, 3),
        "message": result.message,
        "exit_code": result.exit_code,
        "facts": dict(result.facts),
    }


def sums_text(files: Iterable[FileEntry]) -> str:
    """Lines that ``sha256sum -c`` reads."""
    return "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(files, key=lambda entry: entry.path))


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read and check a manifest; of its files only that paths stay within the folder.

    Args:
        folder: The release's folder.
        name: The manifest in it.

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
    plain = PurePosixPath(name)
    return not plain.is_absolute() and ".." not in plain.parts and str(plain) == name and name != "."


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The manifest is damaged ({' '.join(why.split())}).",
        remedy="Get the release again from where it came from; or run the recipe again.",
        where=path,
    )
