"""Poses and Skeleton: the currency every floor trades in.

This module knows NumPy and names of keypoints: no model, no file format, no drawing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray


Side = Literal["left", "right", "centre"]

#: Words of a name: ``LEye`` is L, Eye; ``kneeL1`` is knee, L, 1; ``left_eye`` is left, eye.
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_SWAP: Final = {"left": "right", "right": "left", "l": "r", "r": "l"}
#: What may follow or precede a side without a gap, as in ``lshoulder``: a word that merely begins with l is no side.
_PARTS: Final = (
    "ankle arm ball brow calf cheek ear elbow eye eyebrow finger foot forearm hand heel hip hock hoof index kidney "
    "knee leg mouth palm paw pinky shoulder shin sho thigh thumb toe wing wrist bigtoe smalltoe elb wri kne ank"
)
_GLUED: Final = re.compile(
    rf"(?P<before>left|right|l|r)(?:{_PARTS.replace(' ', '|')})s?|"
    rf"(?:{_PARTS.replace(' ', '|')})(?P<after>left|right|l|r)",
    re.IGNORECASE,
)
#: Words that look glued and are whole: the rear is not the right ear.
_WHOLE: Final = frozenset({"rear", "lear", "heel", "kneel", "earl", "legl"})
_CENTRAL_WORDS: Final = (
    "nose neck head top headtop crown forehead chin jaw throat mouth face pelvis root hip hips torso trunk thorax "
    "chest sternum spine back belly navel tail base end withers center centre mid middle central bottom of the body "
    "tailbase tailend tailtip tip tophead lower upper low up"
)
_CENTRAL: Final = frozenset(_CENTRAL_WORDS.split())


class Mirror(NamedTuple):
    """What names say of left and right: pairs, sides without a partner, the middle, and the rest, by index."""

    pairs: tuple[tuple[int, int], ...]
    sided: tuple[int, ...]
    central: tuple[int, ...]
    unknown: tuple[int, ...]


@lru_cache(maxsize=4096)
def side_of(name: str) -> Side:
    """Body side that a keypoint's name gives; ``centre`` where it gives none, or both."""
    sides = {name[first].lower() for first, _ in _places(name)}
    if len(sides) != 1:
        return "centre"
    return "left" if sides == {"l"} else "right"


def mirror_of(names: Sequence[str]) -> Mirror:
    """Pair names that differ in their side alone, written in the same style.

    ``left_eye`` with ``right_eye``, ``kneeL`` with ``kneeR``; not ``shoulder_l`` with ``shoulderR``.
    """
    # The case of letters does not matter: LeftFin goes with rightFin.
    index = {name.casefold(): place for place, name in enumerate(names)}
    unique = len(index) == len(names)
    pairs: list[tuple[int, int]] = []
    sided: list[int] = []
    central: list[int] = []
    unknown: list[int] = []
    for place, name in enumerate(names):
        partner = index.get(_swapped(name).casefold()) if unique else None
        sides = _places(name)
        if partner is not None and partner != place and _swapped(names[partner]).casefold() == name.casefold():
            if name[sides[0][0]].lower() == "l":
                pairs.append((place, partner))
        elif sides:
            sided.append(place)
        else:
            words = {word[0].lower() for word in _WORD.finditer(name)}
            (central if words and words <= _CENTRAL else unknown).append(place)
    return Mirror(tuple(pairs), tuple(sided), tuple(central), tuple(unknown))


def _places(name: str) -> list[tuple[int, int]]:
    """Where the words for a side stand in a name."""
    words = list(_WORD.finditer(name))
    found = [word.span() for word in words if word[0].lower() in _SWAP]
    if found:
        return found
    for word in words:
        start, text = word.start(), word[0]
        glued = None if text.lower() in _WHOLE else _GLUED.fullmatch(text)
        if glued is not None:
            first, last = glued.span("before" if glued["before"] else "after")
            return [(start + first, start + last)]
    return []


def _swapped(name: str) -> str:
    """The name with its sides changed."""
    parts, end = [], 0
    for first, last in _places(name):
        parts += [name[end:first], _SWAP[name[first:last].lower()]]
        end = last
    return "".join([*parts, name[end:]])


_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Skeleton:
    """What the keypoints of a model mean."""

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


def _pairs(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in rows)


def as_float32(record: object, **shapes: tuple[int, ...]) -> None:
    """Make these fields of a frozen record float32 arrays, or ValueError where one has another shape."""
    for name, shape in shapes.items():
        array = np.asarray(getattr(record, name), dtype=np.float32)
        if array.shape != shape:
            raise ValueError(f"{type(record).__name__}.{name} has shape {array.shape}, expected {shape}")
        object.__setattr__(record, name, array)


@dataclass(frozen=True, eq=False)
class Poses:
    """The detections of one image, best first; without any, ``N = 0``: there is never a made-up row."""

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

    def __post_init__(self) -> None:
        count, joints = len(self.scores), len(self.skeleton)
        as_float32(
            self, boxes=(count, 4), scores=(count,), keypoints=(count, joints, 2), keypoint_scores=(count, joints)
        )
        if self.track_ids is not None:
            ids = np.asarray(self.track_ids, np.int64)
            if ids.shape != (count,):
                raise ValueError(f"Poses.track_ids has shape {ids.shape}, expected {(count,)}")
            object.__setattr__(self, "track_ids", ids)

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

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready list, one entry a person: ``box``, ``score``, ``keypoints`` as [x, y, score] rows."""
        rows = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=-1)
        return [
            {"box": self.boxes[i].tolist(), "score": float(self.scores[i]), "keypoints": rows[i].tolist()}
            for i in range(len(self))
        ]
