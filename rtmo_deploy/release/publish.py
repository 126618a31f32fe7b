"""Writes the folder of a release: artifacts, reports, manifest and hashes.

The manifest comes last, and then the signature; until all is there, so is ``.unfinished``. A folder with that file is
an unfinished release, and running the recipe again finishes it. Files of the release before that are no part of the new
one go; no other file is touched. So that this holds after a kill too, the names of all files that are the releases' own
are written down before the first of them changes, and what a killed run was writing goes with the next.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import atomic_write, is_inside, write_whole
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.release.documents import DOCUMENTS, SUMMARY, write_documents
from rtmo_deploy.release.integrity import (
    MANIFEST,
    MAX_BYTES,
    SCHEMA_VERSION,
    SUMS,
    UNFINISHED,
    WORKING,
    is_same,
    read_manifest,
)
from rtmo_deploy.release.record import ReleaseFile
from rtmo_deploy.release.signature import SIGNATURE
from rtmo_deploy.release.store import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rtmo_deploy.release.recipe import ReleaseRecipe
    from rtmo_deploy.release.record import Release
    from rtmo_deploy.release.signer import Signer

#: Folders of what a kind of step makes.
PLACES: Final = {"artifact": "artifacts", "measurement": "latency"}
STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"


def require_own_folder(folder: Path) -> None:
    """Refuse a folder with somebody's files in it."""
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError("The output is a file.", remedy="Give a folder.", where=folder)
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise SetupError(f"It cannot be looked into: {error.strerror}.", where=folder) from error
    ours = names <= WORKING or UNFINISHED in names or any(folder.glob(f".cache/*/{RECORD}"))
    if not ours and not _written_before(folder):
        raise UsageError(
            f"The folder holds other things ('{min(names)}' for one).",
            remedy="Give an empty or a new folder with --output.",
            where=folder,
        )


def require_no_loss(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, through a link, or over a file that no release wrote."""
    before = _written_before(folder)
    for name in names:
        path = folder / name
        if path.parent.exists() and path.parent.resolve() != (folder.resolve() / name).parent:
            raise UsageError("There is a link in the release's folder.", remedy="Remove it.", where=path.parent)
        if before and name not in before and os.path.lexists(path):
            raise UsageError(
                "No release wrote this file, and this one would write over it.",
                remedy="Move it away, or give another --output.",
                where=path,
            )
        require_free([path], inputs, force=True)


def known_names(recipe: ReleaseRecipe) -> list[str]:
    """Files of a release that are known before anything is made."""
    return [*DOCUMENTS, *(f"{PLACES['measurement']}/{section.name}.json" for section in recipe.latency)]


def publish(release: Release, inputs: Iterable[Path], signer: Signer | None = None) -> None:
    """Write a release's folder, and sign it unless it failed."""
    folder = release.folder
    files = _step_files(release)
    texts = write_documents(release, files)
    files += [
        ReleaseFile(name, hashlib.sha256(data).hexdigest(), len(data), DOCUMENTS[name]) for name, data in texts.items()
    ]
    manifest = (json.dumps(_manifest(release, files), indent=1, allow_nan=False) + "\n").encode()
    hashes = {**{file.path: file.sha256 for file in files}, MANIFEST: hashlib.sha256(manifest).hexdigest()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    wanted = {file.path for file in files}
    require_no_loss(folder, wanted | _written_before(folder), inputs)
    try:
        _remove_old(folder, wanted)
        for file in files:
            target = folder / file.path
            if file.origin is not None and not (target.is_file() and is_same(target, file.size, file.sha256)):
                with atomic_write(target) as temporary:
                    shutil.copyfile(file.origin, temporary)
        for name, data in texts.items():
            write_whole(folder / name, data)
        write_whole(folder / SUMS, sums.encode())
        write_whole(folder / MANIFEST, manifest)
        if signer is not None and release.verdict != "failed":
            signer.sign(folder, {**hashes, SUMS: hashlib.sha256(sums.encode()).hexdigest()}, WORKING)
        (folder / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(
            f"The release cannot be written: {error.strerror or error}.",
            remedy="Make room or give another --output; run it again to finish it.",
            where=error.filename or folder,
        ) from error
    append_step_summary(texts[SUMMARY].decode(), remedy="Unset it; the release itself is complete.")


def _step_files(release: Release) -> list[ReleaseFile]:
    """What the steps made that belongs into the folder."""
    files: dict[str, ReleaseFile] = {}
    for result in release.results.values():
        place = PLACES.get(result.step.kind)
        if place is None or result.folder is None:
            continue
        kind = str(result.facts.get("kind", "artifact")) if result.step.kind == "artifact" else "latency"
        parents = [(name, release.results[name].sha256) for name in result.step.inputs.values()]
        for file in result.files:
            if file.name in result.hidden:
                continue
            path = f"{place}/{file.name}"
            known = files.get(path)
            if known is not None and known.sha256 != file.sha256:
                raise ArtifactError(
                    f"'{known.step}' and '{result.name}' both made a file {file.name}, and they differ.",
                    remedy="Rename one of the artifacts.",
                )
            made = ReleaseFile(
                path,
                file.sha256,
                file.size,
                kind,
                result.name,
                tuple({"step": name, "sha256": sha256} for name, sha256 in parents if sha256 is not None),
                result.versions,
                result.folder / file.name,
            )
            files.setdefault(path, made)
    return list(files.values())


def _manifest(release: Release, files: Sequence[ReleaseFile]) -> dict[str, Any]:
    """What the manifest says."""
    source = release.source.facts
    document = {
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
            **{key: source.get(key) for key in ("name", "sha256", "size", "architecture")},
        },
        "machine": release.machine,
        "steps": [
            {
                "name": result.name,
                "action": result.step.action,
                "kind": result.step.kind,
                "status": result.status,
                "key": result.key,
                "inputs": result.step.inputs,
                "options": result.step.options,
                "versions": result.versions,
                "seconds": round(result.seconds, 3),
                "message": result.message,
                "exit_code": result.exit_code,
                "facts": result.facts,
            }
            for result in release.results.values()
        ],
        "gates": release.gates,
        "files": [{name: value for name, value in vars(file).items() if name != "origin"} for file in files],
    }
    return {name: plain(value) for name, value in document.items()}


def _remove_old(folder: Path, wanted: set[str]) -> None:
    """Take the old manifest away, the files that only it names, and what a killed run has left."""
    own = wanted | _written_before(folder)
    for name in (MANIFEST, SUMS, SIGNATURE, UNFINISHED, *own):
        path = folder / name
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # what atomic_write was writing
            left.unlink(missing_ok=True)
    if (folder / MANIFEST).is_file():
        (folder / MANIFEST).replace(folder / UNFINISHED)  # from one rename to the next it is known whose the files are
    write_whole(folder / UNFINISHED, json.dumps(sorted(own)).encode())
    (folder / SUMS).unlink(missing_ok=True)
    (folder / SIGNATURE).unlink(missing_ok=True)
    for name in own - wanted:
        (folder / name).unlink(missing_ok=True)
    for place in PLACES.values():
        with contextlib.suppress(OSError):  # there is none, or it is not empty
            (folder / place).rmdir()


def _written_before(folder: Path) -> set[str]:
    """Names of the files of the release that is there, or of one that was not finished."""
    names: set[str] = set()
    for name in (MANIFEST, UNFINISHED):  # which is a list, or the manifest that was there before
        try:
            listed: Any = read_json(folder / name, max_bytes=MAX_BYTES)
            if isinstance(listed, dict):
                listed = [entry["path"] for entry in read_manifest(folder, name)["files"]]
        except (OSError, ArtifactError):
            continue  # nothing is removed on the word of a damaged file
        if isinstance(listed, list):
            names |= {one for one in listed if isinstance(one, str) and is_inside(one)}
    return names


def append_step_summary(text: str, *, remedy: str) -> None:
    """Append to the file that GitHub shows on the page of a run, if there is one; SetupError if it is not writable."""
    name = os.environ.get(STEP_SUMMARY)
    if not name:
        return
    try:
        with Path(name).open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise SetupError(
            f"${STEP_SUMMARY} names a file that cannot be written to: {error.strerror}.", remedy=remedy, where=name
        ) from error
