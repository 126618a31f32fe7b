"""Poses and Skeleton: the currency every floor trades in.

This module knows NumPy and names of keypoints. Drawing and other packages' forms are loaded when they are called for.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import converted
from rtmo_deploy.plain import plain
from rtmo_deploy.sides import side_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.sides import Side


_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Skeleton:
    """What the keypoints of a model mean.

    Raises:
        ValueError: The parts do not fit together.
    """

    name: str  #: Name of the convention, such as ``coco-17``.
    keypoints: tuple[str, ...]  #: Name of each keypoint, in the order of the model's output.
    edges: tuple[tuple[int, int], ...] = ()  #: Pairs of keypoint indices that are joined when drawn.
    flip_pairs: tuple[tuple[int, int], ...] = ()  #: Pairs of keypoint indices that swap when the image is mirrored.
    #: OKS sigma of each keypoint (COCO keypoint evaluation), or empty when the convention has none.
    sigmas: tuple[float, ...] = ()
    #: Colour of each keypoint as ``#rrggbb``, or empty.
    keypoint_colours: tuple[str, ...] = field(default=(), compare=False)
    edge_colours: tuple[str, ...] = field(default=(), compare=False)  #: Colour of each edge as ``#rrggbb``, or empty.
    #: Where this is known from, such as ``dataset_meta``; empty for a convention. Equality ignores it and the colours.
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, hint in _TYPES.items():
            try:
                object.__setattr__(self, name, converted(getattr(self, name), hint))
            except (TypeError, ValueError):
                raise ValueError(f"{self.name}: {name} is {getattr(self, name)!r}") from None
        count = len(self.keypoints)
        for what, pairs in (("edge", self.edges), ("flip pair", self.flip_pairs)):
            for pair in pairs:
                if not all(0 <= index < count for index in pair):
                    raise ValueError(f"{self.name}: {what} {pair} is outside 0..{count - 1}")
        lists = (
            ("sigmas", self.sigmas, count, "keypoints"),
            ("keypoint colours", self.keypoint_colours, count, "keypoints"),
            ("edge colours", self.edge_colours, len(self.edges), "edges"),
        )
        for what, values, wanted, of in lists:
            if values and len(values) != wanted:
                raise ValueError(f"{self.name}: {len(values)} {what} for {wanted} {of}")
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise ValueError(f"{self.name}: a sigma is not a positive number")
        if not all(_COLOUR.fullmatch(colour) for colour in (*self.keypoint_colours, *self.edge_colours)):
            raise ValueError(f"{self.name}: a colour is not of the form #rrggbb")
        ends = [end for pair in self.flip_pairs for end in pair]
        if len(set(ends)) < len(ends):
            raise ValueError(f"{self.name}: a keypoint is in two flip pairs")

    def __len__(self) -> int:
        return len(self.keypoints)

    def find(self, keypoint: int | str) -> int | None:
        """Index of a keypoint that is given by its name or index; None where there is none."""
        if isinstance(keypoint, str):
            return self.keypoints.index(keypoint) if keypoint in self.keypoints else None
        return keypoint if isinstance(keypoint, int) and 0 <= keypoint < len(self) else None

    def side(self, index: int) -> Side:
        """Body side of keypoint ``index``, read from its name."""
        return side_of(self.keypoints[index])

    @property
    def guessed(self) -> bool:
        """Whether the meaning of the keypoints is a guess, or not known at all."""
        return self.source.startswith("guessed") or self.name.startswith("generic-")

    @property
    def label(self) -> str:
        """Its name, with a remark where the meaning of the keypoints is a guess or not known."""
        if self.name.startswith("generic-"):
            return f"{self.name} (the file does not name its keypoints)"
        return f"{self.name} ({self.source})" if self.guessed else self.name

    def edge_side(self, edge: tuple[int, int]) -> Side:
        """Body side of an edge: that of its two ends, ``centre`` when they differ."""
        sides = {self.side(end) for end in edge} - {"centre"}
        return sides.pop() if len(sides) == 1 else "centre"

    def flip_indices(self) -> tuple[int, ...]:
        """For each keypoint, the index that takes its place in the mirrored image."""
        order = list(range(len(self)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @classmethod
    def generic(cls, count: int) -> Skeleton:
        """A skeleton for a keypoint count that no known convention has: numbered points, no edges."""
        return cls(name=f"generic-{count}", keypoints=tuple(f"keypoint_{i}" for i in range(count)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; inverse of :meth:`from_dict`."""
        optional = {"keypoint_colours", "edge_colours", "source"}
        return {key: plain(value) for key, value in vars(self).items() if value or key not in optional}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Skeleton:
        """Read the form that :meth:`to_dict` writes; KeyError, TypeError or ValueError where it is not that."""
        return cls(
            name=str(data["name"]),
            keypoints=tuple(str(name) for name in data["keypoints"]),
            edges=_pairs(data.get("edges", ())),
            flip_pairs=_pairs(data.get("flip_pairs", ())),
            sigmas=tuple(float(sigma) for sigma in data.get("sigmas", ())),
            keypoint_colours=tuple(str(colour) for colour in data.get("keypoint_colours", ())),
            edge_colours=tuple(str(colour) for colour in data.get("edge_colours", ())),
            source=str(data.get("source", "")),
        )


#: Lists of a skeleton's fields become tuples: it is compared and hashed.
_TYPES = get_type_hints(Skeleton)


def _pairs(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in rows)


def as_float32(record: object, **shapes: tuple[int, ...]) -> None:
    """Make these fields of a frozen record float32 arrays, or ValueError where one has another shape."""
    for name, shape in shapes.items():
        array = np.asarray(getattr(record, name), dtype=np.float32)
        if array.shape == (0,):  # an empty list has no other dimensions
            array = array.reshape(shape) if 0 in shape else array
        if array.shape != shape:
            raise ValueError(f"{type(record).__name__}.{name} has shape {array.shape}, expected {shape}")
        object.__setattr__(record, name, array)


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """The detections of one image, best first; without any, ``N = 0``: there is never a made-up row.

    Raises:
        ValueError: An array has another shape, or ``image_hw`` or ``track_ids`` are no whole numbers.
    """

    boxes: NDArray[np.float32]  #: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the original image.
    scores: NDArray[np.float32]  #: ``(N,)`` float32, 0 to 1, the person's score.
    keypoints: NDArray[np.float32]  #: ``(N, K, 2)`` float32, x, y in pixels of the original image; may lie outside it.
    #: ``(N, K)`` float32, 0 to 1: how visible the model thinks the keypoint is. It is not multiplied by the person's
    #: score (as in the reference's ``predict``).
    keypoint_scores: NDArray[np.float32]
    skeleton: Skeleton = field(repr=False)  #: What the K keypoints are.
    #: ``(N,)`` int64, who this is over the frames of a video, from 1; -1 where not known yet. None without tracking.
    track_ids: NDArray[np.int64] | None = field(default=None, kw_only=True)
    image_hw: tuple[int, int] | None = field(default=None, kw_only=True)  #: Height and width of the image, pixels.
    #: The image that they were found in: its path, the bytes of its file, or ``(H, W, 3)`` uint8 BGR; None where not
    #: known.
    source: str | os.PathLike[str] | bytes | NDArray[np.uint8] | torch.Tensor | None = field(
        default=None, kw_only=True, repr=False
    )

    def __post_init__(self) -> None:
        count, joints = len(self.scores), len(self.skeleton)
        as_float32(
            self, boxes=(count, 4), scores=(count,), keypoints=(count, joints, 2), keypoint_scores=(count, joints)
        )
        if self.track_ids is not None:
            ids = np.asarray(self.track_ids)
            if ids.shape != (count,):
                raise ValueError(f"Poses.track_ids has shape {ids.shape}, expected {(count,)}")
            if count and ids.dtype.kind not in "iu":
                raise ValueError(f"Poses.track_ids is {ids.dtype}, expected whole numbers")
            object.__setattr__(self, "track_ids", ids.astype(np.int64, copy=False))
        if self.image_hw is not None:
            try:
                object.__setattr__(self, "image_hw", converted(self.image_hw, tuple[int, int]))
            except (TypeError, ValueError):
                raise ValueError(f"Poses.image_hw is {self.image_hw!r}, expected (height, width)") from None

    def __repr__(self) -> str:
        best = f", best score {self.scores[0]:.2f}" if len(self) else ""
        ids = "" if self.track_ids is None else f", track_ids {self.track_ids.tolist()}"
        return f"<Poses: {len(self)} of {self.skeleton.name}{best}{ids}>"

    @classmethod
    def empty(cls, skeleton: Skeleton) -> Poses:
        """Nobody."""
        joints = len(skeleton)
        none = np.zeros((0, joints, 2), np.float32)
        return cls(np.zeros((0, 4), np.float32), none[:, 0, 0], none, none[..., 0], skeleton)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | ArrayLike) -> Poses:
        """The selected detections; an integer gives a ``Poses`` of one."""
        if not isinstance(index, slice):
            index = np.atleast_1d(np.asarray(index))
            index = index if index.size else index.astype(np.intp)  # an empty list has no type of its own
        keep = np.arange(len(self))[index]
        names = ["boxes", "scores", "keypoints", "keypoint_scores", *([] if self.track_ids is None else ["track_ids"])]
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def __iter__(self) -> Iterator[Poses]:
        """Each person, as a ``Poses`` of one."""
        return (self[index] for index in range(len(self)))

    @property
    def xyn(self) -> NDArray[np.float32]:
        """``(N, K, 2)`` float32, the keypoints as shares of the image's width and height."""
        return np.divide(self.keypoints, self._size(), dtype=np.float32)

    @property
    def xyxyn(self) -> NDArray[np.float32]:
        """``(N, 4)`` float32, the boxes as shares of the image's width and height."""
        return np.divide(self.boxes, np.tile(self._size(), 2), dtype=np.float32)

    def _size(self) -> NDArray[np.float32]:
        if self.image_hw is None:
            raise UsageError("The image's size is not known.", remedy="Set it: replace(poses, image_hw=(h, w)).")
        return np.array(self.image_hw[::-1], np.float32)

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready list, one entry a person: ``box``, ``score``, ``keypoints`` as [x, y, score] rows."""
        rows = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=-1)
        return [
            {"box": self.boxes[i].tolist(), "score": float(self.scores[i]), "keypoints": rows[i].tolist()}
            for i in range(len(self))
        ]

    def to_json(self) -> str:
        """The list of :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def to_coco(self, image_id: int | str, *, category_id: int = 1) -> list[dict[str, Any]]:
        """Entries of a COCO results file, best first: ``bbox`` as x, y, w, h, ``keypoints`` as x, y, score, ...

        Args:
            image_id: What the annotation file calls the image.
            category_id: What it calls people.
        """
        found: list[dict[str, Any]] = _view("to_coco")(self, image_id, category_id)
        return found

    def to_dataframe(self, backend: Literal["polars", "pandas"] = "polars") -> Any:
        """A data frame with one row a person, best first.

        Columns: ``image`` (its path if known), ``person`` (0 is the best), ``track_id`` (null where not known),
        ``score``, ``x1``, ``y1``, ``x2``, ``y2``, and ``NAME_x``, ``NAME_y``, ``NAME_score`` of each keypoint.

        Raises:
            MissingDependencyError: The package is not installed.
        """
        return _view("to_dataframe")(self, backend)

    def to_supervision(self) -> Any:
        """A ``supervision.KeyPoints``; boxes, track ids and the image's size are in its ``data``."""
        return _view("to_supervision")(self)

    def to_detections(self) -> Any:
        """A ``supervision.Detections`` of the boxes, with ``tracker_id`` if there are track ids."""
        return _view("to_detections")(self)

    @classmethod
    def from_supervision(cls, key_points: Any, skeleton: Skeleton) -> Poses:
        """Poses of a ``supervision.KeyPoints``, of any model; the inverse of :meth:`to_supervision`.

        Boxes that are not in its ``data`` are those around the keypoints. Scores that are missing are 1.

        Args:
            key_points: N detections of K keypoints.
            skeleton: What the K keypoints are.

        Raises:
            UsageError: They are not K.
        """
        found: Poses = _view("from_supervision")(key_points, skeleton)
        return found

    def plot(
        self,
        image: Any = None,
        *,
        score_thr: float = 0.5,
        kpt_thr: float = 0.3,
        boxes: bool = True,
        labels: bool = True,
    ) -> NDArray[np.uint8]:
        """A copy of the image with the detections drawn on it, ``(h, w, 3)`` uint8, BGR.

        Args:
            image: What to draw on, of any kind that a model takes; the image they were found in if not given. It is
                read again from its path; frames of a stream are not kept: give ``frame.image``.
            score_thr: Only detections with a score above this are drawn.
            kpt_thr: Only keypoints with a score of at least this are drawn.
            boxes: Whether to draw boxes.
            labels: Whether to write scores and track ids.

        Raises:
            UsageError: The image is not known, or of another size.
            InputDataError: It cannot be read any more.
        """
        drawn: NDArray[np.uint8] = _view("plot")(
            self, image, score_thr=score_thr, kpt_thr=kpt_thr, boxes=boxes, labels=labels
        )
        return drawn

    def save(self, path: str | os.PathLike[str], image: Any = None, **how: Any) -> None:
        """Write the image with the detections drawn on it, in the format of the suffix; see :meth:`plot`.

        An existing file is replaced.

        Raises:
            UsageError: No image can be written with that suffix, or as for :meth:`plot`.
            SetupError: The file cannot be written.
        """
        _view("save")(self, path, image, how)

    def show(self, image: Any = None, **how: Any) -> None:
        """Show the image with the detections: in a notebook, else in the system's image viewer; see :meth:`plot`.

        Raises:
            SetupError: There is no display.
        """
        _view("show")(self, image, how)

    def crop(self, image: Any = None, *, margin: float = 0.1) -> list[NDArray[np.uint8]]:
        """A copy of each detection's box from the image, BGR, best first; of no pixels where the box is outside it.

        Args:
            image: As for :meth:`plot`.
            margin: Added on each side, as a share of the box's width and height.
        """
        crops: list[NDArray[np.uint8]] = _view("crop")(self, image, margin)
        return crops

    def _repr_png_(self) -> bytes | None:
        """The drawn image for notebooks; None where the image is not known."""
        png: bytes | None = _view("png")(self)
        return png


def _view(name: str) -> Callable[..., Any]:
    """A function of a higher floor, loaded when it is called for."""
    found: Callable[..., Any] = getattr(importlib.import_module("rtmo_deploy.runtime.views"), name)
    return found
