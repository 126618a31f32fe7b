"""The steps' actions by name. With :mod:`._make` and :mod:`._measure` the only modules that know the floors below.

What carries a release out takes an :class:`Actions`; a test gives it another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import installed_versions
from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.release import _make, _measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.results import Job, Outcome


class Actions(Protocol):
    """What carries steps out."""

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse, with a UsageError, options that do not go together."""

    def locate(self, step: Step, *, fetch: bool, progress: Callable[[str], None] = ...) -> Mapping[str, Path] | None:
        """Files from outside by role, downloaded if ``fetch``; None where that would be necessary."""

    def run(self, step: Step, job: Job) -> Outcome:
        """Carry a step out."""

    def versions(self, action: str) -> Mapping[str, str]:
        """Packages that its results depend on."""

    def revision(self, action: str) -> int:
        """Changes when an action gives other results though nothing else has changed."""

    def depends_on_machine(self, step: Step) -> bool:
        """Whether another machine would give another result."""

    def machine(self) -> Mapping[str, Any]:
        """This machine; ``fingerprint`` is the same for machines whose times can be compared."""

    def ratio(
        self, times: Sequence[float], others: Sequence[float], *, paired: bool
    ) -> tuple[float, float | None, float | None]:
        """How many times as long, and the ends of its interval."""


@dataclass(frozen=True)
class Action:
    """One action.

    Attributes:
        run: Carries it out.
        packages: Distributions whose versions matter.
        revision: See :meth:`Actions.revision`.
        on_machine: Whether the machine matters even on the CPU.
    """

    run: Callable[[Job], Outcome]
    packages: tuple[str, ...] = ()
    revision: int = 1
    on_machine: bool = False


_ORT: Final = ("onnxruntime", "onnxruntime-gpu")
_TRT: Final = ("tensorrt", "tensorrt-rtx-cu12")

ACTIONS: Final[Mapping[str, Action]] = {
    "source": Action(_make.source, ("torch",)),
    "export": Action(_make.export, ("torch", "onnx", "onnxsim", *_ORT)),
    "cast": Action(_make.cast, ("onnx", *_ORT)),
    "quantize": Action(_make.quantize, ("onnx", "numpy", "opencv-python-headless", *_ORT)),
    "engine": Action(_make.engine, ("onnx", *_TRT), on_machine=True),
    "openvino": Action(_make.openvino, ("openvino", "onnx", *_ORT)),
    "draw": Action(_make.draw, ("numpy", "opencv-python-headless")),
    "annotated": Action(_make.annotated),
    "accuracy": Action(
        _measure.accuracy,
        ("torch", "openvino", "numpy", "opencv-python-headless", "faster-coco-eval", *_ORT, *_TRT),
        revision=4,
    ),
    "parity": Action(
        _measure.parity, ("torch", "openvino", "numpy", "opencv-python-headless", *_ORT, *_TRT), revision=5
    ),
    "latency": Action(
        _measure.latency,
        ("torch", "openvino", "numpy", "opencv-python-headless", *_ORT, *_TRT),
        revision=2,
        on_machine=True,
    ),
}


class RealActions:
    """The actions of this package.

    Args:
        actions: By name.
    """

    def __init__(self, actions: Mapping[str, Action] = ACTIONS) -> None:
        self._actions = actions

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse options that do not go together.

        Raises:
            UsageError: They do not; the step is named.
        """
        for step in steps:
            try:
                _make.check_options(step.action, step.options)
            except RtmoDeployError as error:
                raise UsageError(f"{step.name}: {error.finding}", remedy=error.remedy) from error

    def locate(
        self, step: Step, *, fetch: bool, progress: Callable[[str], None] = lambda _: None
    ) -> Mapping[str, Path] | None:
        """Files from outside by role.

        Raises:
            RtmoDeployError: The checkpoint's name is not known, or it cannot be fetched.
        """
        name = step.options.get("source") if step.action == "source" else None
        if name is None:
            return step.files
        from rtmo_deploy.files import human_size
        from rtmo_deploy.progress import Count
        from rtmo_deploy.zoo import EMBEDDED
        from rtmo_deploy.zoo.cache import cached_path
        from rtmo_deploy.zoo.download import fetch as fetched
        from rtmo_deploy.zoo.records import published

        embedded = EMBEDDED.get(name.lower())
        if embedded is not None:
            return {"checkpoint": embedded.path}
        record = published(name)
        if not fetch and not cached_path(record).is_file():
            return None

        def told(done: int, total: int | None) -> None:
            progress(Count(f"downloading {name}", done, total, show=human_size))

        return {"checkpoint": fetched(record, progress=told)}

    def run(self, step: Step, job: Job) -> Outcome:
        """Carry a step out."""
        return self._actions[step.action].run(job)

    def versions(self, action: str) -> Mapping[str, str]:
        """Packages that its results depend on."""
        return _versions(self._actions[action].packages)

    def revision(self, action: str) -> int:
        """Changes when an action gives other results though nothing else has changed."""
        return self._actions[action].revision

    def depends_on_machine(self, step: Step) -> bool:
        """Whether another machine would give another result: times, engines, and whatever runs on a GPU."""
        devices = [step.options.get("device"), *step.options.get("devices", ())]
        return self._actions[step.action].on_machine or any(device not in {None, "cpu"} for device in devices)

    def machine(self) -> Mapping[str, Any]:
        """This machine."""
        return _machine()

    def ratio(
        self, times: Sequence[float], others: Sequence[float], *, paired: bool
    ) -> tuple[float, float | None, float | None]:
        """How many times as long, and the ends of its interval."""
        return _measure.ratio(times, others, paired=paired)


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    from rtmo_deploy.measure.bench.machine import read_machine

    return read_machine().to_dict()


@lru_cache(maxsize=32)
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {"rtmo-deploy": __version__, **installed_versions(packages)}
