"""The folder of a bulk run: what was asked for, the results so far, and what is being written.

::

    run.json              model, options, versions, counts; whether all is done
    results/*.parquet     the rows
    .work/                images that are left, Ray's marks of files that are being written, blocks that are worked on

A worker marks a file of results as pending, writes it, and renames the mark (Ray Data's checkpoints). So a file with a
pending mark is not whole, and every other one is.
"""

from __future__ import annotations

import contextlib
import glob
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.files import atomic_write, reading, write_whole
from rtmo_deploy.plain import counted, read_json

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator

    import pyarrow as pa

SCHEMA_VERSION: Final = 1
RECORD: Final = "run.json"
_PENDING: Final = ".pending.parquet"  # as Ray's checkpoint writer names its marks
_MAX_RECORD: Final = 2**24


@dataclass
class Found:
    """What the results hold."""

    images: int = 0  #: Rows.
    people: int = 0
    strong: int = 0  #: People with a score above the threshold that was asked for.
    failures: list[tuple[str, str]] = field(default_factory=list)  #: Name and error of what could not be read.


class RunFolder:
    """The folder of a bulk run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path = Path(path)
        self.results = path / "results"
        self.marks = path / ".work" / "marks"
        self.attempts = (path / ".work" / "attempts").absolute()
        self.todo = path / ".work" / "todo.parquet"

    @contextlib.contextmanager
    def opened(self, asked: dict[str, Any], facts: dict[str, Any], *, force: bool = False) -> Iterator[None]:
        """Begin or go on with a run; while it lasts, no other process can.

        Args:
            asked: What decides the results, JSON-ready: a run goes on only with the same.
            facts: What is recorded besides.
            force: Throw the results of an earlier run away.

        Raises:
            UsageError: The folder is something else, is used by another process, or holds a run with another model or
                other options.
            SetupError: It cannot be written to.
        """
        from filelock import FileLock, Timeout

        self._require_own()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            remedy = "Wait for it, or name another folder."
            raise UsageError("Another process works on this folder.", remedy=remedy, where=self.path) from error
        except OSError as error:
            raise not_written(self.path, error) from error
        try:
            self._begin(asked, facts, force=force)
            yield
        finally:
            lock.release()

    def _require_own(self) -> None:
        if re.match(r"\w+:/", str(self.path)) and not self.path.is_dir():
            remedy = "Name a folder; on a cluster one that all nodes see, such as one on NFS."
            raise UsageError("Results are written to folders, not to addresses.", remedy=remedy, where=self.path)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("This is a file.", remedy="Name a folder.", where=self.path)
        others = self.path.is_dir() and any(one.name != ".lock" for one in self.path.iterdir())
        if others and not (self.path / RECORD).is_file():
            finding = "The folder is not empty, and no bulk run has made it."
            raise UsageError(finding, remedy="Name a new folder.", where=self.path)

    def _begin(self, asked: dict[str, Any], facts: dict[str, Any], *, force: bool) -> None:
        if (self.path / RECORD).is_file() and not force:
            self._require_same(asked)
        else:
            try:
                for folder in (self.results, self.marks.parent):
                    if folder.is_dir():
                        shutil.rmtree(folder)
                self._record(asked, facts, finished=False)
            except OSError as error:
                raise not_written(self.path, error) from error

    def _require_same(self, asked: dict[str, Any]) -> None:
        anew = "Name another folder, or start anew with --force."
        with reading(self.path / RECORD, UsageError, damaged="the record of a bulk run", remedy=anew):
            before = read_json(self.path / RECORD, max_bytes=_MAX_RECORD)["asked"]
            changed = {name for name in {**before, **asked} if before.get(name) != asked.get(name)}
        if changed:
            name = min(changed)
            finding = f"It holds results of a run with another {name.replace('_', ' ')}"
            told = f" ({before.get(name)} then, {asked.get(name)} now)" if name != "model" else ""
            raise UsageError(f"{finding}{told}.", remedy=anew, where=self.path)

    def finish(self, asked: dict[str, Any], facts: dict[str, Any]) -> None:
        """Record that all is done."""
        self._record(asked, facts, finished=True)
        shutil.rmtree(self.marks.parent, ignore_errors=True)

    def _record(self, asked: dict[str, Any], facts: dict[str, Any], *, finished: bool) -> None:
        document = {"schema_version": SCHEMA_VERSION, "asked": asked, **facts, "finished": finished}
        write_whole(self.path / RECORD, json.dumps(document, indent=2) + "\n")

    def files(self) -> list[Path]:
        """The files of results, sorted."""
        return sorted(self.results.glob("*.parquet"))

    def clean(self, keep: str | None = None, before: Collection[str | os.PathLike[str]] = ()) -> None:
        """Remove what is not whole: files with a pending mark.

        Args:
            keep: With it, also the files of workers that an earlier, killed run had left running: whose names do not
                begin so.
            before: Files that are kept in any case.
        """
        for mark in self.marks.glob(f"*{_PENDING}"):
            for half in self.results.glob(f"{glob.escape(mark.name.removesuffix(_PENDING))}*"):
                half.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
        for file in self.files() if keep is not None else ():
            if file not in before and not file.name.startswith(str(keep)):
                file.unlink(missing_ok=True)

    def left(self, images: pa.Table) -> pa.Table:
        """The images that have no row yet; files that are not whole are removed first.

        Raises:
            UsageError: There are rows of other images.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.clean()
        done = []
        for file in self.files():
            try:
                done.append(pq.read_table(file, columns=["id"]).column("id"))
            except pa.ArrowInvalid:  # cut off by a power failure
                file.unlink()
        if not done:
            return images
        ids = pa.chunked_array([chunk.cast(images["id"].type) for one in done for chunk in one.chunks])
        others = pc.sum(pc.invert(pc.is_in(ids, value_set=images["id"]))).as_py()
        if others:
            remedy = "Name the same sources, and more if you like; or another folder; or start anew with --force."
            raise UsageError(
                f"It holds rows of {counted(others, 'image')} that are not among the sources.",
                remedy=remedy,
                where=self.path,
            )
        return images.filter(pc.invert(pc.is_in(images["id"], value_set=ids)))

    def plan(self, left: pa.Table) -> None:
        """Write down what is left, for the workers."""
        import pyarrow.parquet as pq

        if self.marks.parent.is_dir():
            shutil.rmtree(self.marks.parent)
        try:
            self.results.mkdir(exist_ok=True)
            self.marks.mkdir(parents=True)
            self.attempts.mkdir()
            with atomic_write(self.todo) as temporary:
                pq.write_table(left, temporary)
        except OSError as error:
            raise not_written(self.path, error) from error

    def written(self) -> Iterator[Path]:
        """Marks of the files that are whole: Parquet with their ids."""
        return (mark for mark in self.marks.glob("*.parquet") if not mark.name.endswith(_PENDING))

    def found(self, score_thr: float) -> Found:
        """Count what the results hold; people above ``score_thr`` are counted as strong."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        found = Found()
        for file in self.files():
            table = pq.read_table(file, columns=["source", "error", "people"])
            scores = pc.struct_field(pc.list_flatten(table["people"]), "score")
            found.images += len(table)
            found.people += len(scores)
            found.strong += pc.sum(pc.greater(scores, score_thr)).as_py() or 0
            failed = table.filter(pc.is_valid(table["error"]))
            found.failures += zip(failed["source"].to_pylist(), failed["error"].to_pylist(), strict=True)
        found.failures.sort()
        return found


def not_written(path: Path, error: Exception) -> SetupError:
    """The error for what went wrong while a run's files were written."""
    remedy = "Check that the folder is writable and its disk has space left; then call again: the run goes on."
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    return SetupError(f"It could not be written: {reason}.", remedy=remedy, where=path)
