"""Checks a release's folder: every file is what the manifest says and what was signed, and nothing else is there."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import ArtifactError, GateFailedError
from rtmo_deploy.file_kind import described
from rtmo_deploy.files import UnreadableError, is_inside, read_bounded, reading, sha256_of
from rtmo_deploy.plain import read_json, shorten
from rtmo_deploy.release.signature import SIGNATURE, Signature, SignatureStatus, check_signature, trusted_signer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import NoReturn

    from rtmo_deploy.release.signature import Trusted

SCHEMA_VERSION: Final = 1
MAX_BYTES: Final = 64 << 20
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
#: Names of all files that are a release's own; it is there while the folder is written.
UNFINISHED: Final = ".unfinished"
#: What a run leaves in the folder that is no part of the release.
WORKING: Final = frozenset({".cache", ".lock", UNFINISHED})
SHOWN: Final = 10
#: What a process that was killed leaves of a signature.
PART_OF_SIGNATURE: Final = f".{SIGNATURE}.*.part"
_OWN: Final = (MANIFEST, SUMS)
#: The finding on a release of which files, manifest and SHA256SUMS were exchanged together.
CONSISTENT: Final = "the files agree with the manifest, but not with what was signed"
_FIELDS: Final = {
    **dict.fromkeys(("name", "verdict", "made", "command", "rtmo_deploy"), str),
    "strict": bool,
    **dict.fromkeys(("recipe", "source", "machine"), dict),
    **dict.fromkeys(("steps", "gates", "files"), list),
}


def require_folder(path: Path, taken: str) -> None:
    """Refuse a file in the place of a release's folder; ``taken`` is a clause that says what is taken."""
    if not path.is_file():
        return
    owner = next((one for one in (path.parent, path.parent.parent) if all((one / name).is_file() for name in _OWN)), "")
    raise ArtifactError(
        f"It is a file of a release, and {taken}." if owner else f"It is {described(path)}, and {taken}.",
        remedy=f"Give the folder: {owner}" if owner else f"Name the folder that holds {MANIFEST}.",
        where=path,
    )


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read and check a manifest; of its files only that paths stay within the folder.

    Raises:
        ArtifactError: It is not there, is damaged, or is of a newer release.
    """
    path = folder / name
    with reading(path, remedy="Check who may read it."):
        try:
            data = read_json(path, max_bytes=MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_manifest(folder, name) from error
        except UnreadableError as error:
            raise _damaged(path, str(error)) from error
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
    if not (data["name"] + data["verdict"] + data["made"]).isprintable():
        raise _damaged(path, "its name, its verdict or its date is no text")
    for entry in data["files"]:
        _check_entry(entry, path)
    if len({entry["path"] for entry in data["files"]}) < len(data["files"]):
        raise _damaged(path, "it names a file twice")
    return data


def _no_manifest(folder: Path, name: str = MANIFEST) -> ArtifactError:
    if not os.path.lexists(folder):
        return ArtifactError("There is no such folder.", remedy="Check the path.", where=folder)
    unfinished = (folder / ".cache").is_dir() or os.path.lexists(folder / UNFINISHED)
    return ArtifactError(
        "This release was not finished." if unfinished else "This is no release's folder.",
        remedy="Run the recipe again: it goes on where it was." if unfinished else "Name the folder of one.",
        where=folder / name,
    )


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


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The manifest is damaged ({' '.join(why.split())}).",
        remedy="Get the release again from where it came from; or run the recipe again.",
        where=path,
    )


@dataclass(frozen=True)
class Verification:
    """How a folder compares with its manifest and its signature. A file is in one list at most."""

    directory: Path
    #: Of the manifest, as ``verdict`` and ``made``; None if it is damaged, and the signature tells so.
    name: str | None
    verdict: str | None
    #: UTC, ISO 8601.
    made: str | None
    #: Files that were compared with their hash.
    checked: int
    missing: tuple[str, ...]
    #: Files with other bytes, and why that is known.
    changed: tuple[str, ...]
    #: Pairs of files that have each other's bytes.
    swapped: tuple[tuple[str, str], ...]
    #: Files that nobody knows; the names of empty folders end with ``/``.
    extra: tuple[str, ...]
    #: Working files that are there, such as ``.cache``; nothing in them is compared.
    working: tuple[str, ...]
    signature: Signature

    @property
    def ok(self) -> bool:
        """Whether every file is as the manifest says, and, if that was asked for, as it was signed."""
        return not self.differences and self.signature.status not in {SignatureStatus.INVALID, SignatureStatus.MISSING}

    @property
    def differences(self) -> dict[str, tuple[str, ...]]:
        """What is not as it was made, by kind; only the kinds that there are."""
        swapped = tuple(" and ".join(pair) for pair in self.swapped)
        kinds = {"changed": self.changed, "swapped": swapped, "missing": self.missing, "extra": self.extra}
        return {kind: names for kind, names in kinds.items() if names}

    def require_ok(self) -> None:
        """Raise GateFailedError unless :attr:`ok`."""
        if self.ok:
            return
        found = "; ".join(f"{kind}: {shorten(names, SHOWN)}" for kind, names in self.differences.items())
        status, finding = self.signature.status, self.signature.finding
        if status is SignatureStatus.MISSING:
            said = "It is not signed" + (", and not what its manifest says" if found else "")
        elif status is SignatureStatus.INVALID:
            said = f"Its signature is not valid: {finding}" + ("; it is not what its manifest says" if found else "")
        elif status is SignatureStatus.VALID:
            consistent = "Its files agree with the manifest, but not with what was signed"
            said = consistent if finding == CONSISTENT else "It is not what was signed"
        else:
            said = "It is not what its manifest says"
        unproven = status in {SignatureStatus.MISSING, SignatureStatus.INVALID}
        remedy = "Do not use it; get it again, or run the recipe again."
        if unproven:
            remedy = "Do not use it; get the release, and the key or the identity, from its signer."
        elif self.differences == {"extra": tuple(fnmatch.filter(self.extra, PART_OF_SIGNATURE))}:
            remedy = "Signing it was interrupted, or is under way: sign it again, or remove what was left."
        raise GateFailedError(f"{said}: {found}." if found else f"{said}.", remedy=remedy, where=self.directory)


def verify_release(
    directory: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    issuer: str | None = None,
) -> Verification:
    """Compare a folder with its manifest, the manifest with SHA256SUMS, and all of them with what was signed.

    Symbolic links are followed nowhere: one in the place of a file counts as changed.

    Args:
        directory: The release's folder.
        key: PEM file of the public key that must have signed it. Needs no network.
        identity: Whom Sigstore must have seen signing it instead: an e-mail address, or the URI of a CI job.
        issuer: URL of the OpenID Connect issuer of ``identity``.

    Raises:
        ArtifactError: The manifest is missing or damaged, the release was not finished, or a file cannot be read.
        UsageError: The options do not go together, or the key cannot be used.
        SetupError: Sigstore's keys cannot be used.
        MissingDependencyError: A package is not installed.
    """
    folder = Path(directory)
    return verified(folder, trusted_signer(key, identity, issuer, folder=folder))[0]


def verified(folder: Path, trusted: Trusted | None = None) -> tuple[Verification, dict[str, Any]]:
    """What :func:`verify_release` finds, and the manifest: empty if it is damaged, and the signature tells so."""
    if os.path.lexists(folder / UNFINISHED):
        raise _no_manifest(folder)
    signature, signed = check_signature(folder, trusted)
    manifest: dict[str, Any] = {}
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        if signed is None:
            raise  # else it is told as a file that is not what was signed
    listed = {entry["path"]: entry["sha256"] for entry in manifest.get("files", ())}
    try:
        present = _present(folder)
        found = _digests(folder, {*listed, *(signed or ())})
        # What another process was signing with when the names were read, and is in place by now.
        present -= {name for name in fnmatch.filter(present, PART_OF_SIGNATURE) if not os.path.lexists(folder / name)}
        differences = _compared(listed, found, present.difference(_OWN))
        if manifest:
            _check_sums(folder, listed, differences)
    except OSError as error:
        raise ArtifactError(
            f"A file cannot be read: {error.strerror or error}.", remedy="Check who may read it.", where=error.filename
        ) from error
    expected = listed
    if signed is not None:
        against_signed = _compared(signed, found, present)
        if any(against_signed.values()):
            if manifest and not any(differences.values()):
                signature = replace(signature, finding=CONSISTENT)
            differences, expected = against_signed, signed
    swapped = _swapped(differences["changed"], expected, found)
    verification = Verification(
        folder,
        manifest.get("name"),
        manifest.get("verdict"),
        manifest.get("made"),
        len({*listed, *(signed or ()), *_OWN}),
        tuple(sorted(differences["missing"])),
        tuple(sorted(differences["changed"].difference(*swapped))),
        tuple(swapped),
        tuple(sorted(differences["extra"])),
        tuple(sorted(name for name in WORKING if os.path.lexists(folder / name))),
        signature,
    )
    return verification, manifest


def _present(folder: Path) -> set[str]:
    """Names of everything in the folder that is no folder, and of empty folders, with a ``/`` last."""
    names = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        at = Path(place)
        if at == folder:
            folders[:] = [name for name in folders if name not in WORKING]
            files = [name for name in files if name not in WORKING]
        elif not folders and not files:
            names.append(f"{at.relative_to(folder).as_posix()}/")
        links = [name for name in folders if (at / name).is_symlink()]
        names += [(at / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return {_printable(os.fsencode(name).decode("utf-8", "backslashreplace")) for name in names}


def _printable(name: str) -> str:
    """A name that does nothing to a terminal; the names in manifests are such."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _raise(error: OSError) -> NoReturn:
    raise error


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 of each file that is there; None for what is no regular file, or has a link on the way to it."""
    found = {}
    for name in names:
        path = folder / name
        if os.path.lexists(path):
            found[name] = sha256_of(path) if _is_plain(path, folder) else None
    return found


def _compared(
    expected: Mapping[str, str], found: Mapping[str, str | None], present: Iterable[str]
) -> dict[str, set[str]]:
    return {
        "missing": {name for name in expected if name not in found},
        "changed": {name for name, digest in expected.items() if name in found and found[name] != digest},
        "extra": {*present} - {*expected, SIGNATURE},
    }


def _swapped(changed: set[str], expected: Mapping[str, str], found: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Pairs of files that have the bytes of each other."""
    owners = {expected[name]: name for name in changed if name in expected}
    pairs = [(name, owners.get(str(found.get(name)))) for name in sorted(changed & expected.keys())]
    return [
        (name, other) for name, other in pairs if other is not None and name < other and found[other] == expected[name]
    ]


def _is_plain(path: Path, folder: Path) -> bool:
    """Whether it is a regular file, with no link on the way from the folder."""
    return path.is_file() and path.resolve() == folder.resolve() / path.relative_to(folder)


def is_same(path: Path, size: int, sha256: str) -> bool:
    """Whether a file has these bytes."""
    return path.stat().st_size == size and sha256_of(path) == sha256


def _check_sums(folder: Path, listed: Mapping[str, str], differences: Mapping[str, set[str]]) -> None:
    """SHA256SUMS must say what the manifest says, and know the manifest itself."""
    path, changed = folder / SUMS, differences["changed"]
    if not os.path.lexists(path):
        differences["missing"].add(SUMS)
        return
    if linked := [name for name in (MANIFEST, SUMS) if not _is_plain(folder / name, folder)]:
        changed.update(linked)
        return
    try:
        *lines, rest = read_bounded(path, max_bytes=MAX_BYTES).split(b"\n")
    except UnreadableError:  # larger than any that was written
        changed.add(SUMS)
        return
    known: dict[str, str] = {}
    for line in lines:
        digest, gap, name = line.partition(b"  ")
        known[name.decode("utf-8", "replace") if gap else ""] = digest.decode("ascii", "replace")
    whole = not rest and len(known) == len(lines)  # nothing after the last line, and no file twice
    own = known.pop(MANIFEST, None)
    if not whole or own is None or known != listed:
        changed.add(SUMS)
    elif own != sha256_of(folder / MANIFEST):
        changed.add(f"{MANIFEST} (or its line in {SUMS})")
