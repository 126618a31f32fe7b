"""Results of steps by their key, in a folder that survives a kill at any moment.

A step works in a folder with another name, which becomes ``<key>`` by one rename when it is finished and everything in
it is on the disk. What is there is therefore whole; and it is used only if each file still has its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import is_inside, sha256_of
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.release.integrity import is_same
from rtmo_deploy.release.record import FileRecord, Outcome, Status, StepRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rtmo_deploy.release.graph import Step

SCHEMA_VERSION: Final = 2
MAX_RECORD: Final = 64 << 20
RECORD: Final = "record.json"
_PART: Final = ".part-"


class Store:
    """Results by key, in a folder that is made when something is stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, step: Step, key: str) -> StepRecord | None:
        """The stored result; None where there is none, or where a file of it was changed or is gone."""
        place = self.folder / key
        try:
            record = read_json(place / RECORD, max_bytes=MAX_RECORD)
            if record.pop("digest") != _digest(record) or record["schema_version"] != SCHEMA_VERSION:
                return None
            found = _read(record, step, place)
            whole = all(is_inside(one.name) and is_same(place / one.name, one.size, one.sha256) for one in found.files)
            return found if record["key"] == key and whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # a damaged record is as good as none: the step is carried out again

    @contextmanager
    def working(self, key: str) -> Iterator[Path]:
        """An empty folder to work in; what is left of it after the block is removed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=f".{key[:16]}{_PART}", dir=self.folder))
        except OSError as error:
            raise self._explained(error) from error
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def keep(
        self, step: Step, key: str, work: Path, outcome: Outcome, versions: Mapping[str, str], seconds: float
    ) -> StepRecord:
        """Turn a working folder into the stored result of a step; one that was there goes."""
        try:
            record: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "key": key,
                "step": step.name,
                "action": step.action,
                "files": [
                    {"name": name, "sha256": sha256_of(work / name), "size": (work / name).stat().st_size}
                    for name in outcome.files
                ],
                "hidden": list(outcome.hidden),
                "facts": plain(outcome.facts),
                "versions": dict(versions),
                "seconds": round(seconds, 3),
            }
            text = json.dumps({**record, "digest": _digest(record)}, indent=1, allow_nan=False)
            (work / RECORD).write_text(text + "\n", encoding="utf-8")
            for name in (*outcome.files, RECORD):
                with (work / name).open("rb") as stream:
                    os.fsync(stream.fileno())
            place = self.folder / key
            if place.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{key[:16]}{_PART}", dir=self.folder))
                place.rename(old / "old")
                shutil.rmtree(old, ignore_errors=True)
            work.rename(place)
        except OSError as error:
            raise self._explained(error) from error
        return replace(_read(record, step, place), status=Status.DONE)

    def clean(self) -> None:
        """Remove what killed runs have left."""
        for left in self.folder.glob(f".{'[0-9a-f]' * 16}{_PART}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _explained(self, error: OSError) -> SetupError:
        return SetupError(
            f"A result cannot be kept: {error.strerror or error}.",
            remedy="Check that the folder is writable and has space left; what was finished before is kept.",
            where=error.filename or self.folder,
        )


def _read(record: Mapping[str, Any], step: Step, place: Path) -> StepRecord:
    files = [FileRecord(str(one["name"]), str(one["sha256"]), int(one["size"])) for one in record["files"]]
    return StepRecord(
        step,
        Status.CACHED,
        str(record["key"]),
        place,
        tuple(files),
        hidden=tuple(record["hidden"]),
        facts=dict(record["facts"]),
        versions=dict(record["versions"]),
        seconds=float(record["seconds"]),
    )


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its digest: one that was damaged is not used."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()
