"""What a comparison found, and whether that is within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bounds import Check, failures
from rtmo_deploy.plain import plain, shorten
from rtmo_deploy.report.html import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.measure.agreement.layers import LayerReport
    from rtmo_deploy.measure.bounds import Bounds
    from rtmo_deploy.measure.comparison import Figures, ImageComparison
    from rtmo_deploy.measure.tensors import TensorError
    from rtmo_deploy.poses import Poses


@dataclass(frozen=True)
class ModelSummary:
    """What a report says of a model; ``decode`` is its decode mode, or ``pytorch``."""

    path: str
    kind: str
    precision: str
    decode: str
    placement: str
    producer: str
    backend: str
    device: str
    sha256: str


@dataclass(frozen=True, eq=False)
class AgreementReport:
    """Two models on the same tensors.

    Attributes:
        a, b: The models.
        input_hw: Height and width of the network input, pixels.
        source: Where the images are from.
        people: Figures over all images.
        images: One entry an image, in their order.
        tensors: Head tensors that both put out, by name.
        bounds: The worst that passes.
        layers: The layers side by side; None if they were not compared.
        notes: What a reader should know: settings that differ, what was done about it.
        causes: What would explain a failure, in words.
        non_finite: Names of images on which an output was not finite, of each side.
        found: The detections of both sides, one pair an image, in network-input pixels; not in :meth:`to_dict`.
    """

    a: ModelSummary
    b: ModelSummary
    input_hw: tuple[int, int]
    source: str
    people: Figures
    images: tuple[ImageComparison, ...] = field(repr=False)
    tensors: Mapping[str, TensorError]
    bounds: Bounds
    layers: LayerReport | None = None
    notes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    non_finite: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    found: tuple[tuple[Poses, Poses], ...] = field(default=(), repr=False)

    @property
    def names(self) -> tuple[str, str]:
        """What the two models are called: their files' names, told apart where they are the same."""
        one, two = Path(self.a.path), Path(self.b.path)
        if one.name != two.name:
            return one.name, two.name
        if one.parent.name != two.parent.name:
            return f"{one.parent.name}/{one.name}".lstrip("/"), f"{two.parent.name}/{two.name}".lstrip("/")
        return f"{one.name} (first)", f"{two.name} (second)"

    @property
    def above(self) -> str:
        """Which people count: `` with a score above 0.5``, or nothing where the models' own threshold decides."""
        return f" with a score above {self.bounds.score_thr:g}" if self.bounds.score_thr else ""

    @property
    def nobody(self) -> bool:
        """Whether neither model found anybody, so that no people were compared."""
        return not self.people.people_a and not self.people.people_b

    @property
    def verdict(self) -> str:
        """``agree``, ``differ``, or ``nobody found``: no people were compared, which never passes."""
        if self.failures():
            return "differ"
        return "agree" if self.people.matched else "nobody found"

    @property
    def told(self) -> str:
        """The verdict in a sentence."""
        if self.verdict == "differ":
            return "They differ: a bound is not met."
        if self.verdict == "agree":
            return "They agree: every bound is met."
        where = f"{self.above} on {len(self.images)} images"
        if self.nobody:
            return f"Neither model found anybody{where}: no people were compared."
        return (
            f"No people were compared: {self.people.missed} missed, {self.people.extra} extra{where}, nobody in both."
        )

    def figures(self) -> dict[str, str]:
        """What was measured, in words: the rows of a table."""
        p, (one, two) = self.people, self.names
        rows = {
            "people": f"{p.people_a} in {one}, {p.people_b} in {two}{self.above}: "
            f"{p.matched} in both, {p.missed} missed, {p.extra} extra"
        }
        if p.matched:
            rows |= {
                "OKS": f"mean {number(p.oks_mean)}, least {number(p.oks_min)}",
                "keypoints, px": f"mean {number(p.keypoint_px_mean)}, median {number(p.keypoint_px_p50)}, "
                f"99 % {number(p.keypoint_px_p99)}, worst {number(p.keypoint_px_max)}",
                "boxes, px": f"mean {number(p.box_px_mean)}, worst {number(p.box_px_max)}",
                "scores": f"second over first {number(p.score_ratio)} (median), worst difference "
                f"{number(p.score_max)}, of a keypoint {number(p.keypoint_score_max)}",
            }
        for name, error in self.tensors.items():
            off = f"worst difference {number(error.max_abs)} of {number(error.magnitude)}"
            rows[name] = f"{off}, {number(error.snr_db)} dB"
        return rows

    def worst(self, count: int | None = None) -> list[int]:
        """Indices of the images, worst first."""
        order = sorted(range(len(self.images)), key=lambda index: self.images[index].badness(), reverse=True)
        return order[:count]

    def failures(self) -> list[str]:
        """What is over the bounds, in words; empty when nothing is."""
        return failures(self.checks())

    def checks(self) -> list[Check]:
        """The whole rule: each bound with what was measured. All must pass."""
        found = []
        for side, names in zip(("first", "second"), self.non_finite, strict=True):
            if names:
                what, measured = f"outputs of the {side} model", f"not finite on {shorten(names)}"
                found.append(Check(what, "finite", measured, False, f"{what} are {measured}"))
        if not self.nobody:
            found.append(self._unmatched())
        return [*found, *self.bounds.distances(self.people), *self.bounds.tensors(self.tensors)]

    def _unmatched(self) -> Check:
        p, bounds = self.people, self.bounds
        counted = [one for image in self.images for one in image.unmatched if not one.margin <= bounds.margin]
        allowed = bounds.may_be_unmatched(p)
        missed = sum(one.only_in == "a" for one in counted)
        extra = len(counted) - missed
        where = shorten(dict.fromkeys(one.image for one in counted))
        excused = p.unmatched - len(counted)
        near = f" ({excused} more within {bounds.margin:g} of the score threshold)" if excused else ""
        return Check(
            f"people{self.above}",
            f"at most {allowed} in one model only ({100 * bounds.unmatched:g} % of {p.people_a})",
            f"{p.matched} matched, {missed} missed, {extra} extra{near}",
            len(counted) <= allowed,
            f"{missed} people missed and {extra} extra on {where}, bound {allowed}",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "verdict": self.verdict,
            "ok": self.verdict == "agree",
            "failures": self.failures(),
            "checks": plain(self.checks()),
            "causes": list(self.causes),
            "notes": list(self.notes),
            "a": plain(self.a),
            "b": plain(self.b),
            "input": [3, *self.input_hw],
            "source": self.source,
            "bounds": self.bounds.to_dict(),
            "people": self.people.to_dict(),
            "pictures": [self.images[index].to_dict() for index in self.worst()],
            "not_finite": {"a": list(self.non_finite[0]), "b": list(self.non_finite[1])},
            "tensors": {name: error.to_dict() for name, error in self.tensors.items()},
            "layers": None if self.layers is None else self.layers.to_dict(),
        }
