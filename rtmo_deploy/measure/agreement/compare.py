"""Compares what two models put out for the same tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from rtmo_deploy.data.images import find_images, read_image
from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import RtmoDeployError, UsageError, refuse_path
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.agreement.causes import find_causes
from rtmo_deploy.measure.agreement.layers import compare_layers
from rtmo_deploy.measure.agreement.report import AgreementReport, ModelSummary
from rtmo_deploy.measure.bounds import BOUNDS, LOOSEST, bounds_for
from rtmo_deploy.measure.comparison import compare_image, sigmas_of, summarise
from rtmo_deploy.measure.tensors import TensorError
from rtmo_deploy.measure.verify import Run
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.backends import open_backend
from rtmo_deploy.runtime.decode import coordinates_of
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor
from rtmo_deploy.zoo.locate import locate_model

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.measure.bounds import Bounds
    from rtmo_deploy.measure.comparison import ImageComparison
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.backends import Backend
    from rtmo_deploy.runtime.decode import Coordinates

    Progress = Callable[[str], None]

#: Images on which explanations of a failure are tried.
TRIED: Final = 4
#: Synthetic images, if nothing is asked for, and their seed; apart from those that train, calibrate and judge.
DEFAULT_COUNT: Final = 16
DEFAULT_SEED: Final = 5000


@dataclass(frozen=True)
class ImageSource:
    """Named images, read one at a time and as often as asked for.

    Attributes:
        names: One an image.
        source: Where they are from, in words.
        generated: Whether they are this project's synthetic ones.
        read: The image of an index, ``(h, w, 3)`` uint8 BGR.
    """

    names: tuple[str, ...]
    source: str
    generated: bool
    read: Callable[[int], NDArray[np.uint8]]

    def canvas(self, index: int, input_hw: tuple[int, int], placement: str) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 BGR: an image letterboxed to a network's input of H by W pixels."""
        return letterbox(self.read(index), input_hw, Placement(placement))[0]

    def tensors(self, indices: Iterable[int], input_hw: tuple[int, int], placement: str) -> NDArray[np.float32]:
        """``(n, 3, H, W)`` float32, BGR, 0..255: some images, letterboxed, as networks take them."""
        return to_tensor([self.canvas(index, input_hw, placement) for index in indices])

    @classmethod
    def in_folder(cls, path: str | os.PathLike[str], *, recursive: bool = False) -> ImageSource:
        """The images of a folder, of a glob pattern, or a single one.

        Raises:
            InputDataError: There is none.
        """
        files = find_images([str(path)], recursive=recursive)
        names = [file.name for file in files]
        if len(set(names)) < len(names):
            names = [str(file) for file in files]
        return cls(tuple(names), str(Path(path)), False, lambda index: read_image(files[index]))

    @classmethod
    def synthetic(cls, count: int = DEFAULT_COUNT, *, seed: int = DEFAULT_SEED) -> ImageSource:
        """Synthetic people, one to eight an image; the same for a seed on every machine.

        Raises:
            UsageError: ``count`` is not positive.
        """
        if count < 1:
            raise UsageError(f"Models cannot be compared on {count} images.", remedy="Take one or more.")
        people = SyntheticPeople(count, seed=seed, options=SyntheticOptions(people=(1, 8)))
        return cls(
            tuple(f"synthetic-{index}" for index in range(count)),
            f"synthetic images, generator {GENERATOR_VERSION}, seed {seed}",
            True,
            lambda index: people[index].image,
        )


@dataclass(frozen=True, eq=False)
class Side:
    """A model, opened; ``coordinates`` is the classifier that a ``raw`` graph leaves to the host."""

    artifact: Artifact
    backend: Backend
    coordinates: Coordinates | None
    sha256: str

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str = "cpu",
        backend: str | None = None,
        threads: int | None = None,
    ) -> Side:
        """Open a model; see :meth:`rtmo_deploy.runtime.PoseEstimator.open` for arguments and errors."""
        artifact = read_artifact(locate_model(model))
        opened = open_backend(artifact, device, backend=backend, threads=threads)
        return cls(artifact, opened, coordinates_of(artifact), sha256_of(artifact.path))

    def summary(self) -> ModelSummary:
        """What a report says of it."""
        return ModelSummary(
            path=str(self.artifact.path),
            kind=self.artifact.kind.value,
            precision=self.artifact.precision,
            decode="pytorch" if self.artifact.kind is Kind.CHECKPOINT else self.artifact.decode.mode.value,
            placement=self.artifact.input.placement,
            producer=self.artifact.producer,
            backend=self.backend.name,
            device=self.backend.device,
            sha256=self.sha256,
        )

    def run(self, images: NDArray[np.float32]) -> Run:
        """Run the network on ``(B, 3, H, W)`` float32, BGR, 0..255, letterboxed.

        Where its batch size is fixed, in pieces of that size; the last one is filled up.
        """
        size = self.artifact.input.batch or len(images)
        input_hw = (images.shape[2], images.shape[3])
        people: list[Poses] = []
        non_finite: list[bool] = []
        pieces = []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            outputs = self.backend(filled)
            decoded = Run.of(outputs, input_hw, self.artifact, self.coordinates)
            people += (decoded.people or [])[: len(piece)]
            finite: list[Any] = [np.isfinite(value).all(axis=tuple(range(1, value.ndim))) for value in outputs.values()]
            non_finite += [not all(flags) for flags in zip(*finite, strict=True)][: len(piece)]
            pieces.append({name: value[: len(piece)] for name, value in decoded.raw.items()})
        raw = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return Run(people, raw, non_finite)


def compare_models(
    one: Side,
    two: Side,
    images: ImageSource | None = None,
    *,
    input_hw: tuple[int, int] | None = None,
    batch: int = 4,
    layers: bool | Literal["if unexplained"] = False,
    bounds: Bounds | None = None,
    progress: Progress = lambda _: None,
) -> AgreementReport:
    """Run two models on the same tensors and compare the people that they find.

    Each image is letterboxed once, the way the first model wants it, and the very same tensor goes into both.

    Args:
        one: The reference.
        two: The other.
        images: What to run on; synthetic people if not given.
        input_hw: Height and width of the network input, pixels; one that both take if not given.
        batch: Images at a time; a model with a fixed batch takes that many.
        layers: Also find the first layer where they differ, on the worst image; or only where the models differ and no
            common mistake explains it, as far as one can look into the two.
        bounds: The worst that passes; by the precisions of the two if not given.
        progress: Told what is being done.

    Raises:
        UsageError: The two cannot be compared: input sizes, keypoints.
        InputDataError: An image cannot be read.
        ModelError: One of them cannot be run.
    """
    refuse_path(one, "Side.open(path)")
    refuse_path(two, "Side.open(path)")
    refuse_path(images, "ImageSource.in_folder(path)")
    if batch < 1:
        raise UsageError(f"A batch of {batch} images is not possible.", remedy="Give a positive number.")
    first, second = one.artifact.skeleton, two.artifact.skeleton
    if len(first) != len(second):
        raise UsageError(
            f"{one.artifact.path.name} has {len(first)} keypoints ({first.name}) and {two.artifact.path.name} has "
            f"{len(second)} ({second.name}).",
            remedy="Compare models of the same keypoints.",
        )
    size = choose_size(one.artifact, two.artifact, input_hw)
    decode, notes = common_decode(one.artifact, two.artifact)
    source = images or ImageSource.synthetic()
    limits = bounds or bounds_for(one.artifact.precision, two.artifact.precision)

    def inputs(indices: Sequence[int]) -> NDArray[np.float32]:
        return source.tensors(indices, size, one.artifact.input.placement)

    report = _run_both(one, two, source, inputs, decode, limits, size, batch, progress)
    notes += _notes(report, one.artifact, two.artifact, source)
    causes: list[str] = []
    if report.failures() and not any(report.non_finite):
        progress("looking for a cause")
        on = report.worst(TRIED)

        def rerun(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> list[Poses]:
            changed = np.ascontiguousarray(change(inputs(on)), dtype=np.float32)
            return [limited(people, decode) for people in two.run(changed).people or []]

        a, b = zip(*report.found, strict=True)
        causes = find_causes(a, b, sigmas_of(first), rerun=rerun, on=on)
    if layers is not True and (not layers or causes or not report.failures()):
        return replace(report, notes=tuple(notes), causes=tuple(causes))
    found = None
    try:
        (worst,) = report.worst(1)
        found = compare_layers(
            one.artifact,
            two.artifact,
            inputs([worst]),
            image=report.images[worst].name,
            threshold_db=limits.layer_snr_db,
            devices=(one.backend.device, two.backend.device),
            progress=progress,
        )
    except RtmoDeployError as error:
        if layers is True:
            raise
        notes.append(f"Their layers were not compared: {error.finding}")
    if found is not None and layers is not True:
        (causes if found.first else notes).append(found.told())
    return replace(report, notes=tuple(notes), causes=tuple(causes), layers=found)


def _run_both(
    one: Side,
    two: Side,
    source: ImageSource,
    inputs: Callable[[Sequence[int]], NDArray[np.float32]],
    decode: DecodeContract,
    bounds: Bounds,
    input_hw: tuple[int, int],
    batch: int,
    progress: Progress,
) -> AgreementReport:
    sigmas = sigmas_of(one.artifact.skeleton)
    compared: list[ImageComparison] = []
    found: list[tuple[Poses, Poses]] = []
    tensors: dict[str, TensorError] = {}
    non_finite: tuple[list[str], list[str]] = ([], [])
    for start in range(0, len(source.names), batch):
        names = source.names[start : start + batch]
        progress(Count("comparing detections", start + len(names), len(source.names)))
        images = inputs(range(start, start + len(names)))
        a, b = one.run(images), two.run(images)
        for name in a.raw.keys() & b.raw.keys():
            if a.raw[name].shape == b.raw[name].shape:
                error = TensorError.between(a.raw[name], b.raw[name])
                tensors[name] = tensors.get(name, TensorError()) + error
        for name, *people in zip(names, a.people or [], b.people or [], strict=True):
            first, second = (limited(own, decode) for own in people)
            found.append((first, second))
            compared.append(compare_image(name, first, second, sigmas, decode.score_thr, bounds.score_thr))
        for side, run in zip(non_finite, (a, b), strict=True):
            side += [name for name, wrong in zip(names, run.non_finite, strict=True) if wrong]
    return AgreementReport(
        a=one.summary(),
        b=two.summary(),
        input_hw=input_hw,
        source=source.source,
        people=summarise(compared),
        images=tuple(compared),
        tensors=tensors,
        bounds=bounds,
        non_finite=(tuple(non_finite[0]), tuple(non_finite[1])),
        found=tuple(found),
    )


def _notes(report: AgreementReport, one: Artifact, two: Artifact, source: ImageSource) -> list[str]:
    changed = report.bounds.against(bounds_for(one.precision, two.precision))
    notes = [f"Bounds set for this comparison: {'; '.join(changed)}."] if changed else []
    if report.a.sha256 == report.b.sha256:
        notes.append("Both are the same file.")
    if one.input.placement != two.input.placement:
        notes.append(
            f"Clients of the first put images {one.input.placement}, those of the second {two.input.placement}; here "
            f"both were given {one.input.placement}, but in use they see other pixels."
        )
    if one.skeleton.keypoints != two.skeleton.keypoints:
        notes.append(f"Their keypoints have other names ({one.skeleton.name} and {two.skeleton.name}).")
    unknown = sorted({artifact.precision for artifact in (one, two)} - BOUNDS.keys())
    if unknown and not changed:
        notes.append(f"There are no bounds for {', '.join(unknown)}; those of {LOOSEST} are used.")
    if report.verdict == "nobody found":
        remedy = (
            "An untrained model finds nobody. Give photographs with --images, or look into the networks with --layers."
            if source.generated
            else "Give images with people in them."
        )
        notes.append(f"{report.told} {remedy}")
    return notes


def choose_size(one: Artifact, two: Artifact, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that both take: what is asked for, else a fixed one, else the first one's own."""
    fixed = [(art.input.height, art.input.width) for art in (one, two) if not art.input.dynamic_hw]
    size = wanted or (fixed[0] if fixed else (one.input.height, one.input.width))
    for artifact in (one, two):
        contract = artifact.input
        own = (contract.height, contract.width)
        if not contract.dynamic_hw and own != size:
            raise UsageError(
                f"{artifact.path.name} takes images of {own[0]}x{own[1]} only (height x width), not "
                f"{size[0]}x{size[1]}, and both models must see the same pixels.",
                remedy="Choose a size that both take with --imgsz, or export one of them without --static.",
            )
        if any(side < 1 or side % contract.multiple for side in size):
            raise UsageError(
                f"Images cannot be letterboxed to {size[0]}x{size[1]} (height x width).",
                remedy=f"Both must be positive multiples of {contract.multiple}.",
            )
    return size


def common_decode(one: Artifact, two: Artifact) -> tuple[DecodeContract, list[str]]:
    """The stricter of two decode contracts, which both lists of people are held to, and what differs, in words."""
    a, b = one.decode, two.decode
    notes = []
    if a.score_thr != b.score_thr:
        strict = max(a.score_thr, b.score_thr)
        notes.append(f"Their score thresholds differ ({a.score_thr:g}, {b.score_thr:g}); {strict:g} is used for both.")
    limits = [limit for limit in (a.max_dets, b.max_dets) if limit is not None]
    most = min(limits) if limits else None
    if a.nms_thr != b.nms_thr:
        notes.append(
            f"Their suppression thresholds differ ({a.nms_thr:g} and {b.nms_thr:g}): in crowds one finds more people."
        )
    return replace(a, score_thr=max(a.score_thr, b.score_thr), max_dets=most), notes


def limited(people: Poses, decode: DecodeContract) -> Poses:
    """Those who pass the score threshold, at most as many as the contract says, best first."""
    return people[np.flatnonzero(people.scores > decode.score_thr)[: decode.max_dets]]
