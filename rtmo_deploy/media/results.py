"""Result files of frames with poses: JSON lines, CSV, Parquet and COCO, written while the frames come."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data.coco_writer import category_of, short
from rtmo_deploy.errors import MissingDependencyError, SetupError
from rtmo_deploy.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

    from rtmo_deploy.media.frame import Frame
    from rtmo_deploy.poses import Poses, Skeleton

    Write = Callable[[Frame], None]

#: Version of the lines of JSON lines; it changes when a key changes its meaning or goes away.
SCHEMA_VERSION: Final = 1
STDOUT: Final = Path("-")  #: Stands for standard output, for JSON lines and CSV.
#: Columns of CSV and Parquet before the keypoints', each with its type in Parquet.
_COLUMNS: Final = {
    "source": "String",
    "frame": "Int64",
    "time_s": "Float64",
    **dict.fromkeys(("width", "height", "person", "track_id"), "Int64"),
    **dict.fromkeys(("score", "x1", "y1", "x2", "y2"), "Float32"),
}


@contextlib.contextmanager
def open_results(path: Path, kind: str, skeleton: Skeleton, *, keypoint_thr: float = 0.3) -> Iterator[Write]:
    """Open a result file; gives a function that takes the next frame with its poses.

    The file appears, whole, when the block ends without an error. Memory does not grow with the number of frames.

    Args:
        path: The file, or :data:`STDOUT` for ``jsonl`` and ``csv``, where each frame is flushed.
        kind: ``jsonl``, ``csv``, ``parquet`` or ``coco``.
        skeleton: What the keypoints are.
        keypoint_thr: COCO's flag of a keypoint is 2 with a score of at least this, else 1.

    Raises:
        SetupError: The file cannot be written.
        MissingDependencyError: Parquet without polars.
    """
    formats: dict[str, Callable[[], AbstractContextManager[Write]]] = {
        "jsonl": lambda: _jsonl(path, skeleton),
        "csv": lambda: _csv(path, skeleton),
        "parquet": lambda: _parquet(path, skeleton),
        "coco": lambda: _coco(path, skeleton, keypoint_thr),
    }
    with formats[kind]() as write_one:

        def write(frame: Frame) -> None:
            try:
                write_one(frame)
            except OSError as error:
                if path == STDOUT:
                    raise  # a closed pipe
                remedy = "Check that its disk has space left."
                finding = f"The file could not be written: {error.strerror or error}."
                raise SetupError(finding, remedy=remedy, where=path) from error

        yield write


def frame_dict(frame: Frame) -> dict[str, Any]:
    """JSON-ready form of a frame with its poses: ``source``, ``frame``, ``time_s``, ``width``, ``height``, ``people``.

    People are as of :func:`people_of`.
    """
    people = people_of(_poses_of(frame))
    height, width = frame.image_hw
    place = {"source": _text(frame.source), "frame": frame.index, "time_s": frame.time_s}
    return {**place, "width": width, "height": height, "people": people}


def people_of(poses: Poses) -> list[dict[str, Any]]:
    """As :meth:`Poses.to_dict`, with ``track_id`` (None where not known yet) if they were tracked."""
    people = poses.to_dict()
    if poses.track_ids is not None:
        for person, number in zip(people, poses.track_ids.tolist(), strict=True):
            person["track_id"] = number if number >= 0 else None
    return people


def _poses_of(frame: Frame) -> Poses:
    if frame.poses is None:
        raise ValueError(f"frame {frame.index} of {frame.source} has no poses")
    return frame.poses


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path == STDOUT:
        yield sys.stdout
        return
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield stream


@contextlib.contextmanager
def _jsonl(path: Path, skeleton: Skeleton) -> Iterator[Write]:
    with _opened(path) as stream:

        def write(frame: Frame) -> None:
            head = {"schema_version": SCHEMA_VERSION, "skeleton": skeleton.name}
            line = json.dumps({**head, **frame_dict(frame)}, separators=(",", ":"), allow_nan=False)
            stream.write(line + "\n")
            if path == STDOUT:
                stream.flush()

        yield write


@contextlib.contextmanager
def _csv(path: Path, skeleton: Skeleton) -> Iterator[Write]:
    with _opened(path) as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(columns_of(skeleton))

        def write(frame: Frame) -> None:
            rows.writerows(_rows(frame))
            if path == STDOUT:
                stream.flush()

        yield write


@contextlib.contextmanager
def _parquet(path: Path, skeleton: Skeleton) -> Iterator[Write]:
    try:
        import polars as pl
    except ImportError as error:
        raise MissingDependencyError("polars", purpose="Writing Parquet", extra="table") from error
    schema = {name: getattr(pl, kind)() for name, kind in columns_of(skeleton).items()}
    with atomic_write(path) as temporary, tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        table = Path(folder, "table.csv")
        with _csv(table, skeleton) as write:
            yield write
        pl.scan_csv(table, schema=schema).sink_parquet(temporary, row_group_size=10_000)


@contextlib.contextmanager
def _coco(path: Path, skeleton: Skeleton, keypoint_thr: float) -> Iterator[Write]:
    images, annotations = 0, 0
    videos: dict[str, int] = {}
    with _opened(path) as stream, tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as people:
        head = {"info": {"description": "Detections in COCO's format"}, "licenses": []}
        stream.write(_json({**head, "categories": [category_of(skeleton)]})[:-1] + ',"images":[')

        def write(frame: Frame) -> None:
            nonlocal images, annotations
            images += 1
            source, (height, width) = _text(frame.source), frame.image_hw
            image = {"id": images, "file_name": source, "width": width, "height": height}
            if frame.time_s is not None:
                video = videos.setdefault(source, len(videos) + 1)
                image["file_name"] = f"{source}/{frame.index:06d}.jpg"
                image |= {"video_id": video, "frame_id": frame.index, "time_s": frame.time_s}
            stream.write((",\n" if images > 1 else "\n") + _json(image))
            for one in _annotations(_poses_of(frame), keypoint_thr):
                annotations += 1
                ids = {"id": annotations, "image_id": images}
                people.write((",\n" if annotations > 1 else "\n") + _json({**ids, **one}))

        yield write
        people.seek(0)
        stream.write('],"annotations":[')
        shutil.copyfileobj(people, stream)
        listed = [{"id": number, "name": name} for name, number in videos.items()]
        stream.write(f'],"videos":{_json(listed)}}}\n')


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _annotations(poses: Poses, keypoint_thr: float) -> Iterator[dict[str, Any]]:
    ids = poses.track_ids if poses.track_ids is not None else np.full(len(poses), -1)
    flags = np.where(poses.keypoint_scores >= keypoint_thr, 2, 1)
    for row, (x1, y1, x2, y2) in enumerate(poses.boxes.tolist()):
        points = zip(poses.keypoints[row].tolist(), flags[row].tolist(), strict=True)
        yield {
            "category_id": 1,
            "bbox": [short(x1), short(y1), short(x2 - x1), short(y2 - y1)],
            "area": short((x2 - x1) * (y2 - y1)),
            "iscrowd": 0,
            "num_keypoints": flags.shape[1],
            "keypoints": [value for (x, y), flag in points for value in (short(x), short(y), flag)],
            "score": round(float(poses.scores[row]), 6),
            "keypoint_scores": [round(score, 4) for score in poses.keypoint_scores[row].tolist()],
            **({"track_id": int(ids[row])} if ids[row] >= 0 else {}),
        }


def columns_of(skeleton: Skeleton) -> dict[str, str]:
    """Columns of CSV and Parquet with polars' types: one row a person, and three columns a keypoint."""
    return {**_COLUMNS, **dict.fromkeys(keypoint_columns(skeleton), "Float32")}


def keypoint_columns(skeleton: Skeleton) -> list[str]:
    """Columns of a table's keypoints, three a keypoint: ``NAME_x``, ``NAME_y``, ``NAME_score``.

    Keypoints of one name are told apart by their index, as in ``NAME_0_x``.
    """
    times = Counter(skeleton.keypoints)
    names = [name if times[name] == 1 else f"{name}_{index}" for index, name in enumerate(skeleton.keypoints)]
    return [f"{name}_{part}" for name in names for part in ("x", "y", "score")]


def _rows(frame: Frame) -> Iterator[list[Any]]:
    poses = _poses_of(frame)
    height, width = frame.image_hw
    time_s = "" if frame.time_s is None else frame.time_s
    ids = [-1] * len(poses) if poses.track_ids is None else poses.track_ids.tolist()
    points = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=-1)
    points = points.reshape(len(poses), 3 * len(poses.skeleton))
    numbers = np.concatenate([poses.scores[:, None], poses.boxes, points], axis=1)
    # As text of an array: the shortest that gives the same float32 again.
    for row, (number, values) in enumerate(zip(ids, numbers.astype(str).tolist(), strict=True)):
        track = number if number >= 0 else ""
        yield [_text(frame.source), frame.index, time_s, width, height, row, track, *values]


def _text(name: str) -> str:
    """A name that UTF-8 can hold: a file's name need not be text."""
    return name.encode("utf-8", "backslashreplace").decode()
