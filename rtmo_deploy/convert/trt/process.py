"""Runs a build in a child process, and turns whatever becomes of it into an answer or an error."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.child import Child, exit_name, python_command, revived
from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMAND = python_command("-m", "rtmo_deploy.convert.trt.child")


@dataclass(frozen=True)
class Job:
    """What the building process is asked for, in plain values.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        onnx: File to parse.
        plan: File to write the engine to.
        profiles: Min, opt and max shape (B, C, H, W) of each.
        targets: Compute capabilities; empty for the backend's own choice.
        timing_cache_in: File to read; None for a new cache.
        timing_cache_out: File to write; None for no timing cache at all.
        version_compatible, hardware_compatible, opt_level, workspace: As in ``BuildOptions``.
        plugin: The graph holds the decode plugin.
    """

    backend: str
    onnx: str
    plan: str
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]
    targets: tuple[str, ...] = ()
    timing_cache_in: str | None = None
    timing_cache_out: str | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    opt_level: int | None = None
    workspace: int | None = None
    plugin: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Inverse of ``vars``, after a way through JSON."""
        profiles = tuple(tuple(tuple(shape) for shape in profile) for profile in data["profiles"])
        return cls(**{**data, "profiles": profiles, "targets": tuple(data["targets"])})

    def remove_temporaries(self) -> None:
        """Remove the files of this job, and their folder if nothing else is in it."""
        folder = Path(self.plan).parent
        # Under another name, so that a thread that is about to write finds no folder any more.
        with contextlib.suppress(OSError):
            folder = folder.rename(folder.with_name(f"{folder.name}.gone"))
        for name in (self.plan, self.timing_cache_out):
            if name:
                (folder / Path(name).name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


@dataclass
class ChildAnswer:
    """What a build in a child process gave.

    Attributes:
        network: Inputs, outputs and layers of the parsed network.
        done: Version, GPU, seconds, layer table and inspector's answer.
        warnings: TensorRT's warnings, each once.
    """

    network: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def run_child(
    job: Job,
    *,
    where: Path,
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    command: Sequence[str] | None = None,
) -> ChildAnswer:
    """Build in a child process.

    Args:
        job: The build.
        where: The model, named by errors.
        timeout: Seconds after which it is ended.
        progress: Told of each step.
        command: What to run; :data:`COMMAND` if not given.
    """
    answer, logged, reported = ChildAnswer(), list[str](), ""
    with Child(command or COMMAND) as child:
        child.send(vars(job))
        try:
            for message in child.messages(timeout):
                kind = message.pop("event", None)
                if kind == "progress" and (text := _progress_text(message)) != reported:
                    reported = text  # phases of the optimiser repeat
                    progress(text)
                elif kind == "network":
                    answer.network = message
                elif kind == "log":
                    logged.append(message["message"])
                    if message["severity"] == "warning" and message["message"] not in answer.warnings:
                        answer.warnings.append(message["message"])
                elif kind == "failed":
                    raise revived(message["error"], where)
                elif kind == "done":
                    answer.done = message
        except TimeoutError:
            raise SetupError(
                f"The build took more than {timeout:g} seconds and was ended.",
                remedy="Give it more time (--timeout), or a lower --opt-level.",
                where=where,
            ) from None
        code = child.exit()
        if code != 0 or not answer.done:
            raise _crash(exit_name(code), child.last_lines(logged), job, where)
    return answer


def _progress_text(message: Mapping[str, Any]) -> str:
    text = str(message["text"])
    if message.get("done") and message.get("total", 0) > 1:
        return Count(text, message["done"], message["total"])
    return text


def _crash(how: str, last_lines: str, job: Job, where: Path) -> RtmoDeployError:
    """The error of a child that ended without telling why."""
    if how in {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}:
        return SetupError(
            f"The building process was ended from outside ({how}); the system does that too, when memory is short."
            f"{last_lines}",
            remedy="Try again with more memory, or smaller --max sizes.",
            where=where,
        )
    ended = f"ended with {how}" if how.startswith("exit") else f"crashed ({how})"
    return ArtifactError(
        f"{job.backend} {ended} on this model.{last_lines}",
        remedy="Nothing was written. Export it again with --decode fixed and another --opset; if it stays, please "
        "report it.",
        where=where,
    )
