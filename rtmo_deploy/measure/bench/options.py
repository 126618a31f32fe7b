"""What a benchmark is asked for: protocols, contenders, and the cases that they meet in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path  # noqa: TC003 - settle reads the types
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import option, settle
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What MMDeploy's profiler does unless it is asked otherwise: unmeasured calls, measured calls.
V100_WARMUP, V100_ITERATIONS = 10, 100
#: Most people in a synthetic image, images in a batch, and threads.
LIMITS = {"people": 60, "batch": 4096, "threads": 1024}


class Protocol(StrEnum):
    """What is inside a number.

    * ``e2e``: from the image's file to the poses in its pixels, stage by stage; drawing them is timed beside it.
    * ``v100``: what MMDeploy's profiler measures: the network with the decoding and suppression that are in the graph;
      batch 1, input ready on the device, device synchronised, 10 calls unmeasured and 100 measured.
    """

    E2E = "e2e"
    V100 = "v100"


class Spinning(StrEnum):
    """What ONNX Runtime's threads do when they have nothing to do.

    After a call they spin for a while, waiting for the next one. Whoever runs then, another process included, has
    fewer cores.

    * ``stop``: they spin within a call, as by default, and stop at its end (``session.force_spinning_stop``), so that
      they take nothing from whoever is measured next.
    * ``on``: they spin on after a call, which is ONNX Runtime's default.
    * ``off``: they never spin (``session.intra_op.allow_spinning`` = 0).
    """

    STOP = "stop"
    ON = "on"
    OFF = "off"


def spinning_entries(spinning: Spinning) -> dict[str, str]:
    """Configuration entries of an ONNX Runtime session."""
    return {
        "session.intra_op.allow_spinning": "0" if spinning is Spinning.OFF else "1",
        "session.force_spinning_stop": "1" if spinning is Spinning.STOP else "0",
    }


@dataclass(frozen=True)
class Case:
    """What contenders meet in: only times of one case are compared."""

    #: Images a call.
    batch: int = 1
    #: Of a CPU runtime; None for its own choice.
    threads: int | None = None
    #: In each synthetic image; None where the images are somebody's own, or have any number.
    people: int | None = None

    def __str__(self) -> str:
        parts = [f"batch {self.batch}"]
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.people is not None:
            parts.append("1 person" if self.people == 1 else f"{self.people} people")
        return ", ".join(parts)


@dataclass(frozen=True)
class Contender:
    """One model in one runtime, as a worker process opens it."""

    #: What it is called in tables; unique in a run.
    label: str
    model: str
    #: Runtime; None for the first that runs this kind of file.
    backend: str | None = None
    device: str = "cpu"
    batch: int = 1
    threads: int | None = None
    #: Height and width that images are letterboxed to; None for the model's own.
    input_hw: tuple[int, int] | None = None
    #: Have PyTorch compile the network.
    compiled: bool = False
    spinning: Spinning = Spinning.STOP
    #: Score threshold and IoU of the suppression, and the placement in the letterbox, for a checkpoint, which has none
    #: built in; None for its own.
    thresholds: tuple[float, float] | None = None
    placement: str | None = None
    #: Whether it is what the others are compared with.
    reference: bool = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Contender:
        """Inverse of :func:`rtmo_deploy.plain.plain`."""
        pairs = {key: None if data[key] is None else tuple(data[key]) for key in ("input_hw", "thresholds")}
        return cls(**{**data, **pairs, "spinning": Spinning(data["spinning"])})


def parse_counts(text: str, name: str, *, least: int = 1) -> tuple[int, ...]:
    """``1,2,4`` as numbers, without repetition, in the order given.

    Args:
        text: What was written.
        name: ``batch``, ``people`` or ``threads``.
        least: The smallest that makes sense.

    Raises:
        UsageError: It is not such a list.
    """
    most, counts = LIMITS[name], []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isdecimal() and digits.isascii() and len(digits) < 9 and least <= int(digits) <= most):
            raise UsageError(
                f"'{text}' is no list of numbers from {least} to {most}.",
                remedy="Write them with commas between, as in 1,2,4.",
                where=f"--{name}",
            )
        counts.append(int(digits))
    return tuple(dict.fromkeys(counts))


def parse_share(text: str, where: str = "--max-slowdown") -> float:
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
        raise UsageError(f"'{text}' is no share.", remedy="Write 5% or 0.05.", where=where)
    return share


def _parse_names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else ()


def _counts(default: Any, help_text: str, name: str, *, least: int = 1) -> Any:
    parser = partial(parse_counts, name=name, least=least)
    return option(default, help_text, f"--{name}", metavar="N[,N...]", parser=parser)


@dataclass(frozen=True)
class BenchOptions:
    """A benchmark. Each field with a help text is an option of ``rtmo-deploy bench``; the seconds are of ``e2e``.

    Attributes:
        models: Files to measure, the first one first; at least one when it starts.
        batches, threads, people: The sweeps; one entry each where nothing is swept. ``None`` in ``threads`` is the
            runtime's own choice; empty ``people`` means images with one to a dozen people, or ``images``.
        input_hw: Height and width that images are letterboxed to; None for the first model's own.
        pictures: How many synthetic images there are for each case.
        picture_hw: Their height and width.
        timeout_s: How long a worker may stay silent beyond what it was asked to take.
    """

    models: tuple[Path, ...] = ()
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    backends: tuple[str, ...] = option(
        (),
        "Runtimes. [default: the one that fits each file]",
        "--backend",
        metavar="NAME[,NAME...]",
        parser=_parse_names,
    )
    batches: tuple[int, ...] = _counts((), "Images a call. [default: 1, or what the model has fixed]", "batch")
    input_hw: tuple[int, int] | None = option(None, "Letterbox images to this size. [default: the model's own]")
    people: tuple[int, ...] = _counts(
        (), "Synthetic images with so many people each, 0 to 60. [default: 1 to 12, mixed]", "people", least=0
    )
    threads: tuple[int | None, ...] = _counts((None,), "CPU threads. [default: the runtime's choice]", "threads")
    protocol: Protocol = option(
        Protocol.E2E,
        "e2e: from the file to the poses, stage by stage, and drawing beside it. v100: what MMDeploy's profiler "
        "measures: the network alone, batch 1, 10 calls unmeasured and 100 measured, of PyTorch too: minutes on a "
        "slow or busy CPU; --no-reference is shorter.",
    )
    images: Path | None = option(None, "Images. [default: synthetic ones]", metavar="DIR")
    seconds: float = option(5.0, "Measured seconds for each model in each case.", "--duration", metavar="S")
    warmup_s: float = option(1.0, "Unmeasured seconds before.", "--warmup", metavar="S")
    rounds: int = option(10, "Turns that the seconds are split into; models take turns.", min=1)
    reference: Path | None = option(
        None, "Checkpoint for PyTorch, the reference. [default: the model's own, if found]", metavar="CKPT"
    )
    no_reference: bool = option(False, "Leave PyTorch out; compare with the first model.")
    compiled: bool = option(False, "Measure PyTorch compiled as well.", "--compile")
    spinning: Spinning = option(
        Spinning.STOP,
        "ONNX Runtime's idle threads. stop: spin within a call, not after it. on: its default. off: never.",
    )
    pictures: int = 8
    picture_hw: tuple[int, int] = (480, 640)
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "batches", tuple(dict.fromkeys(self.batches)))
        object.__setattr__(self, "people", tuple(dict.fromkeys(self.people)))
        object.__setattr__(self, "threads", tuple(dict.fromkeys(self.threads)) or (None,))
        if self.pictures < 1:
            raise UsageError(f"pictures is {self.pictures}.", remedy="Give 1 or more.")
        for name, counts, least in (
            ("batch", self.batches, 1),
            ("people", self.people, 0),
            ("threads", self.threads, 1),
        ):
            for count in counts:
                if count is not None and not least <= count <= LIMITS[name]:
                    remedy = f"Give numbers from {least} to {LIMITS[name]}."
                    raise UsageError(f"{name} has {count}.", remedy=remedy, where=f"--{name}")
        for name, value in {"duration": self.seconds, "warm-up": self.warmup_s}.items():
            if value < 0 or (name == "duration" and value == 0):
                raise UsageError(f"A {name} of {value:g} s is not possible.", remedy="Give positive seconds.")
        v100 = self.protocol is Protocol.V100
        if v100 and self.people:
            finding = "--protocol v100 does not sweep people: it stops at the network's output."
            raise UsageError(finding, remedy="Use --protocol e2e.")
        if v100 and self.batches not in ((), (1,)):
            raise UsageError("--protocol v100 is at batch 1.", remedy="Leave --batch away, or use --protocol e2e.")
        if self.images is not None and self.people:
            finding = "--people makes its own images, so it does not go with --images."
            raise UsageError(finding, remedy="Leave one of them away.")
        if self.no_reference and (self.compiled or self.reference is not None):
            finding = "--no-reference leaves PyTorch out, so --reference and --compile do not go with it."
            raise UsageError(finding, remedy="Leave it away.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of what a result depends on."""
        names = ("device", "protocol", "images", "seconds", "warmup_s", "rounds", "spinning", "pictures", "picture_hw")
        synthetic = {"pictures", "picture_hw"} if self.images is not None else set()
        return {name: None if name in synthetic else plain(getattr(self, name)) for name in names}


def unique_labels(labels: Sequence[str]) -> list[str]:
    """The same labels, those that occur more than once with a number."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return result
