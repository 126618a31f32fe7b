"""The folder of a release: artifacts, reports, manifest and hashes.

While it is written there is no manifest; it comes last. A folder without one is an unfinished release, and running the
recipe again finishes it. Files of the release before that are no part of the new one go; no other file is touched. So
that this holds after a kill too, the names of all files that are the releases' own are written down before the first of
them changes, and what a killed run was writing goes with the next.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import read_json
from rtmo_deploy.release.junit import junit_xml
from rtmo_deploy.release.manifest import (
    MANIFEST,
    MAX_BYTES,
    SUMS,
    UNFINISHED,
    FileEntry,
    build_manifest,
    is_inside,
    read_manifest,
    sums_text,
)
from rtmo_deploy.release.report import report_html
from rtmo_deploy.release.store import RECORD
from rtmo_deploy.release.summary import summary_markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rtmo_deploy.release.release import Release
    from rtmo_deploy.release.results import StepResult
    from rtmo_deploy.release.schema import ReleaseRecipe

ARTIFACTS: Final = "artifacts"
LATENCY: Final = "latency"
REPORTS: Final = ("recipe.yaml", "junit.xml", "summary.md", "report.html")
STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"


def require_own_folder(folder: Path) -> None:
    """Refuse a folder with somebody's files in it.

    Raises:
        UsageError: It is a file, or holds something and was never a release's.
        SetupError: It cannot be looked into.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError("The output is a file.", remedy="Give a folder.", where=folder)
        if not folder.exists():
            return
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise SetupError(f"It cannot be looked into: {error.strerror}.", where=folder) from error
    ours = names <= {".cache", ".lock"} or UNFINISHED in names or any(folder.glob(f".cache/*/{RECORD}"))
    if not ours and not _written_before(folder):
        raise UsageError(
            f"The folder holds other things ('{min(names)}' for one).",
            remedy="Give an empty or a new folder with --output.",
            where=folder,
        )


def require_no_loss(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, through a link, or over a file that no release wrote.

    Args:
        folder: The release's folder.
        names: Files to be written or removed in it.
        inputs: Files and folders that the release is made of.

    Raises:
        UsageError: One of them would be lost.
        SetupError: The folder cannot be written to.
    """
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
    return [*REPORTS, *(f"{LATENCY}/{section.name}.json" for section in recipe.latency)]


def publish(release: Release, inputs: Iterable[Path]) -> None:
    """Write a release's folder.

    Args:
        release: The release.
        inputs: Files and folders that it was made of, which are not written over.

    Raises:
        UsageError: A file that is not the release's own would be lost.
        SetupError: It cannot be written to, or the disk is full.
        ArtifactError: Two steps made different files of one name.
    """
    folder = release.folder
    files = _step_files(release)
    texts = {
        "recipe.yaml": ("recipe", release.recipe_text),
        "junit.xml": ("junit", junit_xml(release).encode()),
        "summary.md": ("summary", summary_markdown(release).encode()),
        "report.html": ("report", report_html(release, files).encode()),
    }
    files += [
        FileEntry(name, hashlib.sha256(data).hexdigest(), len(data), kind) for name, (kind, data) in texts.items()
    ]
    manifest = json.dumps(build_manifest(release, files), indent=1, allow_nan=False) + "\n"
    require_no_loss(folder, {entry.path for entry in files} | _written_before(folder), inputs)
    try:
        _remove_old(folder, {entry.path for entry in files})
        for entry in files:
            if entry.origin is not None:
                _place(entry.origin, folder / entry.path, entry)
        for name, (_, data) in texts.items():
            _write(folder / name, data)
        _write(folder / SUMS, sums_text([*files, FileEntry.of_bytes(MANIFEST, manifest.encode())]).encode())
        _write(folder / MANIFEST, manifest.encode())
        (folder / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(
            f"The release cannot be written: {error.strerror or error}.",
            remedy="Make room or give another --output; run it again to finish it.",
            where=error.filename or folder,
        ) from error
    _append_step_summary(texts["summary.md"][1])


def _step_files(release: Release) -> list[FileEntry]:
    """What the steps made that belongs into the folder."""
    entries: dict[str, FileEntry] = {}
    for result in release.results.values():
        if not result.good or result.folder is None:
            continue
        place = {"artifact": ARTIFACTS, "measurement": LATENCY}.get(result.step.kind)
        for file in result.files if place else ():
            if file.name in result.hidden:
                continue
            path = f"{place}/{file.name}"
            known = entries.get(path)
            if known is not None and known.sha256 != file.sha256:
                raise ArtifactError(
                    f"'{known.step}' and '{result.name}' both made a file {file.name}, and they differ.",
                    remedy="Rename one of the artifacts.",
                )
            if known is None:
                entries[path] = _entry(path, file.sha256, file.size, result, release, result.folder / file.name)
    return list(entries.values())


def _entry(path: str, sha256: str, size: int, result: StepResult, release: Release, origin: Path) -> FileEntry:
    parents = tuple(
        {"step": name, "sha256": made}
        for name in result.step.inputs.values()
        if (made := _main_sha256(release.results[name])) is not None
    )
    kind = str(result.facts.get("kind", result.step.kind))
    if result.step.kind == "measurement":
        kind = "latency"
    return FileEntry(path, sha256, size, kind, result.name, parents, dict(result.versions), origin)


def _main_sha256(result: StepResult) -> str | None:
    if result.files:
        return result.files[0].sha256
    sha256 = result.facts.get("sha256")
    return None if sha256 is None else str(sha256)


def _remove_old(folder: Path, wanted: set[str]) -> None:
    """Take the old manifest away, the files that only it names, and what a killed run has left."""
    own = wanted | _written_before(folder)
    for name in (MANIFEST, SUMS, UNFINISHED, *own):
        path = folder / name
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # what atomic_write was writing
            left.unlink(missing_ok=True)
    if (folder / MANIFEST).is_file():
        (folder / MANIFEST).replace(folder / UNFINISHED)  # from one rename to the next it is known whose the files are
    _write(folder / UNFINISHED, json.dumps(sorted(own)).encode())
    (folder / SUMS).unlink(missing_ok=True)
    for name in own - wanted:
        (folder / name).unlink(missing_ok=True)


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


def _place(origin: Path, target: Path, entry: FileEntry) -> None:
    """Put a file of the cache into the folder, if it is not there already."""
    if target.is_file() and target.stat().st_size == entry.size and sha256_of(target) == entry.sha256:
        return
    with atomic_write(target) as temporary:
        shutil.copyfile(origin, temporary)


def _write(target: Path, data: bytes) -> None:
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)


def _append_step_summary(text: bytes) -> None:
    """What GitHub shows on the page of a run."""
    name = os.environ.get(STEP_SUMMARY)
    if name:
        try:
            with Path(name).open("ab") as stream:
                stream.write(text)
        except OSError as error:
            raise SetupError(
                f"${STEP_SUMMARY} names a file that cannot be written to: {error.strerror}.",
                remedy="Unset it; the release itself is complete.",
                where=name,
            ) from error
