"""How much worse a release may be than the one before. The command line imports this module at its start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.options import parse_share
from rtmo_deploy.option import option, settle

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(StrEnum):
    """What is compared and judged."""

    #: Whether each artifact is still there.
    ARTIFACTS = "artifacts"
    #: Whether each gate that passed still passes.
    GATES = "gates"
    #: AP of each model.
    ACCURACY = "accuracy"
    #: Mean OKS of each pair of models; people that only one of them finds count 0.
    PARITY = "parity"
    #: Median time of each contender in each case.
    LATENCY = "latency"
    #: Bytes of each artifact.
    SIZES = "sizes"


def _share_for(name: str) -> Callable[[str | float], float]:
    """What the command line reads a share with; it gives the default value to it too."""
    return lambda given: parse_share(str(given), where=name)


@dataclass(frozen=True)
class DiffOptions:
    """Bounds of a comparison.

    Attributes:
        max_ap_drop: AP, 0 to 1, that a model may lose.
        max_oks_drop: Mean OKS, 0 to 1, that a pair of models may lose; people of one model only count 0.
        max_slowdown: Share by which a model may be slower, such as 0.05. It counts as slower only if the whole 95 %
            interval of the ratio lies beyond that.
        max_growth: Share by which an artifact may be larger.
        ignore: Kinds, as in :class:`Kind`, that are shown and not judged.
        strict: Whether what could not be compared is a failure.

    Raises:
        UsageError: A bound is no number or out of its range, or a kind does not exist.
    """

    max_ap_drop: float = option(0.005, "How much AP (0 to 1) a model may lose.", metavar="AP", min=0, max=1)
    max_oks_drop: float = option(
        0.03,
        "How much mean OKS (0 to 1) a pair of models may lose in parity; people of one model only count 0.",
        metavar="OKS",
        min=0,
        max=1,
    )
    max_slowdown: float = option(
        0.05,
        "How much slower a model may be; fails only if the whole 95 % interval is beyond it.",
        parser=_share_for("--max-slowdown"),
        metavar="SHARE",
        min=0,
        max=10,
    )
    max_growth: float = option(
        0.1,
        "How much larger an artifact may be.",
        parser=_share_for("--max-growth"),
        metavar="SHARE",
        min=0,
        max=10,
    )
    ignore: tuple[str, ...] = option(
        (),
        "Show and do not judge: artifacts, gates, accuracy, parity, latency or sizes. Can be given several times.",
        several=True,
        metavar="KIND",
    )
    strict: bool = option(False, "What could not be compared is a failure.")

    def __post_init__(self) -> None:
        settle(self)
        for one in self.ignore:
            if one not in {*Kind}:
                raise UsageError(
                    f"'{one}' is nothing that is judged.", remedy=f"Give one of {', '.join(Kind)}.", where="--ignore"
                )
