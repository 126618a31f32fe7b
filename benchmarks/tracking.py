"""Tracking: this project's tracker against those of the package trackers, on the same detections.

    pip install --no-deps trackers
    python benchmarks/tracking.py --model rtmo-n --seeds 301-305 --cache detections

Scenes are those of `rtmo-deploy data synth --video`. Detections are the model's, or without --model simulated: the
truth with noise, misses, false alarms, and low scores where people are hidden. The frame and its time are given to
every tracker. Switches are summed over the seeds; IDF1 and HOTA are computed over all seeds' frames by trackers.eval.
"""

from __future__ import annotations

import argparse
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.data.synthetic.video import SCENES, SyntheticVideo, VideoFrame
from rtmo_deploy.poses import Poses
from rtmo_deploy.track import Tracker
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import People

    #: A frame's detections, its time and its image to an id for each detection, -1 for none.
    Update = Callable[[Poses, float, NDArray[np.uint8]], NDArray[Any]]

#: Scene, and whether a third of the frames is missing.
RUNS = [*((scene, False) for scene in SCENES), ("crowd", True)]


def simulated(frame: VideoFrame, rng: np.random.Generator) -> Poses:
    """Detections of the truth with noise: 2 % are missed, more where hidden; a false alarm in 5 % of the frames."""
    people, visible = frame.sample.people, frame.visible
    keep = rng.random(len(people)) < np.clip(0.98 * visible / 0.4, 0, 0.98)
    people, visible = people[keep], visible[keep]
    size = np.sqrt(people.areas / 0.53)[:, None, None]
    shown = people.visible
    boxes = people.boxes + rng.normal(0, 0.02, people.boxes.shape) * size[..., 0]
    keypoints = (
        people.keypoints + rng.normal(0, 1, people.keypoints.shape) * np.where(shown[..., None] > 1, 0.015, 0.06) * size
    )
    # An unlabelled keypoint is at 0, 0: a model guesses somewhere in the box.
    guess = boxes[:, None, :2] + rng.random(keypoints.shape) * (boxes[:, None, 2:] - boxes[:, None, :2])
    keypoints = np.where(shown[..., None] > 0, keypoints, guess)
    scores = np.clip(0.9 * np.minimum(1, visible / 0.7) + rng.normal(0, 0.05, len(visible)), 0.05, 0.99)
    points = np.clip(0.45 * shown + rng.normal(0, 0.05, shown.shape), 0, 1)
    if rng.random() < 0.05:
        height, width = frame.sample.image.shape[:2]
        corner, sides = rng.random(2) * (0.8 * width, 0.5 * height), np.array([0.2, 0.45]) * height
        boxes = np.concatenate([boxes, np.concatenate([corner, corner + sides])[None]])
        keypoints = np.concatenate([keypoints, (corner + rng.random((17, 2)) * sides)[None]])
        scores, points = np.append(scores, rng.uniform(0.1, 0.5)), np.concatenate([points, rng.random((1, 17))])
    return Poses(boxes, scores, keypoints, points, COCO_17, image_hw=frame.sample.image.shape[:2])


def detections(frames: list[VideoFrame], seed: int, name: str, model: Any, cache: Path | None) -> list[Poses]:
    """What is found in each frame."""
    if model is None:
        rng = np.random.Generator(np.random.PCG64([seed, 77]))
        return [simulated(frame, rng) for frame in frames]
    kept = cache / f"{name}-{seed}.pkl" if cache else None
    if kept and kept.is_file():
        found: list[Poses] = pickle.loads(kept.read_bytes())
    else:
        found = model().predict([frame.sample.image for frame in frames])
        if kept:
            kept.write_bytes(pickle.dumps(found))
    return [replace(p, image_hw=f.sample.image.shape[:2]) for p, f in zip(found, frames, strict=True)]


def ours(*, with_image: bool) -> Update:
    """This project's tracker."""
    tracker = Tracker()

    def update(poses: Poses, time_s: float, image: NDArray[np.uint8]) -> NDArray[Any]:
        return tracker.update(poses, time_s, image if with_image else None).track_ids

    return update


def theirs(name: str) -> Update:
    """A tracker of the package, with its defaults."""
    import supervision
    import trackers

    tracker = getattr(trackers, name)()

    def update(poses: Poses, time_s: float, image: NDArray[np.uint8]) -> NDArray[Any]:
        given = supervision.Detections(
            poses.boxes,
            confidence=poses.scores,
            class_id=np.zeros(len(poses), int),
            data={"row": np.arange(len(poses))},
        )
        frame = image if name == "BoTSORTTracker" else None  # the others do not use it
        found = tracker.update(given, frame=frame, timestamp=time_s)
        ids = np.full(len(poses), -1)
        if len(found):
            ids[found.data["row"]] = found.tracker_id
        return ids

    return update


COMPARED: dict[str, Callable[[], Update]] = {
    "this project": lambda: ours(with_image=True),
    "without image": lambda: ours(with_image=False),
    **{
        label: (lambda name=name: theirs(name))
        for label, name in (
            ("SORT", "SORTTracker"), ("ByteTrack", "ByteTrackTracker"), ("OC-SORT", "OCSORTTracker"),
            ("C-BIoU", "CBIoUTracker"), ("BoT-SORT", "BoTSORTTracker"),
        )
    },
}  # fmt: skip


def oks(people: People, poses: Poses) -> NDArray[Any]:
    """OKS of each detection with each person, over the labelled keypoints, ``(people, detections)``."""
    labelled = people.visible > 0
    off = ((people.keypoints[:, None] - poses.keypoints) ** 2).sum(-1)
    scale = 2 * people.areas[:, None, None] * (2 * np.array(COCO_17.sigmas)) ** 2
    return (np.exp(-off / scale) * labelled[:, None]).sum(-1) / np.maximum(labelled.sum(1), 1)[:, None]


def judge(
    frames: list[VideoFrame], found: list[Poses], update: Update
) -> tuple[list[Any], list[Any], list[Any], float]:
    """True ids, given ids and OKS in each frame, and the mean time of an update in ms."""
    truth, given, alike, spent = [], [], [], 0.0
    for frame, poses in zip(frames, found, strict=True):
        start = time.perf_counter()
        ids = update(poses, frame.time_s, frame.sample.image)
        spent += time.perf_counter() - start
        known = ids >= 0
        truth.append(frame.track_ids)
        given.append(ids[known])
        alike.append(oks(frame.sample.people, poses[known]))
    return truth, given, alike, 1000 * spent / len(frames)


def joined(parts: list[tuple[list[Any], list[Any], list[Any], float]]) -> dict[str, float]:
    """Figures over several videos, whose ids are made different."""
    from trackers.eval import compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

    # Ids from 0 without gaps over all videos, as the package wants them.
    columns: list[list[Any]] = [[], [], []]
    starts = [0, 0]
    for truth, given, alike, _ in parts:
        for column, ids in enumerate((truth, given)):
            names, index = np.unique(np.concatenate(ids), return_inverse=True)
            columns[column] += np.split(index + starts[column], np.cumsum([len(i) for i in ids])[:-1])
            starts[column] += len(names)
        columns[2] += alike
    clear = compute_clear_metrics(*columns)
    return {
        "switches": int(clear["IDSW"]),
        "IDF1": 100 * float(compute_identity_metrics(*columns)["IDF1"]),
        "HOTA": 100 * float(compute_hota_metrics(*columns)["HOTA"]),
        "recall": 100 * float(clear["CLR_Re"]),
        "ids": starts[1],
        "people": starts[0],
        "ms": float(np.mean([part[3] for part in parts])),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model that finds the people; simulated detections if not given")
    parser.add_argument("--seeds", default="301-305")
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--trackers", default=",".join(COMPARED))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--cache", type=Path, help="folder that keeps the model's detections")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    opened: list[Any] = []

    def model() -> Any:
        from rtmo_deploy.runtime.estimator import PoseEstimator

        opened[:] = opened or [PoseEstimator.open(args.model)]
        return opened[0]

    labels = args.trackers.split(",")
    print("| scene | tracker | ids / people | switches | IDF1 | HOTA | recall | ms a frame |")
    print("|---|---|---|---|---|---|---|---|")
    for scene, variable in RUNS:
        if scene not in args.scenes.split(","):
            continue
        name = f"{scene}-variable" if variable else scene
        parts: dict[str, list[Any]] = {label: [] for label in labels}
        for seed in seeds:
            frames = list(SyntheticVideo(scene, seed=seed, seconds=args.seconds, variable=variable))
            found = detections(frames, seed, name, model if args.model else None, args.cache)
            for label in labels:
                parts[label].append(judge(frames, found, COMPARED[label]()))
        for label in labels:
            row = joined(parts[label])
            print(
                f"| {name} | {label} | {row['ids']} / {row['people']} | {row['switches']} | {row['IDF1']:.1f} | "
                f"{row['HOTA']:.1f} | {row['recall']:.1f} | {row['ms']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
