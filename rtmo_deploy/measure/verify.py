"""Runs two forms of a model on the same synthetic images and compares what they put out, before one is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.measure.bounds import failures
from rtmo_deploy.measure.comparison import compare_people
from rtmo_deploy.measure.tensors import compare_tensors
from rtmo_deploy.plain import plain
from rtmo_deploy.runtime.decode import outputs_to_poses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bounds import Bounds
    from rtmo_deploy.measure.comparison import Figures
    from rtmo_deploy.measure.tensors import TensorError
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.decode import Coordinates

    Arrays = Mapping[str, NDArray[np.float32]]

#: Names of the figures and bounds in the JSON form.
_PEOPLE: Final = {
    "matched": "matched",
    "missed": "missed",
    "extra": "extra",
    "box_px_max": "box_px",
    "keypoint_px_max": "keypoint_px",
    "score_max": "score",
    "keypoint_score_max": "keypoint_score",
    "in_order": "order",
}
_BOUNDS: Final = {"keypoint_max_px": "keypoint_px", "score": "score", "tensor": "tensor", "unmatched": "unmatched"}


@dataclass(frozen=True)
class Run:
    """What a model made of some images.

    ``people`` has one entry an image, in network-input pixels (None of a graph that puts out head tensors only),
    ``raw`` the head tensors by name, ``(B, ...)``. ``non_finite`` says of each image whether an output was not finite;
    it is empty where nobody looked.
    """

    people: list[Poses] | None
    raw: Arrays = field(default_factory=dict)
    non_finite: Sequence[bool] = ()

    @classmethod
    def of(
        cls, outputs: Arrays, input_hw: tuple[int, int], artifact: Artifact, coordinates: Coordinates | None = None
    ) -> Run:
        """Decode the outputs of a graph; of a ``raw`` one only where its classifier, ``coordinates``, is at hand."""
        raw = "dets" not in outputs
        if raw and coordinates is None:
            return cls(None, outputs)
        with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
            people = outputs_to_poses(outputs, input_hw, artifact, coordinates)
        return cls(people, outputs if raw else {})


@dataclass(frozen=True)
class Case:
    """One input shape.

    Attributes:
        people: How far the detections are apart; None where only head tensors were compared.
        tensors: How far each head tensor is off.
        rounding: What the reference's own rounding costs on this input; None where it was not measured.
        run: How the candidate was run, in words, where it was run in more than one way.
    """

    batch: int
    height: int
    width: int
    people: Figures | None = None
    tensors: Mapping[str, TensorError] = field(default_factory=dict)
    rounding: Figures | None = None
    run: str = ""

    @property
    def shape(self) -> str:
        """``1x3x256x256``."""
        return f"{self.batch}x3x{self.height}x{self.width}"

    @property
    def noise_px(self) -> float | None:
        """The reference's own rounding on its worst keypoint, pixels; None where it was not measured."""
        return None if self.rounding is None else self.rounding.keypoint_px_max

    def failures(self, bounds: Bounds) -> list[str]:
        """What is over the bounds, in words, with the input it happened on; empty when nothing is."""
        found = []
        people = self.people
        if people is not None:
            allowed = bounds.may_be_unmatched(people, self.rounding)
            if people.unmatched > allowed:
                told = f"{people.missed} of {people.people_a} missed and {people.extra} extra"
                found.append(f"detections: {told}, bound {allowed}")
            found += failures(bounds.distances(people, self.rounding))
            if bounds.in_order and not people.in_order:
                found.append("detections are not in the same order")
        found += failures(bounds.tensors(self.tensors))
        where = f"input {self.shape}{self.run and f', {self.run}'}"
        return [f"{failure} ({where})" for failure in found]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "input": [self.batch, 3, self.height, self.width],
            "people": None if self.people is None else self.people.to_dict(_PEOPLE, nobody=0.0),
            "tensors": {
                name: {"error": plain(error.max_abs), "magnitude": plain(error.magnitude)}
                for name, error in self.tensors.items()
            },
            "noise_px": self.noise_px,
        }


@dataclass(frozen=True)
class VerificationReport:
    """What was compared with which reference, and whether it held.

    ``cases`` has one entry an input shape; ``bias_shift`` was added to the logits of each level on both sides.
    """

    reference: str
    cases: tuple[Case, ...]
    bounds: Bounds
    bias_shift: tuple[float, ...]

    def failures(self) -> list[str]:
        """What is over the bounds, in words, with the input it happened on."""
        return [failure for case in self.cases for failure in case.failures(self.bounds)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference,
            "ok": not self.failures(),
            "bounds": {key: getattr(self.bounds, name) for name, key in _BOUNDS.items()},
            "bias_shift": list(self.bias_shift),
            "cases": [case.to_dict() for case in self.cases],
        }


def verify(
    images: Iterable[NDArray[np.float32]],
    reference: Sequence[Run],
    candidate: Callable[[NDArray[np.float32]], Run],
    bounds: Bounds,
    *,
    rounding: Callable[[int], Figures] | None = None,
    leave_out_wild: bool = False,
    run: str = "",
    progress: Callable[[str], None] = lambda _: None,
    name: str = "the reference",
) -> list[Case]:
    """Compare what a model makes of images with what its reference made of them.

    Args:
        images: ``(B, 3, H, W)`` float32 each.
        reference: What the reference made of each.
        candidate: Runs the model.
        bounds: The worst that passes.
        rounding: Measures the reference's own rounding on the images of an index; asked only where the bounds are not
            met without.
        leave_out_wild: See :func:`~rtmo_deploy.measure.comparison.compare_people`, ``input_hw``.
        run: How the model is run, in words.
        progress: Told which input is being compared.
        name: What the reference is called there.
    """
    cases = []
    for index, (pixels, expected) in enumerate(zip(images, reference, strict=True)):
        batch, _, height, width = pixels.shape
        progress(f"comparing with {name} at {batch}x3x{height}x{width}")
        found = candidate(pixels)
        people = None
        if expected.people is not None and found.people is not None:
            people = compare_people(expected.people, found.people, input_hw=(height, width) if leave_out_wild else None)
        own = None
        if rounding is not None and people is not None and failures(bounds.distances(people)):
            progress("measuring the reference's own rounding")
            own = rounding(index)
        cases.append(Case(batch, height, width, people, compare_tensors(expected.raw, found.raw), own, run))
    return cases


def structured_images(batch: int, height: int, width: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Network inputs with structure at every scale, the same for a seed on every machine.

    Gradients, shapes and texture: white noise would leave most of a network's range unused.

    Args:
        batch: Number of images, each different.
        height: Pixels.
        width: Pixels.
        seed: Seed.

    Returns:
        ``(batch, 3, height, width)`` float32, 0..255, whole numbers like a decoded image.
    """
    rng = np.random.default_rng([seed, batch, height, width])
    images = [_structured_image(rng, height, width) for _ in range(batch)]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2), dtype=np.float32)


def _structured_image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = rng.uniform(-1, 1, (3, 2))
    ramp = np.stack([a * x / width + b * y / height for a, b in slope], axis=-1)
    image = (127 + 90 * ramp).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(6, 14))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        size = float(rng.uniform(0.03, 0.3)) * min(height, width)
        axes = (max(int(size), 1), max(int(size * rng.uniform(1, 3)), 1))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.line(image, centre, end, colour[::-1], max(int(size / 6), 1), cv2.LINE_AA)
    grain = rng.normal(0, 8, (height, width, 1))
    return (image + grain).clip(0, 255).astype(np.uint8)
