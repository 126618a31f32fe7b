"""What a benchmark is asked for: protocols, contenders and the cases that they meet in. Frozen records, no work."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: What MMDeploy's profiler does unless it is asked otherwise: unmeasured calls, measured calls.
V100_WARMUP, V100_ITERATIONS = 10, 100
#: Most people that can be drawn, pictures in a batch, and threads.
LIMITS = {"people": 60, "batch": 4096, "threads": 1024}


class Protocol(StrEnum):
    """What is inside a number.

    * ``e2e``: from the picture's file to the poses in its pixels, stage by stage; drawing them is timed beside it.
    * ``v100``: what MMDeploy's profiler measures: the network with the decoding and suppression that are in the graph;
      batch 1, input ready on the device, device synchronised, 10 calls unmeasured and 100 measured.
    """

    E2E = "e2e"
    V100 = "v100"


class Spinning(StrEnum):
    """What ONNX Runtime's threads do when they have nothing to do.

    * ``stop``: they spin within a call, as by default, and stop at its end (``session.force_spinning_stop``), so that
      they take nothing from whoever is measured next.
    * ``on``: they spin on after a call, which is ONNX Runtime's default.
    * ``off``: they never spin (``session.intra_op.allow_spinning`` = 0).
    """

    STOP = "stop"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class Case:
    """What contenders meet in: only times of one case are compared.

    Attributes:
        batch: Pictures a call.
        threads: Threads of a CPU runtime; None for its own choice.
        people: People drawn into each picture; None where the pictures are somebody's own, or have any number.
    """

    batch: int = 1
    threads: int | None = None
    people: int | None = None

    def __str__(self) -> str:
        parts = [f"batch {self.batch}"]
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.people is not None:
            parts.append("1 person" if self.people == 1 else f"{self.people} people")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Contender:
    """One model in one runtime, as a worker process opens it.

    Attributes:
        label: What it is called in tables; unique in a run.
        model: Its file.
        backend: Runtime; None for the first that runs this kind of file.
        device: ``cpu`` or ``cuda:N``.
        batch: Pictures a call.
        threads: Threads of a CPU runtime; None for its own choice.
        input_hw: Height and width that pictures are letterboxed to; None for the model's own.
        compiled: Have PyTorch compile the network.
        spinning: What ONNX Runtime's idle threads do.
        thresholds: Score threshold and IoU of the suppression for a checkpoint, which has none built in; None for its
            own.
        placement: Placement in the letterbox for a checkpoint; None for its own.
        reference: Whether it is what the others are compared with.
    """

    label: str
    model: str
    backend: str | None = None
    device: str = "cpu"
    batch: int = 1
    threads: int | None = None
    input_hw: tuple[int, int] | None = None
    compiled: bool = False
    spinning: Spinning = Spinning.STOP
    thresholds: tuple[float, float] | None = None
    placement: str | None = None
    reference: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Contender:
        """Read what :meth:`to_dict` wrote."""
        pairs = {key: None if data[key] is None else tuple(data[key]) for key in ("input_hw", "thresholds")}
        return cls(**{**data, **pairs, "spinning": Spinning(data["spinning"])})


@dataclass(frozen=True)
class BenchOptions:
    """A benchmark.

    Attributes:
        models: Files to measure, the first one first.
        backends: Runtimes for each of them; empty for the one that fits.
        device: ``cpu`` or ``cuda:N``.
        batches, threads, people: The sweeps; one entry each where nothing is swept. ``None`` in ``threads`` is the
            runtime's own choice; empty ``people`` means pictures with one to a dozen people, or ``images``.
        input_hw: Height and width that pictures are letterboxed to; None for the first model's own.
        protocol: What is inside a number.
        images: Folder of pictures; None to draw some.
        seconds: Measured seconds for each contender in each case (``e2e``).
        warmup_s: Unmeasured seconds before (``e2e``).
        rounds: Turns that the seconds are split into.
        reference: Checkpoint of the PyTorch reference; None to look for the models' own.
        no_reference: Leave it out; the first model is what the others are compared with.
        compiled: Measure PyTorch's compiled network too.
        spinning: What ONNX Runtime's idle threads do.
        pictures: How many pictures are drawn for each case.
        picture_hw: Their height and width.
        patience_s: How long a worker may stay silent beyond what it was asked to take.
    """

    models: tuple[Path, ...]
    backends: tuple[str, ...] = ()
    device: str = "cpu"
    batches: tuple[int, ...] = ()
    threads: tuple[int | None, ...] = (None,)
    people: tuple[int, ...] = ()
    input_hw: tuple[int, int] | None = None
    protocol: Protocol = Protocol.E2E
    images: Path | None = None
    seconds: float = 5.0
    warmup_s: float = 1.0
    rounds: int = 10
    reference: Path | None = None
    no_reference: bool = False
    compiled: bool = False
    spinning: Spinning = Spinning.STOP
    pictures: int = 8
    picture_hw: tuple[int, int] = (480, 640)
    patience_s: float = field(default=600.0)

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("There is no model to measure.", remedy="Name one or more.")
        for name, value in {"duration": self.seconds, "warm-up": self.warmup_s}.items():
            if not math.isfinite(value) or value < 0 or (name == "duration" and value == 0):
                raise UsageError(f"A {name} of {value:g} s is not possible.", remedy="Give positive seconds.")
        if self.rounds < 1:
            raise UsageError(f"{self.rounds} rounds are not possible.", remedy="Give 2 or more; one has no interval.")
        if self.images is not None and self.people:
            raise UsageError(
                "--people draws its own pictures, so it does not go with --images.", remedy="Leave one of them away."
            )
        if self.protocol is Protocol.V100:
            self._check_v100()
        if self.no_reference and (self.compiled or self.reference is not None):
            raise UsageError(
                "--no-reference leaves PyTorch out, so --reference and --compile do not go with it.",
                remedy="Leave it away.",
            )

    def _check_v100(self) -> None:
        if self.people:
            raise UsageError(
                "--protocol v100 does not sweep people: it stops at the network's output.",
                remedy="Use --protocol e2e.",
            )
        if self.batches not in ((), (1,)):
            raise UsageError("--protocol v100 is at batch 1.", remedy="Leave --batch away, or use --protocol e2e.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of what a result depends on."""
        return {
            "device": self.device,
            "protocol": self.protocol.value,
            "images": None if self.images is None else str(self.images),
            "seconds": self.seconds,
            "warmup_s": self.warmup_s,
            "rounds": self.rounds,
            "spinning": self.spinning.value,
            "pictures": None if self.images is not None else self.pictures,
            "picture_hw": None if self.images is not None else list(self.picture_hw),
        }


def parse_counts(text: str | None, option: str, *, least: int = 1) -> tuple[int, ...]:
    """``1,2,4`` as numbers, without repetition, in the order given.

    Args:
        text: What was written; None gives nothing.
        option: ``batch``, ``people`` or ``threads``.
        least: The smallest that makes sense.

    Raises:
        UsageError: It is not such a list.
    """
    if text is None:
        return ()
    most, counts = LIMITS[option], []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isdecimal() and digits.isascii() and len(digits) < 9 and least <= int(digits) <= most):
            raise UsageError(
                f"'{text}' is no list of numbers from {least} to {most}.",
                remedy="Write them with commas between, as in 1,2,4.",
                where=f"--{option}",
            )
        counts.append(int(digits))
    return tuple(dict.fromkeys(counts))


def parse_share(text: str, option: str) -> float:
    """``5%`` or ``0.05`` as 0.05.

    Raises:
        UsageError: It is neither, or not between 0 and 1000 %.
    """
    digits, percent = (text.strip()[:-1], True) if text.strip().endswith("%") else (text.strip(), False)
    try:
        share = float(digits) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 10:
        raise UsageError(f"'{text}' is no share.", remedy="Write 5% or 0.05.", where=f"--{option}")
    return share


def unique_labels(labels: Sequence[str]) -> list[str]:
    """The same labels, those that occur more than once with a number."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return result
