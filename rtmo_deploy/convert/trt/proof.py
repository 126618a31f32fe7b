"""A new engine on the GPU that it was built on: does it find the people that its reference finds, in every row?

What an engine computes in is audited everywhere; what it computes can be seen only where it runs. Both checks come
before the engine is put where it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import ParityError
from rtmo_deploy.measure.agreement import Pictures, compare_sides
from rtmo_deploy.measure.agreement.sides import Side
from rtmo_deploy.measure.bench.reference import find_checkpoint
from rtmo_deploy.runtime.engine_file import read_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.agreement import AgreementReport
    from rtmo_deploy.poses import Poses

#: Drawn pictures that the engine is compared on.
PICTURES: Final = 8
#: Rows of one batch hold the same picture; whatever the kernels, they may differ by float noise only.
SAME_PX: Final = 0.01
SAME_SCORE: Final = 1e-5


@dataclass(frozen=True)
class EngineProof:
    """What an engine did on its GPU.

    Attributes:
        reference: The model that it was compared with.
        agreement: People found by both.
        rows: Rows of the batch that held the same picture; 1 where the engine takes no more.
        row_px: Worst keypoint or box coordinate between two rows, pixels of the network input.
        row_score: Worst score between two rows.
        row_counts: People found in each row.
    """

    reference: Path
    agreement: AgreementReport
    rows: int
    row_px: float
    row_score: float
    row_counts: tuple[int, ...]

    def failures(self) -> list[str]:
        """What is wrong with the engine, in words; empty when nothing is."""
        found = [f"against {self.reference.name}, {text}" for text in self.agreement.failures()]
        if len(set(self.row_counts)) > 1:
            found.append(f"the same picture in every row gives {', '.join(map(str, self.row_counts))} people")
        elif not self.row_px <= SAME_PX or not self.row_score <= SAME_SCORE:
            found.append(
                f"the same picture in every row gives people up to {self.row_px:.3g} px and {self.row_score:.3g} in "
                "score apart"
            )
        return found

    def sentence(self) -> str:
        """What was compared, for a person to read."""
        people = self.agreement.people
        if not people.matched:
            found = f"nobody found by both on {people.pictures} synthetic images, so no people were compared"
        else:
            found = f"{people.matched} people on {people.pictures} pictures, keypoints within "
            found += f"{people.keypoint_px_max:.3g} px, scores within {people.score_max:.2g}"
        return f"{self.reference.name}: {found}; {self.rows} equal rows"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference.name,
            "reference_kind": self.agreement.a.kind,
            "people": self.agreement.people.to_dict(),
            "rows": self.rows,
            "row_px": self.row_px,
            "row_score": self.row_score,
        }


def find_reference(artifact: Artifact) -> Path:
    """The checkpoint that a model was made from, if it is at hand unchanged; else the model itself."""
    return find_checkpoint(artifact) or artifact.path


def prove_engine(
    engine: Path,
    reference: Path,
    *,
    device: str = "cuda:0",
    pictures: Pictures | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> EngineProof:
    """Run a new engine and its reference on the same tensors, and the engine with the same picture in every row.

    Args:
        engine: The engine; its record lies beside it.
        reference: A checkpoint or an ONNX model, run on the CPU.
        device: Where the engine runs.
        pictures: What to run on; drawn people if not given.
        progress: Told of each step.

    Raises:
        ParityError: They find other people, or the rows differ.
        ModelError: One of them cannot be used.
        SetupError: A package or the device is missing.
    """
    progress("comparing with the reference")
    one, two = Side.open(str(reference)), Side.open(str(engine), device=device)
    pictures = pictures or Pictures.drawn_people(PICTURES)
    most = two.artifact.input.batch or min(4, len(pictures))
    report = compare_sides(one, two, pictures, batch=most, progress=progress)
    progress("comparing rows of a batch")
    rows = two.artifact.input.batch or _most_rows(two.artifact, engine)
    proof = EngineProof(reference, report, rows, *_rows(two, pictures, report, rows))
    wrong = proof.failures()
    if wrong:
        raise ParityError(
            f"The engine was built and does not compute what it should: {'; '.join(wrong)}.",
            remedy="It is not written. Build in another precision to see whether that is the cause; --no-verify writes "
            "it all the same.",
            where=engine,
        )
    return proof


def _most_rows(artifact: Artifact, engine: Path) -> int:
    """The largest batch that the engine takes at its own size."""
    height, width = artifact.input.height, artifact.input.width
    fitting = [profile.max.batch for profile in read_record(engine).profiles if profile.holds(height, width)]
    return max(fitting, default=1)


def _rows(side: Side, pictures: Pictures, report: AgreementReport, rows: int) -> tuple[float, float, tuple[int, ...]]:
    """Worst pixels and score between the first row and another, and people in each row, on the fullest picture."""
    fullest = int(np.argmax([len(people) for _, people in report.found]))
    images = pictures.tensors([fullest] * rows, report.input_hw, side.artifact.input.placement)
    found = side.run(images).people
    counts = tuple(len(people) for people in found)
    if len(set(counts)) > 1:
        return float("inf"), float("inf"), counts
    first = found[0]
    apart = [_apart(first, other) for other in found[1:]] or [(0.0, 0.0)]
    return max(px for px, _ in apart), max(score for _, score in apart), counts


def _apart(one: Poses, other: Poses) -> tuple[float, float]:
    def worst(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return float(np.abs(a.astype(np.float64) - b).max(initial=0.0))

    pixels = max(worst(one.boxes, other.boxes), worst(one.keypoints, other.keypoints))
    return pixels, max(worst(one.scores, other.scores), worst(one.keypoint_scores, other.keypoint_scores))
