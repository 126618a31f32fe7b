"""The pipeline: index and generator in, sample at the input's size out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import LetterboxTransform, letterbox
from rtmo_deploy.train.augment.geometry import (
    clip_people,
    draw_jitter,
    letterbox_matrix,
    mirror,
    move_people,
    settle,
    warp_ignore,
    warp_image,
)
from rtmo_deploy.train.augment.mixing import draw_mixup, draw_mosaic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data import PoseDataset, Sample
    from rtmo_deploy.train.augment.geometry import Jitter
    from rtmo_deploy.train.augment.mixing import MosaicPlan
    from rtmo_deploy.train.augment.options import AugmentOptions


def draw_gains(strength: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw what is added to hue, saturation and value: evenly within the strength, and 0 by a coin for each."""
    gains = rng.uniform(-1, 1, 3) * strength * rng.integers(0, 2, 3)
    hue, saturation, value = (int(gain) for gain in gains)
    return hue, saturation, value


def shift_hsv(image: NDArray[np.uint8], gains: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Add to hue (of 180, around the circle), saturation and value (clipped) of a ``(h, w, 3)`` uint8 BGR image."""
    if not any(gains):
        return image
    levels = np.arange(256)
    hue = (levels + gains[0]) % 180
    saturation, value = (np.clip(levels + gain, 0, 255) for gain in gains[1:])
    table = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)


class Augmenter:
    """Samples of a dataset as the network is trained on them; UsageError for an empty dataset.

    In the reference's order: mosaic or one image, affine, clipping, mixup, colours, mirror, and the people
    left out of whom too little remains. A sample may end up with nobody in it. Visibility keeps COCO's flags;
    the reference's losses see 1 for both 1 and 2.

    It holds no state, can be pickled if the dataset can, and leaves the dataset's arrays alone. ``flip_indices`` say
    which keypoint takes each one's place in a mirrored image: those of the dataset's skeleton if not given.
    """

    def __init__(
        self, dataset: PoseDataset, options: AugmentOptions, *, flip_indices: Sequence[int] | None = None
    ) -> None:
        if not len(dataset):
            raise UsageError("There is no image to augment.", remedy="Check the dataset's annotations and filters.")
        self.dataset = dataset
        self.options = options
        self.flip_indices = dataset.skeleton.flip_indices() if flip_indices is None else flip_indices

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample of one index; all randomness is drawn from ``rng`` before an image is read.

        ``image`` is ``(H, W, 3)`` uint8 BGR, contiguous; people are in its pixels; ``ignore`` is ``(H, W)`` bool or
        None; id and name are those of the image at ``index``.
        """
        options, size, flip_indices = self.options, len(self.dataset), self.flip_indices
        mosaic = jitter = mixup = None
        if rng.random() < options.mosaic:
            mosaic = draw_mosaic(index, size, options.input_hw, options.mosaic_centre, rng)
        if options.affine:
            jitter = draw_jitter(options.affine, rng)
        if rng.random() < options.mixup:
            mixup = draw_mixup(size, options.input_hw, options.mixup_scale, rng)
        gains = draw_gains(options.hsv, rng)
        mirrored = rng.random() < options.flip

        sample = self._single(index, jitter) if mosaic is None else self._mosaic(mosaic, jitter)
        if mixup is not None:
            # Without a flip probability nothing is mirrored, partners of mixup included.
            mixup = replace(mixup, mirrored=mixup.mirrored and options.flip > 0)
            sample = mixup.blend(sample, self._read(mixup.index), flip_indices)
        sample = replace(sample, image=shift_hsv(sample.image, gains))
        if mirrored:
            sample = mirror(sample, flip_indices)
        people = settle(sample.people, min_box=options.min_box, min_keypoints=options.min_keypoints)
        return replace(sample, people=people)

    def _read(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample if self.options.ignore else replace(sample, ignore=None)

    def _mosaic(self, plan: MosaicPlan, jitter: Jitter | None) -> Sample:
        matrix = np.eye(3)
        if jitter is None or not jitter.of_input:
            matrix = _fit(plan.canvas_hw, self.options.input_hw)
        if jitter is not None:
            matrix = jitter.matrix(self.options.input_hw, self.options.input_hw) @ matrix
        return self._moved(plan.compose(self._read, matrix), matrix)

    def _single(self, index: int, jitter: Jitter | None) -> Sample:
        sample, hw = self._read(index), self.options.input_hw
        if jitter is None:
            image, transform = letterbox(sample.image, hw)
            return self._moved(sample, letterbox_matrix(transform), image)
        matrix = _fit(sample.image.shape[:2], hw)
        fitted = sample.image.shape[0] * matrix[1, 1], sample.image.shape[1] * matrix[0, 0]
        return self._moved(sample, jitter.matrix(fitted, hw) @ matrix)

    def _moved(self, sample: Sample, matrix: NDArray[np.float64], image: NDArray[np.uint8] | None = None) -> Sample:
        hw = self.options.input_hw
        return replace(
            sample,
            image=warp_image(sample.image, matrix, hw) if image is None else image,
            people=clip_people(move_people(sample.people, matrix), hw),
            ignore=warp_ignore(sample.ignore, matrix, hw),
        )


def _fit(original_hw: tuple[int, int], input_hw: tuple[int, int]) -> NDArray[np.float64]:
    """The matrix that letterboxes an image, centred."""
    (rows, columns), (height, width) = original_hw, input_hw
    scale = min(width / columns, height / rows)
    offset = ((width - scale * columns) / 2, (height - scale * rows) / 2)
    return letterbox_matrix(LetterboxTransform(scale, offset, original_hw, input_hw))
