"""What Gst-nvinfer's letterbox costs a model: black in place of grey, sizes and places in whole pixels.

Places synthetic images as rtmo-deploy does, as nvinfer does (computed here, without DeepStream), and as nvinfer would
with grey. Prints AP, and how far keypoints move from where rtmo-deploy finds them, as a Markdown table.

    python benchmarks/deepstream_letterbox.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.measure.accuracy import evaluate_poses
from rtmo_deploy.runtime import RTMO
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.letterbox import PAD_VALUE, Placement, letterbox, to_tensor
from rtmo_deploy.runtime.rows import iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

#: Of the synthetic images; apart from those that the embedded model is trained, calibrated and judged with.
SEED = 5000
#: Detections and keypoints that are compared have at least these scores.
SCORE, KEYPOINT_SCORE = 0.5, 0.3
BLACK = 0


def place_as_nvinfer(
    image: NDArray[np.uint8], size_hw: tuple[int, int], *, symmetric: bool, pad: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """An image in a canvas, and the scale (x, y) and offset (x, y) of the image there."""
    height, width = size_hw
    rows, columns = (side // 2 * 2 for side in image.shape[:2])
    tall = width * rows / columns
    size = (width, int(tall)) if tall <= height else (int(height * columns / rows), height)
    left, top = ((width - size[0]) // 2, (height - size[1]) // 2) if symmetric else (0, 0)
    canvas = np.full((height, width, 3), pad, np.uint8)
    inner = cv2.resize(image[:rows, :columns], size, interpolation=cv2.INTER_LINEAR)
    canvas[top : top + size[1], left : left + size[0]] = inner
    return canvas, np.array(size) / [columns, rows], np.array([left, top], np.float64)


def found_as_nvinfer(model: RTMO, image: NDArray[np.uint8], *, symmetric: bool, pad: int) -> Poses:
    """People in an image that is placed as nvinfer does, in pixels of the image."""
    canvas, scale, offset = place_as_nvinfer(image, model.input_hw, symmetric=symmetric, pad=pad)
    (poses,) = outputs_to_poses(model.backend(to_tensor([canvas])), model.input_hw, model.artifact, model.coordinates)
    boxes = ((poses.boxes.reshape(-1, 2, 2) - offset) / scale).reshape(-1, 4)
    return replace(poses, boxes=boxes, keypoints=(poses.keypoints - offset) / scale, image_hw=image.shape[:2])


def found_with(model: RTMO, image: NDArray[np.uint8], placement: Placement) -> Poses:
    """People in an image that is placed as rtmo-deploy does."""
    canvas, transform = letterbox(image, model.input_hw, placement)
    (poses,) = outputs_to_poses(model.backend(to_tensor([canvas])), model.input_hw, model.artifact, model.coordinates)
    boxes, keypoints = transform.boxes_to_original(poses.boxes), transform.to_original(poses.keypoints)
    return replace(poses, boxes=boxes, keypoints=keypoints, image_hw=image.shape[:2])


def shifts(expected: Poses, found: Poses) -> tuple[list[float], int]:
    """How far keypoints of the same people are apart, pixels of the image; and how many people are not found again."""
    distances: list[float] = []
    missed = 0
    expected, found = expected[expected.scores > SCORE], found[found.scores > SCORE]
    for person in expected:
        overlaps = iou(person.boxes[0], found.boxes) if len(found) else np.zeros(1)
        if overlaps.max() <= SCORE:
            missed += 1
            continue
        seen = person.keypoint_scores[0] >= KEYPOINT_SCORE
        gaps = person.keypoints[0] - found.keypoints[int(overlaps.argmax())]
        distances += np.linalg.norm(gaps, axis=-1)[seen].tolist()
    return distances, missed


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rtmo-n")
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    data = SyntheticPeople(options.images, seed=SEED, options=SyntheticOptions(people=(1, 6)))
    images = [data[index].image for index in range(len(data))]
    print("| placement | padding | AP | keypoints moved, median px | 95 % below px | people not found again |")
    print("|---|---|---:|---:|---:|---:|")
    with RTMO(options.model, device="cpu") as model:
        for placement in Placement:
            symmetric = placement is Placement.CENTER
            reference = [found_with(model, image, placement) for image in images]
            print(f"| {placement}, rtmo-deploy | {PAD_VALUE} | {evaluate_poses(data, reference).ap:.3f} | - | - | - |")
            for pad in (PAD_VALUE, BLACK):
                found = [found_as_nvinfer(model, image, symmetric=symmetric, pad=pad) for image in images]
                pairs = [shifts(a, b) for a, b in zip(reference, found, strict=True)]
                moved = np.array([distance for distances, _ in pairs for distance in distances])
                missed, people = sum(one for _, one in pairs), sum(int((one.scores > SCORE).sum()) for one in reference)
                print(
                    f"| {placement}, nvinfer | {pad} | {evaluate_poses(data, found).ap:.3f} | {np.median(moved):.2f} | "
                    f"{np.percentile(moved, 95):.2f} | {missed} of {people} |"
                )


if __name__ == "__main__":
    main()
