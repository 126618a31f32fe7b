"""What a comparison found, and whether that is within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bounds import Check, failures
from rtmo_deploy.plain import plain, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.measure.agreement.layers import LayerReport
    from rtmo_deploy.measure.bounds import Bounds
    from rtmo_deploy.measure.comparison import Figures, ImageComparison
    from rtmo_deploy.measure.tensors import TensorError
    from rtmo_deploy.poses import Poses


@dataclass(frozen=True)
class ModelSummary:
    """What a report says of a model.

    Attributes:
        path: The file.
        kind: What kind of file it is.
        precision: ``fp32``, ``fp16`` and so on.
        decode: Its decode mode, or ``pytorch``.
        placement: Where its clients put the image in the canvas.
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


@dataclass(frozen=True, eq=False)
class AgreementReport:
    """Two models on the same tensors.

    Attributes:
        a, b: The models.
        input_hw: Height and width of the network input, pixels.
        source: Where the images are from.
        people: Figures over all images.
        pictures: One entry an image, in their order.
        tensors: Head tensors that both put out, by name.
        bounds: The worst that passes.
        layers: Where they part; None if nobody asked.
        notes: What a reader should know: settings that differ, what was done about it.
        causes: What would explain a failure, in words.
        odd: Names of images on which an output was not finite, of each side.
        found: The people of both sides, one pair an image, in network-input pixels; not in :meth:`to_dict`.
    """

    a: ModelSummary
    b: ModelSummary
    input_hw: tuple[int, int]
    source: str
    people: Figures
    pictures: tuple[ImageComparison, ...]
    tensors: Mapping[str, TensorError]
    bounds: Bounds
    layers: LayerReport | None = None
    notes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    odd: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    found: tuple[tuple[Poses, Poses], ...] = field(default=(), repr=False)

    @property
    def names(self) -> tuple[str, str]:
        """What the two models are called: their files' names, told apart where they are the same."""
        one, two = Path(self.a.path), Path(self.b.path)
        if one.name != two.name:
            return one.name, two.name
        if one.parent.name != two.parent.name:
            return f"{one.parent.name}/{one.name}", f"{two.parent.name}/{two.name}"
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
        where = f"{self.above} on {len(self.pictures)} images"
        if self.nobody:
            return f"Neither model found anybody{where}: no people were compared."
        return (
            f"No people were compared: {self.people.missed} missed, {self.people.extra} extra{where}, nobody in both."
        )

    def worst(self, count: int | None = None) -> list[int]:
        """Indices of the images, worst first."""
        order = sorted(range(len(self.pictures)), key=lambda index: self.pictures[index].badness(), reverse=True)
        return order[:count]

    def failures(self, bounds: Bounds | None = None) -> list[str]:
        """What is over the bounds, in words; empty when nothing is.

        Args:
            bounds: Other bounds than the report's own.
        """
        return failures(self.checks(bounds))

    def checks(self, bounds: Bounds | None = None) -> list[Check]:
        """The whole rule: each bound with what was measured. All must pass.

        Args:
            bounds: Other bounds than the report's own.
        """
        limits = bounds or self.bounds
        found = []
        for side, names in zip(("first", "second"), self.odd, strict=True):
            if names:
                what, measured = f"outputs of the {side} model", f"not finite on {shorten(names)}"
                found.append(Check(what, "finite", measured, False, f"{what} are {measured}"))
        if not self.nobody:
            found.append(self._unmatched(limits))
        return [*found, *limits.distances(self.people), *limits.tensors(self.tensors)]

    def _unmatched(self, bounds: Bounds) -> Check:
        p = self.people
        counted = [one for image in self.pictures for one in image.unmatched if not one.margin <= bounds.margin]
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
            "pictures": [self.pictures[index].to_dict() for index in self.worst()],
            "not_finite": {"a": list(self.odd[0]), "b": list(self.odd[1])},
            "tensors": {name: error.to_dict() for name, error in self.tensors.items()},
            "layers": None if self.layers is None else self.layers.to_dict(),
        }
