"""Verifies a new engine on the GPU that it was built on, before it is put where it was asked for.

It must find the people that its reference finds, and the same ones in every row of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import ParityError
from rtmo_deploy.measure.agreement import ImageSource, compare_models
from rtmo_deploy.measure.agreement.compare import Side
from rtmo_deploy.measure.comparison import compare_people
from rtmo_deploy.plain import plain
from rtmo_deploy.runtime.engine_file import read_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.agreement import AgreementReport
    from rtmo_deploy.measure.comparison import Figures

#: Synthetic images that the engine is compared on.
IMAGES: Final = 8
#: Rows of one batch hold the same image; whatever the kernels, they may differ by float noise only.
SAME_PX: Final = 0.01
SAME_SCORE: Final = 1e-5


@dataclass(frozen=True)
class EngineProof:
    """What an engine did on its GPU."""

    reference: Path  #: The model that it was compared with.
    agreement: AgreementReport  #: How far its detections are from that model's.
    counts: tuple[int, ...]  #: Detections in each row of a batch that held the same image in every row.
    equality: Figures  #: How far the other rows are from the first, pixels of the network input.

    @property
    def row_px(self) -> float:
        """Worst keypoint or box coordinate between two rows."""
        return max(self.equality.keypoint_px_max or 0.0, self.equality.box_px_max or 0.0)

    @property
    def row_score(self) -> float:
        """Worst score between two rows."""
        return max(self.equality.score_max or 0.0, self.equality.keypoint_score_max or 0.0)

    def failures(self) -> list[str]:
        """What is wrong with the engine, in words; empty when nothing is."""
        found = [f"against {self.reference.name}, {text}" for text in self.agreement.failures()]
        same = "the same image in every row gives"
        if len(set(self.counts)) > 1:
            found.append(f"{same} {', '.join(map(str, self.counts))} people")
        elif self.equality.unmatched or not self.equality.in_order:
            found.append(f"{same} other people, or in another order")
        elif self.row_px > SAME_PX or self.row_score > SAME_SCORE:
            found.append(f"{same} people up to {self.row_px:.3g} px and {self.row_score:.3g} in score apart")
        return found

    def sentence(self) -> str:
        """What was compared, for a person to read."""
        people = self.agreement.people
        if not people.matched:
            found = f"nobody found by both on {people.images} synthetic images, so no people were compared"
        else:
            found = f"{people.matched} people on {people.images} images, keypoints within "
            found += f"{people.keypoint_px_max:.3g} px, scores within {people.score_max:.2g}"
        return f"{self.reference.name}: {found}; {len(self.counts)} equal rows"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference.name,
            "reference_kind": self.agreement.a.kind,
            "people": self.agreement.people.to_dict(),
            "rows": len(self.counts),
            "row_px": plain(self.row_px),
            "row_score": plain(self.row_score),
        }


def prove_engine(
    engine: Path,
    reference: Path,
    *,
    device: str = "cuda:0",
    images: ImageSource | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> EngineProof:
    """Run a new engine and its reference on the same tensors, and the engine with the same image in every row."""
    progress("comparing with the reference")
    one, two = Side.open(str(reference)), Side.open(str(engine), device=device)
    images = images or ImageSource.synthetic(IMAGES)
    most = two.artifact.input.batch or min(4, len(images.names))
    report = compare_models(one, two, images, batch=most, progress=progress)
    progress("comparing rows of a batch")
    rows = two.artifact.input.batch or _most_rows(two.artifact, engine)
    fullest = int(np.argmax([len(people) for _, people in report.found]))
    same = images.tensors([fullest] * rows, report.input_hw, two.artifact.input.placement)
    found = two.run(same).people or []
    equality = compare_people(found[:1] * (rows - 1), found[1:])
    proof = EngineProof(reference, report, tuple(len(people) for people in found), equality)
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
