"""A build in a process of its own, for TensorRT can crash: both ends, the parent's :func:`run_child` and the child.

The child is ``python -m rtmo_deploy.convert.trt.child``. One line of JSON on its stdin is the job, lines of JSON on its
stdout are events: ``progress``, ``log``, ``network``, then ``done`` or ``failed``. When the parent is gone, the plan is
removed and the child ends.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.child import Child, end_with_parent, error_message, exit_name, open_answers, python_command, revived
from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError
from rtmo_deploy.files import read_bounded
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.cuda import find_gpu
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, TrtApi, load_api

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = python_command("-m", "rtmo_deploy.convert.trt.child")
#: Steps of a phase of the optimiser are told this far apart, seconds.
_PAUSE = 0.2
#: Bytes of a timing cache.
MAX_CACHE = 2**28


@dataclass(frozen=True)
class Job:
    """What the child is asked for, in plain values; what has no comment is as in ``BuildOptions``."""

    backend: str  #: ``tensorrt`` or ``tensorrt-rtx``.
    onnx: str  #: File to parse.
    plan: str  #: File to write the engine to.
    profiles: Sequence[Sequence[Sequence[int]]]  #: Min, opt and max shape (B, C, H, W) of each.
    targets: Sequence[str] = ()
    timing_cache_in: str | None = None  #: File to read; None for a new cache.
    timing_cache_out: str | None = None  #: File to write; None for no timing cache at all.
    version_compatible: bool = False
    hardware_compatible: bool = False
    opt_level: int | None = None
    workspace: int | None = None
    plugin: bool = False  #: The graph holds the decode plugin.

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


def run_child(
    job: Job,
    *,
    where: Path,
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    command: Sequence[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Build in a child process that may take ``timeout`` seconds; errors name the model ``where``.

    Returns:
        The parsed network: inputs, outputs and layers. What was built: version, GPU, seconds, layer table and
        inspector's answer. TensorRT's warnings, each once.
    """
    network: dict[str, Any] = {}
    done: dict[str, Any] = {}
    warnings: list[str] = []
    logged: list[str] = []
    reported = ""
    with Child(command or COMMAND) as child:
        child.send(vars(job))
        try:
            for message in child.messages(timeout):
                kind = message.pop("event", None)
                if kind == "progress":
                    text = str(message["text"])
                    if message.get("done") and message.get("total", 0) > 1:
                        text = Count(text, message["done"], message["total"])
                    if text != reported:  # phases of the optimiser repeat
                        reported = text
                        progress(text)
                elif kind == "network":
                    network = message
                elif kind == "log":
                    logged.append(message["message"])
                    if message["severity"] == "warning" and message["message"] not in warnings:
                        warnings.append(message["message"])
                elif kind == "failed":
                    raise revived(message["error"], where)
                elif kind == "done":
                    done = message
        except TimeoutError:
            raise SetupError(
                f"The build took more than {timeout:g} seconds and was ended.",
                remedy="Give it more time (--timeout), or a lower --opt-level.",
                where=where,
            ) from None
        code = child.exit()
        if code != 0 or not done:
            raise _crash(exit_name(code), child.last_lines(logged), job, where)
    return network, done, warnings


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


class _Log:
    """What TensorRT says: errors and warnings go on, the layer table is kept."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self.errors: list[str] = []
        self.table = ""

    def __call__(self, severity: str, message: str) -> None:
        if severity == "verbose":
            if message.startswith("Layers:"):
                self.table = message
            return
        if severity == "error":
            self.errors.append(message)
        self._tell(event="log", severity=severity, message=message)

    def reason(self) -> str:
        """The last thing that went wrong; earlier ones are what led to it."""
        return "; ".join(self.errors[-2:]) or "it gives no reason"


def main() -> int:
    """Read a job, build, and tell."""
    tell = open_answers()
    job = Job(**json.loads(sys.stdin.readline()))
    end_with_parent(job.remove_temporaries)
    try:
        tell(event="done", **_build(job, tell))
    except RtmoDeployError as error:
        tell(event="failed", error=error_message(error))
        return 1
    except OSError as error:
        full = SetupError(
            f"The engine could not be written: {error.strerror or error}.", remedy="Free some space.", where=job.plan
        )
        tell(event="failed", error=error_message(full))
        return 1
    return 0


def _refused(job: Job, what: str, reason: str) -> ArtifactError:
    """TensorRT does not take the model; ``where`` it is, the parent says."""
    return ArtifactError(
        f"{job.backend} {what}: {' '.join(reason.split()).rstrip('.')}.",
        remedy="Export it with 'rtmo-deploy export --decode fixed', which every backend builds.",
    )


def _build(job: Job, tell: Callable[..., None]) -> dict[str, Any]:
    started = time.monotonic()
    tell(event="progress", text=f"loading {job.backend}")
    api = load_api(TRT_VARIANTS[job.backend])
    trt, log = api.trt, _Log(tell)
    logger = api.logger(log)
    gpu = find_gpu()
    if isinstance(gpu, str) and not api.variant.builds_without_gpu:
        raise SetupError(
            f"{job.backend} builds for the GPU it finds, and there is none: {gpu.rstrip('.')}.",
            remedy="Build where the GPU is, or use --backend tensorrt-rtx, which needs none to build.",
        )
    builder = trt.Builder(logger)
    form, flags = None, api.network_flags()
    if job.plugin:
        from rtmo_deploy.runtime.plugins import network_flags, register_plugin

        form = register_plugin(trt)
        flags |= network_flags(trt, form)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    tell(event="progress", text="parsing")
    _parse(parser, job, log)
    tell(event="network", **_describe(network))
    config = builder.create_builder_config()
    _configure(api, builder, network, config, job)
    monitor = make_monitor(trt, lambda text, done, total: tell(event="progress", text=text, done=done, total=total))
    config.progress_monitor = monitor
    cache = _load_cache(config, job)
    tell(event="progress", text="building")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(job, "cannot build it", log.reason())
    Path(job.plan).write_bytes(memoryview(plan))
    if cache is not None and job.timing_cache_out:
        Path(job.timing_cache_out).write_bytes(memoryview(config.get_timing_cache().serialize()))
    return {
        "version": api.version,
        "gpu": None if isinstance(gpu, str) else vars(gpu),
        "plugin_form": form,
        "seconds": time.monotonic() - started,
        "table": log.table,
        "inspector": None if isinstance(gpu, str) else _inspect(api, logger, plan, job),
    }


def _parse(parser: Any, job: Job, log: _Log) -> None:
    if parser.parse_from_file(job.onnx):
        return
    if not parser.num_errors:
        raise _refused(job, "cannot parse it", log.reason())
    error = parser.get_error(0)
    node, operator = error.node_name(), error.node_operator()
    what = f"does not take its node {node} ({operator})" if operator else "cannot parse it"
    raise _refused(job, what, error.desc())


def _describe(network: Any) -> dict[str, Any]:
    def tensor(value: Any) -> list[Any]:
        return [value.name, str(value.dtype), [int(side) for side in value.shape]]

    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        layers.append(
            {
                "name": layer.name,
                "kind": str(layer.type).rpartition(".")[2],
                "inputs": [value.name for value in inputs if value is not None],
                "outputs": [[value.name, str(value.dtype)] for value in outputs if value is not None],
            }
        )
    return {
        "inputs": [tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": layers,
    }


def _configure(api: TrtApi, builder: Any, network: Any, config: Any, job: Job) -> None:
    trt = api.trt
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # FP32 means FP32: what is left in it needs its precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    if job.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if job.opt_level is not None:
        config.builder_optimization_level = job.opt_level
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.targets:
        _set_targets(api, config, job)
    source = network.get_input(0)
    if -1 not in tuple(source.shape):
        return
    for least, opt, most in job.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(source.name, tuple(least), tuple(opt), tuple(most))
        if config.add_optimization_profile(profile) < 0:
            raise _refused(job, "cannot build it", f"TensorRT refuses the profile {least} to {most}")


def _set_targets(api: TrtApi, config: Any, job: Job) -> None:
    values = api.compute_capabilities(job.targets)
    config.num_compute_capabilities = len(values)
    for index, value in enumerate(values):
        if not config.set_compute_capability(value, index):
            raise _refused(job, "cannot build it", f"TensorRT refuses the compute capability {job.targets[index]}")


def _load_cache(config: Any, job: Job) -> Any:
    if not job.timing_cache_out:
        return None
    content = b""
    if job.timing_cache_in:
        try:
            content = read_bounded(Path(job.timing_cache_in), max_bytes=MAX_CACHE)
        except OSError as error:
            raise _bad_cache(job, f"it cannot be read: {error.strerror or error}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise _bad_cache(job, "it is damaged, or of another GPU or TensorRT")
    return cache


def _bad_cache(job: Job, why: str) -> ArtifactError:
    return ArtifactError(
        f"The timing cache cannot be used: {why}.", remedy="Remove it, or name another.", where=job.timing_cache_in
    )


def make_monitor(trt: Any, tell: Callable[[str, int, int], None]) -> Any:
    """A progress monitor that tells the outermost phase within the build, and its steps every now and then."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._steps[phase_name] = num_steps
            tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self._told >= _PAUSE:
                self._told = now
                tell(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _inspect(api: TrtApi, logger: Any, plan: Any, job: Job) -> str | None:
    """The engine inspector's answer, where the engine can be loaded."""
    runtime = api.trt.Runtime(logger)
    if job.version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(api.trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(main())
