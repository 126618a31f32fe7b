"""One of the two models that are compared: opened, fed with tensors, its people and raw outputs taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.backends import open_backend
from rtmo_deploy.runtime.estimator import _companion as open_companion
from rtmo_deploy.runtime.estimator import outputs_to_poses, read_artifact
from rtmo_deploy.zoo.locate import locate_model

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.backends import Backend
    from rtmo_deploy.runtime.decode import Coordinates


@dataclass(frozen=True)
class ModelSummary:
    """What a report says of a model.

    Attributes:
        path: The file.
        kind: What kind of file it is.
        precision: ``fp32``, ``fp16`` and so on.
        decode: Its decode mode, or ``pytorch``.
        placement: Where its clients put the picture in the canvas.
        producer: Who wrote it.
        backend: What ran it.
        device: Where.
        sha256: Of the file.
    """

    path: str
    kind: str
    precision: str
    decode: str
    placement: str
    producer: str
    backend: str
    device: str
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class Run:
    """What a model made of some pictures.

    Attributes:
        people: One entry a picture, in network-input pixels.
        raw: Head tensors by name, ``(B, ...)``; empty where the graph decodes inside.
        odd: For each picture whether an output was not finite.
    """

    people: list[Poses]
    raw: dict[str, NDArray[np.float32]]
    odd: list[bool]


@dataclass(frozen=True, eq=False)
class Side:
    """A model, opened.

    Attributes:
        artifact: What it is.
        backend: What runs it.
        coordinates: The classifier that a ``raw`` graph leaves to the host.
        sha256: Of the file.
    """

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
        return cls(artifact, opened, open_companion(artifact), sha256_of(artifact.path))

    def summary(self) -> ModelSummary:
        """What a report says of it."""
        return ModelSummary(
            path=str(self.artifact.path),
            kind=self.artifact.kind.value,
            precision=self.artifact.precision,
            decode="pytorch" if self.artifact.kind is Kind.CHECKPOINT else self.artifact.decode.mode.value,
            placement=self.artifact.input.placement,
            producer=self.artifact.producer,
            backend=type(self.backend).__name__.removesuffix("Backend").lower(),
            device=self.backend.device,
            sha256=self.sha256,
        )

    def run(self, images: NDArray[np.float32]) -> Run:
        """Run the network, in pieces of its batch size where that is fixed; the last piece is filled up.

        Args:
            images: ``(B, 3, H, W)`` float32, BGR, 0..255, letterboxed.
        """
        size = self.artifact.input.batch or len(images)
        people: list[Poses] = []
        odd: list[bool] = []
        pieces: list[dict[str, NDArray[np.float32]]] = []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            outputs = self.backend(filled)
            with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
                found = outputs_to_poses(outputs, (images.shape[2], images.shape[3]), self.artifact, self.coordinates)
            people += found[: len(piece)]
            finite: list[Any] = [np.isfinite(value).all(axis=tuple(range(1, value.ndim))) for value in outputs.values()]
            odd += [not all(flags) for flags in zip(*finite, strict=True)][: len(piece)]
            if "dets" not in outputs:
                pieces.append({name: value[: len(piece)] for name, value in outputs.items()})
        names = pieces[0] if pieces else ()
        return Run(people, {name: np.concatenate([piece[name] for piece in pieces]) for name in names}, odd)


def choose_size(one: Artifact, two: Artifact, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that both take: what is asked for, else a fixed one, else the first one's own.

    Raises:
        UsageError: One of them does not take it.
    """
    fixed = [(art.input.height, art.input.width) for art in (one, two) if not art.input.dynamic_hw]
    size = wanted or (fixed[0] if fixed else (one.input.height, one.input.width))
    for artifact in (one, two):
        contract = artifact.input
        own = (contract.height, contract.width)
        if not contract.dynamic_hw and own != size:
            raise UsageError(
                f"{artifact.path.name} takes pictures of {own[0]}x{own[1]} only (height x width), not "
                f"{size[0]}x{size[1]}, and both models must see the same pixels.",
                remedy="Choose a size that both take with --imgsz, or export one of them without --static.",
            )
        if any(side < 1 or side % contract.multiple for side in size):
            raise UsageError(
                f"Pictures cannot be letterboxed to {size[0]}x{size[1]} (height x width).",
                remedy=f"Both must be positive multiples of {contract.multiple}.",
            )
    return size


def require_same_keypoints(one: Artifact, two: Artifact) -> None:
    """Refuse models of other keypoints.

    Raises:
        UsageError: Their numbers of keypoints differ.
    """
    first, second = one.skeleton, two.skeleton
    if len(first) != len(second):
        raise UsageError(
            f"{one.path.name} has {len(first)} keypoints ({first.name}) and {two.path.name} has {len(second)} "
            f"({second.name}).",
            remedy="Compare models of the same keypoints.",
        )


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
