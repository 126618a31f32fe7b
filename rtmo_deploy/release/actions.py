"""The steps' actions by name. With :mod:`.make` the only module that knows the floors below."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.address import is_address, is_file_address, is_remote
from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.packages import installed
from rtmo_deploy.release import make

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.measure.bench.statistics import Ratio
    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.record import Job, Outcome


@dataclass(frozen=True)
class Action:
    """One action."""

    run: Callable[[Job], Outcome]
    #: Distributions whose versions matter.
    packages: tuple[str, ...] = ()
    #: Changes when the action gives other results though nothing else has changed.
    revision: int = 1
    #: Whether the machine matters even on the CPU.
    on_machine: bool = False


_ORT: Final = ("onnxruntime", "onnxruntime-gpu")
_TRT: Final = ("tensorrt", "tensorrt-rtx-cu12")
_IMAGES: Final = ("numpy", "opencv-python-headless")

ACTIONS: Final[Mapping[str, Action]] = {
    "source": Action(make.source, ("torch",)),
    "export": Action(make.export, ("torch", "onnx", "onnxsim", *_ORT)),
    "cast": Action(make.cast, ("onnx", *_ORT)),
    "quantize": Action(make.quantize, ("onnx", "openvino", *_IMAGES, *_ORT), revision=2, on_machine=True),
    "engine": Action(make.engine, ("onnx", *_TRT), on_machine=True),
    "openvino": Action(make.openvino, ("openvino", "onnx", *_ORT)),
    "draw": Action(make.draw, _IMAGES),
    "annotated": Action(make.annotated, revision=2),
    "accuracy": Action(make.accuracy, ("torch", "openvino", *_IMAGES, "faster-coco-eval", *_ORT, *_TRT), revision=6),
    "parity": Action(make.parity, ("torch", "openvino", *_IMAGES, *_ORT, *_TRT), revision=6),
    "latency": Action(make.latency, ("torch", "openvino", *_IMAGES, *_ORT, *_TRT), revision=2, on_machine=True),
}


class Actions:
    """What carries steps out; a test puts another one in its place."""

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse options that do not go together."""
        for step in steps:
            try:
                make.check_options(step.action, step.options)
            except RtmoDeployError as error:
                raise UsageError(f"{step.name}: {error.finding}", remedy=error.remedy) from error

    def require_files(self, steps: Sequence[Step]) -> None:
        """Refuse files from outside that cannot be read, and a source that is no checkpoint; nothing is fetched."""
        for step in steps:
            make.require_files(step.files)
            address = step.options.get("source") if step.action == "source" else None
            if address is not None and is_file_address(address):
                self.locate(step, fetch=False)

    def locate(
        self, step: Step, *, fetch: bool, progress: Callable[[str], None] = lambda _: None
    ) -> Mapping[str, Path] | None:
        """Files from outside by role, downloaded if ``fetch``; None where that would be necessary."""
        name = step.options.get("source") if step.action == "source" else None
        if name is None:
            return step.files
        from rtmo_deploy.file_kind import CHECKPOINT
        from rtmo_deploy.files import human_size
        from rtmo_deploy.progress import Count
        from rtmo_deploy.zoo import EMBEDDED
        from rtmo_deploy.zoo.cache import cached_path
        from rtmo_deploy.zoo.download import cached_address
        from rtmo_deploy.zoo.download import fetch as fetched
        from rtmo_deploy.zoo.locate import locate_model
        from rtmo_deploy.zoo.records import published

        def told(done: int, total: int | None) -> None:
            progress(Count(f"downloading {name}", done, total, show=human_size))

        if is_address(name):
            if is_remote(name) and not fetch and not cached_address(name).is_file():
                return None
            return {"checkpoint": locate_model(name, wanted=CHECKPOINT, by="release", progress=told)}
        embedded = EMBEDDED.get(name.lower())
        if embedded is not None:
            return {"checkpoint": embedded.path}
        record = published(name)
        if not fetch and not cached_path(record).is_file():
            return None
        return {"checkpoint": fetched(record, progress=told)}

    def run(self, step: Step, job: Job) -> Outcome:
        """Carry a step out."""
        return ACTIONS[step.action].run(job)

    def versions(self, action: str) -> Mapping[str, str]:
        """Packages that its results depend on."""
        return {"rtmo-deploy": __version__, **installed(ACTIONS[action].packages)}

    def revision(self, action: str) -> int:
        """See :class:`Action`."""
        return ACTIONS[action].revision

    def depends_on_machine(self, step: Step) -> bool:
        """Whether another machine would give another result: times, engines, and whatever runs on a GPU."""
        devices = [step.options.get("device"), *step.options.get("devices", ())]
        return ACTIONS[step.action].on_machine or any(device not in {None, "cpu"} for device in devices)

    def machine(self) -> Mapping[str, Any]:
        """This machine; ``fingerprint`` is the same for machines whose times can be compared."""
        return _machine()

    def ratio(self, times: Sequence[float], others: Sequence[float], *, paired: bool) -> Ratio:
        """How many times as long, with the 95 % interval; ``paired`` where both took turns."""
        from rtmo_deploy.measure.bench.statistics import independent_ratio, paired_ratio

        return (paired_ratio if paired else independent_ratio)(times, others)


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    from rtmo_deploy.machine import read_machine

    return read_machine().to_dict()
