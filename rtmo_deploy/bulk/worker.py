"""Finds the people in a block of images: what each of Ray's workers does."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtmo_deploy.errors import ArtifactError, InputDataError
from rtmo_deploy.files import reading, sha256_of
from rtmo_deploy.media.frame import ReducedFrame
from rtmo_deploy.media.sources import Source, open_source

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pyarrow as pa

    from rtmo_deploy.bulk.job import Job
    from rtmo_deploy.runtime.estimator import Placed

#: Threads that decode, beside the one that runs the network.
_READERS = 2


class _Read(NamedTuple):
    """An image that is ready for the network, or why it could not be read."""

    source: str
    placed: Placed | None = None
    image_hw: tuple[int | None, int | None] = (None, None)
    error: str | None = None


class Worker:
    """Holds a model; called with blocks of images."""

    def __init__(self, job: Job, attempts: Path) -> None:
        from rtmo_deploy.runtime.estimator import RTMO

        os.environ.update(job.environment)
        for name, known in job.files.items():
            with reading(name, ArtifactError, remedy="Put the model where every node of the cluster sees it."):
                if sha256_of(Path(name)) != known:
                    finding = "It is another file on this node than on the one that started the run."
                    raise ArtifactError(finding, remedy="Put the model on shared storage.", where=name)
        self._model = RTMO(job.model, device=job.device, reduce=job.reduce, **job.opening)
        self._limits = {"score_thr": job.score_thr, "max_people": job.max_people}
        self._batch = self._model.artifact.input.batch or job.batch
        self._pool = ThreadPoolExecutor(_READERS)
        self._attempts = attempts

    def __call__(self, images: pa.Table) -> pa.Table:
        """The rows of some images: columns as of :func:`schema`.

        A block whose worker died comes again. Then its images are done one by one, and one that two workers died of
        gets a row with an error.
        """
        import pyarrow as pa

        names = images["file"].to_pylist()
        begun = self._attempts / hashlib.sha256(str(images["id"][0]).encode()).hexdigest()
        if begun.exists():
            rows = [row for name in names for row in self._alone(name, begun)]
        else:
            begun.touch()
            rows = self._together(names)
        begun.unlink(missing_ok=True)
        found = pa.Table.from_pylist(rows, schema=schema().remove(0))
        return found.add_column(0, "id", images["id"])

    def _alone(self, name: bytes, begun: Path) -> list[dict[str, Any]]:
        line, before = name.hex() + "\n", begun.read_text()
        if before.splitlines(keepends=True).count(line) > 1:
            error = InputDataError(
                "Workers die of it.", remedy="Look at it by itself.", where=_title(os.fsdecode(name))
            )
            return self._detect([_Read(_title(os.fsdecode(name)), error=str(error))])
        begun.write_text(before + line)
        rows = self._together([name])
        begun.write_text(before)
        return rows

    def _together(self, names: list[bytes]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        ahead: list[Future[_Read]] = []
        for start in range(0, len(names) + self._batch, self._batch):
            files = names[start : start + self._batch]
            now, ahead = ahead, [self._pool.submit(self._read, os.fsdecode(file)) for file in files]
            rows += self._detect([one.result() for one in now])
        return rows

    def _read(self, name: str) -> _Read:
        title = _title(name)
        how: dict[str, Any] = {"fit_hw": self._model.fit_hw, "on_event": _ignore, "stop": threading.Event()}
        try:
            frame = next(open_source(Source(name, "image"), **how))
            decoded = frame.reduced if isinstance(frame, ReducedFrame) else None
            return _Read(title, self._model.place(frame.image if decoded is None else decoded), frame.image_hw)
        except InputDataError as error:
            return _Read(title, error=str(error))

    def _detect(self, images: list[_Read]) -> list[dict[str, Any]]:
        good = [image.placed for image in images if image.placed is not None]
        found = iter(self._model.detect(good, **self._limits) if good else [])  # type: ignore[arg-type]
        return [
            {
                "source": image.source,
                "width": image.image_hw[1],
                "height": image.image_hw[0],
                "error": image.error,
                "people": None if image.placed is None else next(found).to_dict(),
            }
            for image in images
        ]


def schema() -> pa.Schema:
    """Columns of the results: one row an image.

    ``id`` (text, or the manifest's whole numbers), ``source`` (its name), ``width`` and ``height`` (pixels), ``error``
    (null for an image that was read) and ``people`` (null for one that was not; best first, as of
    :meth:`rtmo_deploy.Poses.to_dict`).
    """
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    person = pa.struct({"box": numbers, "score": pa.float32(), "keypoints": pa.list_(numbers)})
    return pa.schema(
        {
            "id": pa.string(),
            "source": pa.string(),
            "width": pa.int64(),
            "height": pa.int64(),
            "error": pa.string(),
            "people": pa.list_(person),
        }
    )


def _title(name: str) -> str:
    return Source(name, "image").title.encode("utf-8", "backslashreplace").decode()


def _ignore(_event: object) -> None:
    """An image has no events."""
