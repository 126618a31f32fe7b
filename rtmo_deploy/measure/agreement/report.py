"""What a comparison found, and whether that is within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.measure.agreement.bounds import AgreementBounds
    from rtmo_deploy.measure.agreement.layers import LayerReport
    from rtmo_deploy.measure.agreement.people import PeopleAgreement, PictureAgreement
    from rtmo_deploy.measure.agreement.sides import ModelSummary
    from rtmo_deploy.measure.agreement.tensors import TensorError
    from rtmo_deploy.poses import Poses

#: Pictures that a finding names.
NAMED: Final = 3


@dataclass(frozen=True)
class Check:
    """One bound of the rule and what was measured.

    Attributes:
        name: What is judged.
        bound: The bound, in words.
        measured: What was measured, in words.
        passed: Whether it is within the bound.
        failure: The sentence that says that it is not, whether or not it is.
    """

    name: str
    bound: str
    measured: str
    passed: bool
    failure: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"name": self.name, "bound": self.bound, "measured": self.measured, "passed": self.passed}


@dataclass(frozen=True, eq=False)
class AgreementReport:
    """Two models on the same tensors.

    Attributes:
        a, b: The models.
        input_hw: Height and width of the network input, pixels.
        source: Where the pictures are from.
        people: Figures over all pictures.
        pictures: One entry a picture, in their order.
        tensors: Head tensors that both put out, by name.
        bounds: The worst that passes.
        layers: Where they part; None if nobody asked.
        notes: What a reader should know: settings that differ, what was done about it.
        causes: What would explain a failure, in words.
        odd: Names of pictures on which an output was not finite, of each side.
        found: The people of both sides, one pair a picture, in network-input pixels; not in :meth:`to_dict`.
    """

    a: ModelSummary
    b: ModelSummary
    input_hw: tuple[int, int]
    source: str
    people: PeopleAgreement
    pictures: tuple[PictureAgreement, ...]
    tensors: Mapping[str, TensorError]
    bounds: AgreementBounds
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
        """Indices of the pictures, worst first."""
        order = sorted(range(len(self.pictures)), key=lambda index: self.pictures[index].badness(), reverse=True)
        return order[:count]

    def failures(self, bounds: AgreementBounds | None = None) -> list[str]:
        """What is over the bounds, in words; empty when nothing is.

        Args:
            bounds: Other bounds than the report's own.
        """
        return [check.failure for check in self.checks(bounds) if not check.passed]

    def checks(self, bounds: AgreementBounds | None = None) -> list[Check]:
        """The whole rule: each bound with what was measured. All must pass.

        Args:
            bounds: Other bounds than the report's own.
        """
        limits = bounds or self.bounds
        found = self._finite() if any(self.odd) else []
        if not self.nobody:
            found.append(self._unmatched(limits))
        return [*found, *self._distances(limits), *self._raw(limits)]

    def _finite(self) -> list[Check]:
        return [
            Check(
                f"outputs of the {side} model",
                "finite",
                f"not finite on {_named(list(names))}",
                False,
                f"outputs of the {side} model are not finite on {_named(list(names))}",
            )
            for side, names in zip(("first", "second"), self.odd, strict=True)
            if names
        ]

    def _unmatched(self, bounds: AgreementBounds) -> Check:
        p = self.people
        strays = [s for picture in self.pictures for s in picture.strays if not s.margin <= bounds.margin]
        allowed = math.floor(bounds.unmatched * p.people_a)
        missed = sum(stray.only_in == "a" for stray in strays)
        told = f"{missed} people missed and {len(strays) - missed} extra"
        where = _named(list(dict.fromkeys(stray.picture for stray in strays)))
        excused = p.missed + p.extra - len(strays)
        near = f" ({excused} more within {bounds.margin:g} of the score threshold)" if excused else ""
        return Check(
            f"people{self.above}",
            f"at most {allowed} in one model only ({100 * bounds.unmatched:g} % of {p.people_a})",
            f"{p.matched} matched, {missed} missed, {len(strays) - missed} extra{near}",
            len(strays) <= allowed,
            f"{told} on {where}, bound {allowed}",
        )

    def _distances(self, bounds: AgreementBounds) -> list[Check]:
        p, found = self.people, []
        if p.oks_mean is not None and bounds.oks_mean is not None:
            failure = f"mean OKS {p.oks_mean:.4f}, bound {bounds.oks_mean:g}"
            met = p.oks_mean >= bounds.oks_mean
            found.append(Check("mean OKS", f"at least {bounds.oks_mean:g}", f"{p.oks_mean:.4f}", met, failure))
        measured = (
            ("99 of 100 keypoints", "are within", p.keypoint_px_p99, bounds.keypoint_p99_px, " px"),
            ("the worst keypoint", "is off by", p.keypoint_px_max, bounds.keypoint_max_px, " px"),
            ("the worst box", "is off by", p.box_px_max, bounds.box_px, " px"),
            ("the worst score", "is off by", p.score_max, bounds.score, ""),
        )
        for what, verb, value, bound, unit in measured:
            if value is not None and bound is not None:
                failure = f"{what} {verb} {value:.3g}{unit}, bound {bound:g}{unit}"
                found.append(Check(what, f"at most {bound:g}{unit}", f"{value:.3g}{unit}", value <= bound, failure))
        return found

    def _raw(self, bounds: AgreementBounds) -> list[Check]:
        found = []
        for name, error in self.tensors.items():
            if bounds.tensor is None:
                break
            bound = bounds.tensor * max(error.magnitude, 1.0)
            failure = f"output {name} is off by {error.max_abs:.3g}, bound {bound:.3g}"
            value = f"{error.max_abs:.3g}"
            found.append(Check(f"output {name}", f"at most {bound:.3g}", value, error.max_abs <= bound, failure))
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        failures = self.failures()
        return {
            "verdict": self.verdict,
            "ok": self.verdict == "agree",
            "failures": failures,
            "checks": [check.to_dict() for check in self.checks()],
            "causes": list(self.causes),
            "notes": list(self.notes),
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "input": [3, *self.input_hw],
            "source": self.source,
            "bounds": self.bounds.to_dict(),
            "people": self.people.to_dict(),
            "pictures": [self.pictures[index].to_dict() for index in self.worst()],
            "not_finite": {"a": list(self.odd[0]), "b": list(self.odd[1])},
            "tensors": {name: error.to_dict() for name, error in self.tensors.items()},
            "layers": None if self.layers is None else self.layers.to_dict(),
        }


def _named(pictures: list[str]) -> str:
    more = f" and {len(pictures) - NAMED} more" if len(pictures) > NAMED else ""
    return ", ".join(pictures[:NAMED]) + more
