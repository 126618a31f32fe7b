"""Two models, the same tensors, one report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.measure.agreement.bounds import BOUNDS, LOOSEST, AgreementBounds, bounds_for
from rtmo_deploy.measure.agreement.causes import find_causes
from rtmo_deploy.measure.agreement.matching import sigmas_of
from rtmo_deploy.measure.agreement.people import PictureAgreement, compare_picture, summarise
from rtmo_deploy.measure.agreement.pictures import Pictures
from rtmo_deploy.measure.agreement.report import AgreementReport
from rtmo_deploy.measure.agreement.sides import Side, choose_size, common_decode, limited, require_same_keypoints
from rtmo_deploy.measure.agreement.tensors import TensorError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.measure.agreement.layers import LayerReport
    from rtmo_deploy.poses import Poses

#: Pictures on which explanations of a failure are tried.
TRIED: Final = 4


def compare_models(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    pictures: Pictures | None = None,
    *,
    input_hw: tuple[int, int] | None = None,
    batch: int = 4,
    device: str = "cpu",
    backend_a: str | None = None,
    backend_b: str | None = None,
    threads: int | None = None,
    layers: bool | Literal["if unexplained"] = False,
    bounds: AgreementBounds | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> AgreementReport:
    """Run two models on the same tensors and compare the people that they find.

    Each picture is letterboxed once, the way the first model wants it, and the very same tensor goes into both.

    Args:
        a: The reference: a checkpoint, an exported model, or a published model's name.
        b: The other.
        pictures: What to run on; drawn people if not given.
        input_hw: Height and width of the network input, pixels; one that both take if not given.
        batch: Pictures at a time; a model with a fixed batch takes that many.
        device: ``cpu``, ``cuda`` or ``cuda:N``, for both.
        backend_a: Runtime of the first, if there is a choice.
        backend_b: Runtime of the second.
        threads: Threads a CPU runtime may use.
        layers: Also find the first layer where they part, on the worst picture; or only where they differ and no usual
            mistake explains it, as far as one can look into the two.
        bounds: The worst that passes; by the precisions of the two if not given.
        progress: Told what is being done.

    Raises:
        UsageError: The two cannot be compared: input sizes, keypoints.
        InputDataError: A picture cannot be read.
        ModelError: One of them cannot be used.
        SetupError: A package or the device is missing.
    """
    if batch < 1:
        raise UsageError(f"A batch of {batch} pictures is not possible.", remedy="Give a positive number.")
    progress("opening the first model")
    one = Side.open(a, device=device, backend=backend_a, threads=threads)
    progress("opening the second model")
    two = Side.open(b, device=device, backend=backend_b, threads=threads)
    return compare_sides(
        one, two, pictures, input_hw=input_hw, batch=batch, layers=layers, bounds=bounds, progress=progress
    )


def compare_sides(
    one: Side,
    two: Side,
    pictures: Pictures | None = None,
    *,
    input_hw: tuple[int, int] | None = None,
    batch: int = 4,
    layers: bool | Literal["if unexplained"] = False,
    bounds: AgreementBounds | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> AgreementReport:
    """The same for two models that are open already; see :func:`compare_models`."""
    require_same_keypoints(one.artifact, two.artifact)
    size = choose_size(one.artifact, two.artifact, input_hw)
    decode, notes = common_decode(one.artifact, two.artifact)
    pictures = pictures or Pictures.drawn_people()
    limits = bounds or bounds_for(one.artifact.precision, two.artifact.precision)
    comparison = _Comparison(one, two, pictures, size, decode, limits.score_thr)
    for start in range(0, len(pictures), batch):
        stop = min(start + batch, len(pictures))
        progress(Count("comparing detections", stop, len(pictures)))
        comparison.add(range(start, stop))
    report = AgreementReport(
        a=one.summary(),
        b=two.summary(),
        input_hw=size,
        source=pictures.source,
        people=summarise(comparison.pictures),
        pictures=tuple(comparison.pictures),
        tensors=comparison.tensors,
        bounds=limits,
        odd=(tuple(comparison.odd[0]), tuple(comparison.odd[1])),
        found=tuple(comparison.found),
    )
    notes += _notes(report, one.artifact, two.artifact, pictures)
    causes: list[str] = []
    if report.failures() and not any(report.odd):
        progress("looking for a cause")
        causes = comparison.causes(report.worst(TRIED))
    found = None
    if layers is True:
        found = _layers(comparison, report, progress)
    elif layers and report.failures() and not causes:
        try:
            found = _layers(comparison, report, progress)
        except RtmoDeployError as error:
            notes.append(f"Their layers were not compared: {error.finding}")
        else:
            (causes if found.first else notes).append(found.told())
    return replace(report, notes=tuple(notes), causes=tuple(causes), layers=found)


class _Comparison:
    """Pictures compared so far."""

    def __init__(
        self,
        one: Side,
        two: Side,
        pictures: Pictures,
        size: tuple[int, int],
        decode: DecodeContract,
        counted: float,
    ) -> None:
        self.counted = counted
        self.one, self.two, self.source, self.size, self.decode = one, two, pictures, size, decode
        self.sigmas = sigmas_of(one.artifact.skeleton)
        self.pictures: list[PictureAgreement] = []
        self.found: list[tuple[Poses, Poses]] = []
        self.tensors: dict[str, TensorError] = {}
        self.odd: tuple[list[str], list[str]] = ([], [])

    def inputs(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """``(n, 3, H, W)`` network inputs of some pictures."""
        return self.source.tensors(indices, self.size, self.one.artifact.input.placement)

    def add(self, indices: Sequence[int]) -> None:
        """Run both on some pictures and compare."""
        images = self.inputs(indices)
        a, b = self.one.run(images), self.two.run(images)
        for name in a.raw.keys() & b.raw.keys():
            if a.raw[name].shape == b.raw[name].shape:
                error = TensorError.between(a.raw[name], b.raw[name])
                self.tensors[name] = self.tensors.get(name, TensorError()) + error
        for place, index in enumerate(indices):
            name = self.source.names[index]
            pair = (limited(a.people[place], self.decode), limited(b.people[place], self.decode))
            self.found.append(pair)
            self.pictures.append(compare_picture(name, *pair, self.sigmas, self.decode.score_thr, self.counted))
            for names, run in zip(self.odd, (a, b), strict=True):
                if run.odd[place]:
                    names.append(name)

    def causes(self, worst: Sequence[int]) -> list[str]:
        """What would explain that they disagree."""
        reference, other = zip(*self.found, strict=True)

        def rerun(images: NDArray[np.float32]) -> list[Poses]:
            return [limited(people, self.decode) for people in self.two.run(images).people]

        return find_causes(reference, other, self.sigmas, images=self.inputs(worst), rerun=rerun, on=worst)


def _layers(comparison: _Comparison, report: AgreementReport, progress: Callable[[str], None]) -> LayerReport:
    from rtmo_deploy.measure.agreement.layers import compare_layers

    worst = report.worst(1)[0]
    one, two = comparison.one, comparison.two
    return compare_layers(
        one.artifact,
        two.artifact,
        comparison.inputs([worst]),
        picture=report.pictures[worst].name,
        threshold_db=report.bounds.layer_snr_db,
        devices=(one.backend.device, two.backend.device),
        progress=progress,
    )


def _notes(report: AgreementReport, one: Artifact, two: Artifact, pictures: Pictures) -> list[str]:
    changed = report.bounds.against(bounds_for(one.precision, two.precision))
    notes = [f"Bounds set for this comparison: {'; '.join(changed)}."] if changed else []
    if report.a.sha256 == report.b.sha256:
        notes.append("Both are the same file.")
    if one.input.placement != two.input.placement:
        notes.append(
            f"Clients of the first put pictures {one.input.placement}, those of the second {two.input.placement}; here "
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
            if pictures.drawn
            else "Give images with people in them."
        )
        notes.append(f"{report.told} {remedy}")
    return notes
