"""Journal: what a long evaluation has found so far, on disk, so that one that was killed goes on where it stopped.

One JSON value a line: first what is being evaluated, then one line a batch. A line counts if it ends and parses; what a
kill has torn is cut off. Batches are found again as a whole, so that a resumed run gives what an unbroken one gives.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import open_regular
from rtmo_deploy.measure.accuracy.detections import Detections
from rtmo_deploy.plain import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedRandom
    from pathlib import Path
    from types import TracebackType
    from typing import Self

SCHEMA: Final = 1


class Journal:
    """An open journal.

    Args:
        path: The file; made if need be. One of another evaluation is overwritten.
        facts: What is being evaluated, JSON-ready: a journal with other facts is not this one.
        num_keypoints: Keypoints of each person.

    Attributes:
        done: What has been found, by number of the batch.

    Raises:
        SetupError: The file cannot be read or written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], num_keypoints: int) -> None:
        self.path = path
        self.done: dict[int, Detections] = {}
        self._joints = num_keypoints
        head = json.dumps({"schema": SCHEMA, **facts}, sort_keys=True).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            open_regular(path).close()
            self._stream: BufferedRandom = path.open("r+b")
            if self._stream.readline() == head:
                end = self._read(len(head))
                self._stream.seek(end)
                self._stream.truncate()
            else:
                self._stream.seek(0)
                self._stream.truncate()
                self._write(head)
        except OSError as error:
            raise self._explained(error) from error

    def _read(self, end: int) -> int:
        """Take the lines that are whole; gives where the last of them ends."""
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                record = parse_json(line)
                number, found = record["batch"], _unpacked(record, self._joints)
            except (ValueError, KeyError, TypeError, OverflowError):
                break
            self.done[int(number)] = found
            end += len(line)
        return end

    def add(self, number: int, found: Detections) -> None:
        """Note what was found in a batch.

        Raises:
            SetupError: It cannot be written.
        """
        record = {
            "batch": number,
            "image": found.image.tolist(),
            "scores": found.scores.tolist(),
            "boxes": [] if found.boxes is None else found.boxes.tolist(),
            "keypoints": found.keypoints.tolist(),
        }
        try:
            self._write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise self._explained(error) from error

    def _write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()

    def remove(self) -> None:
        """Close and delete it: the evaluation is done."""
        self._stream.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _explained(self, error: OSError) -> SetupError:
        return SetupError(
            f"The journal of this evaluation cannot be kept: {error.strerror or error}.",
            remedy="Name another folder for it with --journal-dir, or free some space.",
            where=self.path,
        )


def _unpacked(record: Mapping[str, Any], joints: int) -> Detections:
    count = len(record["scores"])
    return Detections(
        image=np.array(record["image"], np.int32).reshape(count),
        scores=np.array(record["scores"], np.float64).reshape(count),
        boxes=np.array(record["boxes"], np.float64).reshape(count, 4),
        keypoints=np.array(record["keypoints"], np.float32).reshape(count, joints, 3),
    )
