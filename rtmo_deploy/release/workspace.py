"""What the commands have made in a working directory, so that the next one knows what is meant.

``export``, ``build-trt`` and ``bench`` called one after the other need no file names: each records what it made in
``.rtmo-deploy/workspace.json`` of the directory it runs in, and takes from there what it was not given. A recorded
file that has been moved or changed since is noticed, and never taken in another's place.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import atomic_write, sha256_of
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
    """One file that a command made.

    Attributes:
        path: Where it lies, relative to the working directory where it lies within.
        kind: ``onnx``, ``engine`` and so on.
        precision: ``fp32``, ``fp16`` and so on.
        decode: Decode mode.
        sha256: Hash of the file as it was made.
        size: Bytes.
        command: The command that made it, such as ``export``.
        made: When, ISO 8601, UTC.
        version: Release of this project that made it.
        parents: SHA-256 of the files it was made from.
        source: The file it was made from, as ``path``; empty where not known.
    """

    path: str
    kind: str
    precision: str
    decode: str
    sha256: str
    size: int
    command: str
    made: str
    version: str
    parents: tuple[str, ...] = ()
    source: str = ""

    def located(self, folder: Path) -> Path:
        """The file, seen from the directory it was recorded in."""
        return folder / self.path


class Workspace:
    """The record of one working directory.

    Args:
        folder: The directory; the current one if not given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path()
        self.file = self.folder / ".rtmo-deploy" / "workspace.json"

    def record(self, artifact: Artifact, *, command: str, source: Path | None = None) -> Entry:
        """Add a file that was just written; an older entry of the same file goes.

        Processes that record at the same time wait for each other.

        Args:
            artifact: The file.
            command: The command that wrote it.
            source: The file it was made from.

        Raises:
            SetupError: The directory cannot be written to.
            ArtifactError: The record that is there is damaged.
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
        """Everything recorded, oldest first; nothing where nothing was.

        Raises:
            ArtifactError: The record is damaged or of a newer release.
        """
        try:
            data = read_json(self.file, max_bytes=MAX_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._damaged(str(error)) from error
        if isinstance(data, dict) and isinstance(data.get("schema_version"), int):
            if data["schema_version"] > SCHEMA_VERSION:
                raise ArtifactError(
                    f"It has schema version {data['schema_version']}; this release knows up to {SCHEMA_VERSION}.",
                    remedy="Upgrade rtmo-deploy, or work in another directory.",
                    where=self.file,
                )
            try:
                return [_entry(one) for one in data["made"]]
            except (KeyError, TypeError, ValueError) as error:
                raise self._damaged("an entry of it is none") from error
        raise self._damaged("it is no record")

    def last(
        self,
        kinds: Collection[Kind] | None = None,
        *,
        precision: str | None = None,
        decode: str | None = None,
    ) -> tuple[Path, Entry]:
        """The newest file of a kind that was made here, checked to be the one that was made.

        Args:
            kinds: Kinds that will do; any if not given.
            precision: Precision it must have; any if not given.
            decode: Decode mode it must have; any if not given.

        Raises:
            UsageError: Nothing of the kind was made here.
            ArtifactError: It was moved or changed since.
        """
        wanted = {kind.value for kind in kinds} if kinds is not None else None
        for entry in reversed(self.entries()):
            if wanted is not None and entry.kind not in wanted:
                continue
            if precision not in {None, entry.precision} or decode not in {None, entry.decode}:
                continue
            return self._checked(entry), entry
        what = " or ".join(sorted(wanted)) if wanted else "model"
        qualities = " ".join(quality for quality in (precision, decode) if quality)
        raise UsageError(
            f"No {f'{qualities} ' if qualities else ''}{what} was made in this directory.",
            remedy="Name the file, or make one: rtmo-deploy export CKPT",
        )

    def source_of(self, entry: Entry) -> Path:
        """The file that an entry was made from, checked to be the same still.

        Raises:
            ArtifactError: It is not known, not there any more, or was changed since.
        """
        path = self.folder / entry.source
        if not entry.source or not path.is_file():
            what = f"'{entry.source}' is not there any more" if entry.source else "it is not known"
            raise ArtifactError(
                f"What it was made from is needed, and {what}.", remedy="Name the checkpoint.", where=entry.path
            )
        if sha256_of(path) not in entry.parents:
            raise ArtifactError(
                f"It was changed since '{entry.command}' made {entry.path} from it on {entry.made}.",
                remedy="If this is the file that is meant, name it; or export it again.",
                where=path,
            )
        return path

    def _checked(self, entry: Entry) -> Path:
        path = entry.located(self.folder)
        if not path.is_file():
            raise ArtifactError(
                f"'{entry.command}' made it on {entry.made}, and it is not there any more.",
                remedy="Name the file that is meant, or make it again.",
                where=path,
            )
        if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise ArtifactError(
                f"It was changed since '{entry.command}' made it on {entry.made}.",
                remedy="If this is the file that is meant, name it; or make it again.",
                where=path,
            )
        return path

    def _relative(self, path: Path) -> str:
        absolute, base = path.absolute(), self.folder.absolute()
        return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)

    def _write(self, entries: list[Entry]) -> None:
        document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "made": [asdict(entry) for entry in entries]}
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + os.linesep, encoding="utf-8")

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

    def _damaged(self, why: str) -> ArtifactError:
        return ArtifactError(
            f"The record of what was made in this directory is damaged ({why}).",
            remedy="Remove it; the files themselves are not touched.",
            where=self.file,
        )


def _entry(data: dict[str, Any]) -> Entry:
    entry = Entry(**{**data, "parents": tuple(data.get("parents", ()))})
    if not all(isinstance(parent, str) for parent in entry.parents):
        raise TypeError("parents are no text")
    for name in ("path", "kind", "precision", "decode", "sha256", "command", "made", "version", "source"):
        if not isinstance(getattr(entry, name), str):
            raise TypeError(f"{name} is no text")
    if type(entry.size) is not int:
        raise TypeError("size is no number")
    return entry
