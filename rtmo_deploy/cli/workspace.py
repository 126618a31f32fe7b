"""Records what the commands made in ``.rtmo-deploy/workspace.json``, so that the next one needs no file names.

A recorded file that was moved or changed since is noticed, and never taken in another's place.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import reading, sha256_of, write_whole
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.file_kind import Kind

SCHEMA_VERSION: Final = 1
#: The oldest entries beyond these are forgotten.
MOST_ENTRIES: Final = 200
MAX_BYTES: Final = 16 << 20
_LOCK_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Entry:
    """One file that a command made; paths are relative to the working directory where they lie within it."""

    path: str
    kind: str
    precision: str
    decode: str
    sha256: str
    #: Bytes.
    size: int
    command: str
    #: ISO 8601, UTC.
    made: str
    #: Release of this project that made it.
    version: str
    #: SHA-256 of the files it was made from.
    parents: tuple[str, ...] = ()
    #: The file it was made from; empty where not known.
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse, with a TypeError, values that no command wrote."""
        texts = [value for name, value in vars(self).items() if name not in {"size", "parents"}]
        if not all(isinstance(text, str) for text in (*texts, *self.parents)) or type(self.size) is not int:
            raise TypeError("a field has another type")


class Workspace:
    """The record of one working directory; the current one if not given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path()
        self.file = self.folder / ".rtmo-deploy" / "workspace.json"

    def record(self, artifact: Artifact, *, command: str, source: Path | None = None) -> Entry:
        """Add a file that ``command`` just made from ``source``; an older entry of the same file goes.

        Processes that record at the same time wait for each other.
        """
        entry = Entry(
            path=self._relative(artifact.path),
            kind=artifact.kind.value,
            precision=artifact.precision,
            decode=artifact.decode.mode.value,
            sha256=sha256_of(artifact.path),
            size=artifact.path.stat().st_size,
            command=command,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            parents=tuple(parent.sha256 for parent in artifact.parents),
            source="" if source is None else self._relative(source),
        )
        with self._locked():
            others = [known for known in self.entries() if known.path != entry.path]
            self._write([*others, entry][-MOST_ENTRIES:])
        return entry

    def entries(self) -> list[Entry]:
        """Everything recorded, oldest first; nothing where nothing was."""
        if not self.file.exists():
            return []
        remedy = "Remove it; the files themselves are not touched."
        with reading(self.file, remedy=remedy, damaged="the record of what was made in this directory"):
            data = read_json(self.file, max_bytes=MAX_BYTES)
            version = data["schema_version"]
            if type(version) is not int:
                raise TypeError("its schema version is no number")
            if version > SCHEMA_VERSION:
                raise ArtifactError(
                    f"It has schema version {version}; this release knows up to {SCHEMA_VERSION}.",
                    remedy="Upgrade rtmo-deploy, or work in another directory.",
                    where=self.file,
                )
            return [Entry(**{**one, "parents": tuple(one.get("parents", ()))}) for one in data["made"]]

    def last(
        self, kinds: Collection[Kind] | None = None, *, precision: str | None = None, decode: str | None = None
    ) -> tuple[Path, Entry]:
        """The newest file of these qualities that was made here, checked to be the one that was made."""
        wanted = {kind.value for kind in kinds} if kinds is not None else None
        for entry in reversed(self.entries()):
            if wanted is not None and entry.kind not in wanted:
                continue
            if precision in {None, entry.precision} and decode in {None, entry.decode}:
                return self._checked(entry), entry
        what = " or ".join(sorted(wanted)) if wanted else "model"
        qualities = " ".join(quality for quality in (precision, decode) if quality)
        raise UsageError(
            f"No {f'{qualities} ' if qualities else ''}{what} was made in this directory.",
            remedy="Name the file, or make one: rtmo-deploy export CKPT",
        )

    def source_of(self, entry: Entry) -> Path:
        """The file that an entry was made from, checked to be the same still."""
        path = self.folder / entry.source
        if not entry.source or not path.is_file():
            what = f"'{entry.source}' is not there any more" if entry.source else "it is not known"
            raise ArtifactError(
                f"What it was made from is needed, and {what}.", remedy="Name the checkpoint.", where=entry.path
            )
        if sha256_of(path) not in entry.parents:
            raise _changed(path, f"'{entry.command}' made {entry.path} from it on {entry.made}", "export it")
        return path

    def _checked(self, entry: Entry) -> Path:
        path = self.folder / entry.path
        if not path.is_file():
            raise ArtifactError(
                f"'{entry.command}' made it on {entry.made}, and it is not there any more.",
                remedy="Name the file that is meant, or make it again.",
                where=path,
            )
        if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise _changed(path, f"'{entry.command}' made it on {entry.made}", "make it")
        return path

    def _relative(self, path: Path) -> str:
        absolute, base = path.absolute(), self.folder.absolute()
        return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)

    def _write(self, entries: list[Entry]) -> None:
        document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "made": [asdict(entry) for entry in entries]}
        write_whole(self.file, json.dumps(document, indent=1) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise SetupError(
                f"Another process has kept this record locked for {_LOCK_SECONDS:.0f} seconds.",
                remedy="See whether an rtmo-deploy hangs; if none runs, remove the .lock file beside it.",
                where=self.file,
            ) from error
        except OSError as error:
            raise SetupError(
                f"What was made cannot be recorded: {error.strerror or error}.",
                remedy="Work in a directory that can be written to.",
                where=self.file,
            ) from error


def _changed(path: Path, since: str, again: str) -> ArtifactError:
    remedy = f"If this is the file that is meant, name it; or {again} again."
    return ArtifactError(f"It was changed since {since}.", remedy=remedy, where=path)
