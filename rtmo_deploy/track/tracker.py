"""Tracker: the detections of one frame after another to people with ids."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.track.looks import BINS, PARTS, looks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

    Array = NDArray[Any]

#: Sigma of the keypoints of a skeleton that has none.
_SIGMA: Final = 0.08
#: Motion is an Ornstein-Uhlenbeck process: velocity is forgotten with this time constant, in seconds, and has this
#: standard deviation, in sizes of the person a second. A size is 0.6 of the box's longer side.
_FORGET_S, _SPEED = 1.0, 1.0
#: How well a detection tells a position, in sizes.
_NOISE: Final = 0.06
#: Standard deviations of what a person looks like: of the logarithm of the size, of a colour histogram's distance.
_SIZE_SPREAD, _COLOUR_SPREAD = 0.08, 0.2
#: Variance that the logarithm of the size gains in a second.
_SIZE_DRIFT: Final = 0.02
#: No part of the cost counts for more than this.
_CAP: Final = 8.0
#: Whoever was not seen for longer, and not in the frame before, was hidden, and must have the same colours.
_HIDDEN_FROM_S: Final = 0.4
#: As many keypoints the box counts for where positions are compared.
_BOX_WEIGHT: Final = 3.0
#: What a score of 0 costs: of two detections of a person, the better one is preferred.
_UNSURE: Final = 1.0
#: A track of fewer detections is new, and others are preferred to it.
_NEW: Final = 5
#: Two detections of a higher OKS are one person.
_DOUBLE: Final = 0.6
#: Detections from this share of the score that starts tracks are assigned first.
_SURE: Final = 0.75
#: From this share of it a hidden person is found again.
_BACK: Final = 0.6
#: Of a box of which another covers more than the first share, the colours are not learned. If another track without a
#: detection, last seen less than _MERGED_S ago, covers more than the second share, the detection may be both people's:
#: it tells a position less well, in sizes.
_COVERED, _MERGED, _MERGED_S, _MERGED_NOISE = 0.25, 0.5, 1.0, 0.12
#: Costs up to which a detection belongs to a track: a confident one, a weak one.
_GATE, _WEAK_GATE = 12.0, 3.0
#: A person who comes back is known by colours: so far off at most, and others so much farther.
_SAME_COLOUR, _CLEARER = 0.5, 0.15
#: Nobody whose colours are farther off than this is the same.
_OTHER_COLOUR: Final = 0.75
#: Colours are known when they are seen this surely, of at most PARTS.
_SEEN: Final = 0.5
#: Nobody is faster than this, in sizes a second.
_FASTEST: Final = 4.0
#: How long a new person may wait for an id while somebody is away, until it is seen who it is.
_DECIDE_S: Final = 0.5


class Tracker:
    """Gives people ids that stay, from 1. One tracker follows one video, from its first frame on.

    A detection belongs to the track where it is expected (box and OKS around the predicted position), with its size
    and, where images are given, its colours. All is in seconds: frame rates may vary and frames may be missing.
    An id is never used for another person knowingly: who cannot be told is somebody new.

    Args:
        score: Detections from this score on start tracks. Weaker ones only continue them.
        hidden_s: How long somebody who is not seen is looked for where they were going, in seconds.
        memory_s: How long somebody is remembered by their colours, in seconds; needs images.
    """

    def __init__(self, *, score: float = 0.65, hidden_s: float = 2.0, memory_s: float = 60.0) -> None:
        if not (0 <= score <= 1 and 0 < hidden_s <= memory_s < math.inf):
            raise UsageError(
                f"A tracker cannot have score {score}, hidden_s {hidden_s} and memory_s {memory_s}.",
                remedy="The score is from 0 to 1; the times are positive, memory_s not below hidden_s.",
            )
        self.score, self.hidden_s, self.memory_s = score, hidden_s, memory_s
        self.reset()

    def reset(self) -> None:
        """Forget everybody; ids start from 1 again."""
        self._tracks: Array | None = None
        self._time = -math.inf
        self._last_id = 0

    def update(self, poses: Poses, time_s: float, image: NDArray[np.uint8] | None = None) -> Poses:
        """The next frame.

        Args:
            poses: Its detections, N of them, in pixels.
            time_s: Its time in seconds, not before the last one's.
            image: ``(h, w, 3)`` uint8, BGR, to know people by their clothes too.

        Returns:
            The same rows, with ``track_ids``, ``(N,)`` int64: -1 where a detection is too weak, or seen for the first
            time and not in the video's first frame.

        Raises:
            UsageError: Time goes back, the skeleton changes, a number is not finite, or the image is of another kind.
        """
        self._check(poses, time_s)
        if image is not None and (getattr(image, "ndim", 0) != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
            raise UsageError("The image is no uint8 array (h, w, 3) in BGR order.", remedy="Read it with read_image.")
        now = _observed(poses, time_s, image)
        sigmas = np.array(poses.skeleton.sigmas or (_SIGMA,) * len(poses.skeleton))
        now["shown"] *= ((_covers(now, now) > _COVERED).sum(1) <= 1)[:, None]  # each covers itself
        first = self._tracks is None
        tracks = now[:0] if self._tracks is None else self._tracks
        before, self._time = self._time, time_s
        row_of = np.full(len(now), -1)

        predicted = _predicted(tracks, time_s)
        single = ~_doubled(now, poses.scores, sigmas)
        sure = poses.scores >= _SURE * self.score
        cost, offsets = _costs(predicted, now, sigmas, time_s)
        gap = time_s - tracks["seen"]
        reach, hidden = gap <= self.hidden_s, ((gap > _HIDDEN_FROM_S) & (tracks["seen"] < before))[:, None]
        unknown = now["shown"].sum(1) < _SEEN
        # Nobody comes back as a weak or second detection of somebody. Who has left is known again by colours only; of
        # several who are hidden, somebody whose colours are not seen yet could be any.
        cost[hidden & (~single | (poses.scores < _BACK * self.score))] = np.inf
        cost[hidden & _left(predicted, poses.image_hw)[:, None] & unknown] = np.inf
        if image is not None:
            cost[hidden & unknown & (((cost < _GATE) & hidden).sum(0) > 1)] = np.inf
        for rows, gate in ((sure & single, _GATE), (sure ^ single, _WEAK_GATE)):
            free, columns = np.flatnonzero(reach), np.flatnonzero(rows)
            for track, row in _assigned(cost[free[:, None], columns], gate):
                row_of[columns[row]], reach[free[track]] = free[track], False
        found = np.flatnonzero(row_of >= 0)
        pairs = row_of[found]
        unseen = predicted[reach & (predicted["id"] > 0)]
        cover = _covers(now, unseen)
        now["shown"] *= np.all(cover <= _COVERED, axis=1, keepdims=True)
        merged = np.any((cover > _MERGED) & (time_s - unseen["seen"] < _MERGED_S), axis=1, keepdims=True)[found, 0]
        noise = np.where(merged, _MERGED_NOISE, _NOISE) ** 2
        tracks = tracks.copy()
        tracks[pairs] = _updated(predicted[pairs], now[found], offsets[pairs, found], noise)
        born = np.flatnonzero((poses.scores >= self.score) & single & (row_of < 0))
        if len(born):
            row_of[born] = len(tracks) + np.arange(len(born))
            tracks = np.concatenate([tracks, now[born]])
        tracks = self._named(tracks, sigmas, time_s, first=first, looks=image is not None, hw=poses.image_hw)
        ids = np.where(row_of < 0, -1, np.append(tracks["id"], -1)[row_of])
        limit = np.where(tracks["id"] < 0, 0.1, self.memory_s if image is not None else self.hidden_s)
        self._tracks = tracks[(time_s - tracks["seen"] <= limit) & (tracks["id"] != 0)]
        return replace(poses, track_ids=np.where(ids == 0, -1, ids))

    def _check(self, poses: Poses, time_s: float) -> None:
        finding = ""
        joints = None if self._tracks is None else self._tracks["visible"].shape[1]
        if not time_s >= self._time or not math.isfinite(time_s):
            finding = f"A frame at {time_s} s cannot follow one at {self._time} s."
        elif joints not in {None, len(poses.skeleton)}:
            finding = f"A tracker of {joints} keypoints was given {len(poses.skeleton)}."
        elif not all(np.isfinite(a).all() for a in (poses.boxes, poses.scores, poses.keypoints, poses.keypoint_scores)):
            finding = "The detections hold numbers that are not finite."
        if finding:
            raise UsageError(finding, remedy="Give the frames of one video in order, and reset() before another one.")

    def _named(
        self, tracks: Array, sigmas: Array, time_s: float, *, first: bool, looks: bool, hw: tuple[int, int] | None
    ) -> Array:
        """Tracks with the ids of those who are new, or known to be back; their old rows get id 0."""
        here = tracks["seen"] == time_s
        for row in np.flatnonzero(here & (tracks["id"] < 0) & ((tracks["hits"] >= 2) | first)).tolist():
            one = tracks[row : row + 1]
            away = np.flatnonzero(~here & (tracks["id"] > 0) & (tracks["seen"] < one["born"]))
            old = None
            if len(away) and looks:
                seen, late = one["shown"].sum() >= _SEEN, time_s - one["born"] >= _DECIDE_S
                old = _back(tracks[away], one) if seen else _near(tracks[away], one, sigmas, self.hidden_s, hw)
                other = seen and _colour_distance(tracks[away], one)[0].min() > _OTHER_COLOUR
                if (old is None or one["hits"] < 4 or not seen) and not late and not other:
                    continue
            if old is None:
                self._last_id += 1
                tracks["id"][row] = self._last_id
            else:
                tracks["id"][row], tracks["id"][away[old]] = tracks["id"][away[old]], 0
        return tracks


def _back(away: Array, one: Array) -> int | None:
    """Which of those who are away this is, by colours; None if nobody, or if it is not clear."""
    distance, weight = (values[:, 0] for values in _colour_distance(away, one))
    far = np.hypot(*(one["centre"] - away["centre"]).T) / one["size"]
    possible = (weight >= _SEEN) & (far <= 0.5 + _FASTEST * (one["seen"] - away["seen"]))
    distance = np.where(possible, distance, np.inf)
    order = np.argsort(distance)
    best = int(order[0])
    if not distance[best] <= _SAME_COLOUR:
        return None
    if len(order) > 1 and distance[order[1]] < distance[best] + _CLEARER:
        return None
    return best


def _near(away: Array, one: Array, sigmas: Array, hidden_s: float, hw: tuple[int, int] | None) -> int | None:
    """Which of those who are away this is, by motion; None if nobody, or if it is not clear."""
    time_s = float(one["seen"][0])
    predicted = _predicted(away, time_s)
    cost = _costs(predicted, one, sigmas, time_s)[0][:, 0]
    cost[(time_s - away["seen"] > hidden_s) | _left(predicted, hw)] = np.inf
    order = np.argsort(cost)
    if cost[order[0]] >= _GATE or (len(order) > 1 and cost[order[1]] < cost[order[0]] + 3):
        return None
    return int(order[0])


@cache
def _dtype(joints: int) -> np.dtype[Any]:
    two = (2,)
    return np.dtype(
        [
            ("id", "i8"), ("born", "f8"), ("seen", "f8"), ("hits", "i8"), ("size", "f8"), ("score", "f8"),
            ("centre", "f8", two), ("sides", "f8", two), ("velocity", "f8", two), ("covariance", "f8", (3,)),
            ("points", "f8", (joints, 2)), ("visible", "f8", (joints,)), ("colours", "f8", (PARTS, BINS)),
            ("shown", "f8", (PARTS,)),
        ]
    )  # fmt: skip


def _observed(poses: Poses, time_s: float, image: NDArray[np.uint8] | None) -> Array:
    """A row for each detection, as a track that is just born."""
    rows = np.zeros(len(poses), _dtype(len(poses.skeleton)))
    boxes = poses.boxes.astype(np.float64)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    rows["id"], rows["born"], rows["seen"], rows["hits"] = -1, time_s, time_s, 1
    rows["sides"], rows["score"] = sides, poses.scores
    rows["size"] = 0.6 * sides.max(1)
    rows["centre"] = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows["covariance"] = (_NOISE**2, 0.0, _SPEED**2)
    rows["points"], rows["visible"] = poses.keypoints, np.clip(poses.keypoint_scores, 0, 1)
    if image is not None:
        rows["colours"], rows["shown"] = looks_of(poses, image)
    return rows


def _predicted(tracks: Array, time_s: float) -> Array:
    """The tracks as they are expected at a time; ``seen`` stays."""
    new = tracks.copy()
    dt = time_s - tracks["seen"]
    keep = np.exp(-dt / _FORGET_S)
    reach = _FORGET_S * (1 - keep)
    step = tracks["velocity"] * reach[:, None]
    new["centre"] += step
    new["points"] += step[:, None]
    new["velocity"] *= keep[:, None]
    p, c, v = tracks["covariance"].T
    grown = (_SPEED * _FORGET_S) ** 2 * (2 * dt / _FORGET_S - 3 + 4 * keep - keep**2)
    new["covariance"] = np.stack(
        (
            p + 2 * reach * c + reach**2 * v + grown,
            keep * (c + reach * v) + _SPEED**2 * _FORGET_S * (1 - keep) ** 2,
            keep**2 * v + _SPEED**2 * (1 - keep**2),
        ),
        axis=-1,
    )
    return new


def _left(tracks: Array, hw: tuple[int, int] | None) -> Array:
    """Who is expected to be a fifth or more outside of the image, ``(T,)`` bool."""
    if hw is None:
        return np.zeros(len(tracks), bool)
    half = np.array(hw[::-1]) / 2
    return np.asarray((np.abs(tracks["centre"] - half) + 0.3 * tracks["sides"] > half).any(-1))


def _costs(tracks: Array, now: Array, sigmas: Array, time_s: float) -> tuple[Array, Array]:
    """How badly each detection fits each track, ``(T, N)``: minus the logarithm of a likelihood, up to a constant.

    And how far it is from where the track is expected, by the box and the keypoints that both see, ``(T, N, 2)`` px.
    """
    spread = tracks["covariance"][:, :1]
    variance = spread + _NOISE**2
    oks, weight, apart = _oks(tracks, now, sigmas, spread)
    offsets = apart + _BOX_WEIGHT * (now["centre"] - tracks["centre"][:, None])
    offsets /= (weight + _BOX_WEIGHT)[..., None]
    away = (offsets[..., 0] ** 2 + offsets[..., 1] ** 2) / tracks["size"][:, None] ** 2
    place = np.minimum(away / (2 * variance), 2 * _CAP) + np.log(variance / _NOISE**2) / 2
    gap = (time_s - tracks["seen"])[:, None]
    growth = np.log(tracks["size"][:, None] / now["size"]) ** 2 / (2 * (_SIZE_SPREAD**2 + _SIZE_DRIFT * gap))
    pose = -np.log(np.maximum(oks, 1e-6)) * np.minimum(1.0, weight / 3)
    cost = place + np.minimum(growth, _CAP) + np.minimum(pose, _CAP) + (tracks["hits"][:, None] < _NEW)
    cost += _UNSURE * (1 - now["score"])
    if (gap > _HIDDEN_FROM_S).any():
        distance, sure = _colour_distance(tracks, now)
        cost += distance**2 / (2 * _COLOUR_SPREAD**2) * np.minimum(1.0, sure / _SEEN) * (gap > _HIDDEN_FROM_S)
    return cost, offsets


def _oks(tracks: Array, now: Array, sigmas: Array, spread: Array) -> tuple[Array, Array, Array]:
    """OKS, with the variance of the position added, and the number of keypoints that both see; ``(T, N)`` each.

    And the sum of the distances between these keypoints, ``(T, N, 2)`` pixels.
    """
    both = np.minimum(tracks["visible"][:, None], now["visible"])
    apart = now["points"] - tracks["points"][:, None]
    off = (apart[..., 0] ** 2 + apart[..., 1] ** 2) / tracks["size"][:, None, None] ** 2
    kernel = np.exp(-off / (2 * ((2 * sigmas) ** 2 + spread[..., None])))
    weight = both.sum(-1)
    oks = np.einsum("tnk,tnk->tn", both, kernel) / np.maximum(weight, 1e-9)
    return oks, weight, np.einsum("tnk,tnkc->tnc", both, apart)


def _doubled(now: Array, scores: Array, sigmas: Array) -> Array:
    """Which detections are somebody's second one: their keypoints are those of a better one, ``(N,)`` bool."""
    oks, weight, _ = _oks(now, now, sigmas, np.zeros((len(now), 1)))
    return np.asarray(((oks > _DOUBLE) & (weight > 3) & (scores[:, None] < scores)).any(1))


def _colour_distance(tracks: Array, now: Array) -> tuple[Array, Array]:
    """Hellinger distance of the colours, 0 to 1, and how surely it is known, up to PARTS; ``(T, N)`` each."""
    both = np.minimum(tracks["shown"][:, None], now["shown"])
    alike = np.einsum("tpb,npb->tnp", np.sqrt(tracks["colours"]), np.sqrt(now["colours"]))
    weight = both.sum(-1)
    distance = np.sqrt(np.clip(1 - alike, 0, 1))
    return (both * distance).sum(-1) / np.maximum(weight, 1e-9), weight


def _assigned(cost: Array, gate: float) -> list[tuple[int, int]]:
    """Pairs of least total cost, where leaving a pair apart costs ``gate``."""
    if not cost.size:
        return []
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.minimum(cost, gate))
    return [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if cost[r, c] < gate]


def _updated(tracks: Array, now: Array, off: Array, noise: Array) -> Array:
    """Predicted tracks after their detections, which are ``off`` pixels away, with the variance ``noise``."""
    new = now.copy()
    for name in ("id", "born"):
        new[name] = tracks[name]
    new["hits"] = tracks["hits"] + 1
    p, c, v = tracks["covariance"].T
    gain_p, gain_v = p / (p + noise), c / (p + noise)
    # The state is the box's centre as the detections have it; the innovation is the keypoints'.
    rest = (1 - gain_p)[:, None] * off
    new["centre"] -= rest
    new["points"] -= rest[:, None]
    new["velocity"] = tracks["velocity"] + gain_v[:, None] * off
    new["covariance"] = np.stack((p - gain_p * p, c - gain_p * c, v - gain_v * c), axis=-1)
    new["size"] = tracks["size"] ** 0.8 * now["size"] ** 0.2
    # Colours change slowly. Whose score is far below their best is partly hidden.
    new["score"] = np.maximum(tracks["score"], now["score"])
    shown = now["shown"] * (now["score"] > 0.85 * new["score"])[:, None]
    rate = shown * np.maximum(np.where(new["id"] < 0, 0.2, 0.03), 1 / new["hits"])[:, None]
    rate = np.where(tracks["shown"] > 0, rate, shown > 0)
    new["colours"] = tracks["colours"] + rate[..., None] * (now["colours"] - tracks["colours"])
    new["shown"] = np.maximum(tracks["shown"], shown)
    return new


def _covers(now: Array, others: Array) -> Array:
    """Share of each detection's box that each of the others covers, ``(N, M)``."""
    sides = now["sides"][:, None]
    shares = ((sides + others["sides"]) / 2 - np.abs(now["centre"][:, None] - others["centre"])) / sides
    shares = np.minimum(np.maximum(shares, 0), 1)
    return np.asarray(shares[..., 0] * shares[..., 1])
