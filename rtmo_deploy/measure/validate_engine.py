"""Checks a TensorRT engine against its record, and whether TensorRT loads and runs it.

An engine is executable code. So its bytes are compared with its record first, nothing is loaded that does not match,
and loading happens in a process of its own (``python -m rtmo_deploy.measure.validate_engine FILE``), which TensorRT may
end. Without TensorRT or a GPU that part is reported as not checked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.child import Child, end_with_parent, exit_name, open_answers, python_command
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.validate import (
    Check,
    ValidationReport,
    companion_check,
    contract_findings,
    run_checks,
)
from rtmo_deploy.runtime.cuda import find_gpu
from rtmo_deploy.runtime.engine_file import differences, engine_artifact, read_record, require_same_bytes
from rtmo_deploy.runtime.plugins.kernel import kernel_record
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, installed_backends, load_api

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.runtime.engine_file import EngineRecord
    from rtmo_deploy.runtime.trt_api import TrtApi

COMMAND = python_command("-m", "rtmo_deploy.measure.validate_engine")
#: Seconds after which loading and running is given up.
TIMEOUT = 600.0
#: Bytes at the beginning of an engine that TensorRT-RTX judges it by.
HEADER = 64
#: Bit of its answer that says that it is no engine.
MALFORMED = 32


def validate_engine(path: Path, *, command: Sequence[str] = COMMAND) -> ValidationReport:
    """Check an engine against its record, and let TensorRT load and run it where that is possible.

    The checks: the record; the engine's bytes; input, outputs and profiles against what it is said to be; the
    precision asked for against the one audited; the plugin; the companion of a ``raw`` engine; then, in a process of
    its own, that TensorRT loads it and that runs give finite outputs, twice the same.
    """
    if not path.is_file():
        read_record(path)
    return ValidationReport.of(_steps(path, command))


def engine_findings(path: Path, record: EngineRecord) -> list[str]:
    """What of an engine's files is not as its record says; empty if nothing. Nothing is loaded."""
    companion = (check.detail for check in companion_check(record.artifact) if check.failed)
    found = (_bytes_finding(path, record), *companion, _plugin_finding(record))
    return [finding for finding in found if finding]


def _steps(path: Path, command: Sequence[str]) -> Iterator[Check]:
    try:
        record = read_record(path)
    except ArtifactError as error:
        yield Check("record", False, error.finding)
        return
    if record.backend not in TRT_VARIANTS:
        yield Check("record", False, f"it names an unknown backend: {record.backend}")
        return
    yield Check("record", True, f"{record.artifact.architecture}, built by {record.backend} {record.version}")
    wrong = _bytes_finding(path, record)
    yield Check("bytes", wrong is None, wrong or f"{record.size:,} of them, SHA-256 as recorded")
    found = [*contract_findings(record.artifact, record.inputs, record.outputs), *_profile_findings(record)]
    tensors = "; ".join(map(str, (*record.inputs, *record.outputs)))
    sizes = f"{tensors}; takes {'; or '.join(map(str, record.profiles))}"
    yield Check("input and outputs", not found, "; ".join(found) or sizes)
    yield _check_precision(record)
    if record.plugin is not None or record.artifact.decode.mode is DecodeMode.PLUGIN:
        wrong, plugin = _plugin_finding(record), record.plugin or {}
        form = f"{plugin.get('name')} {plugin.get('version')}, {plugin.get('form')}"
        yield Check("plugin", wrong is None, wrong or f"{form}, kernel {plugin.get('kernel_sha256')}")
    yield from companion_check(record.artifact)
    loads = f"{record.backend} loads it"
    if record.backend in installed_backends():
        yield from checks_in_child(path, loads, command)
        return
    variant = TRT_VARIANTS[record.backend]
    yield from _not_loaded(loads, f"{variant.module} is not installed: pip install 'rtmo-deploy[{variant.extra}]'")


def _bytes_finding(path: Path, record: EngineRecord) -> str | None:
    size = path.stat().st_size
    if size != record.size:
        return f"the engine has {size:,} bytes, its record says {record.size:,}"
    found = sha256_of(path)
    if found != record.sha256:
        return f"the engine's SHA-256 begins with {found[:12]}, its record says {record.sha256[:12]}"
    return None


def _profile_findings(record: EngineRecord) -> list[str]:
    contract, found = record.artifact.input, []
    for sizes in record.profiles:
        bounds = list(zip(sizes.min, sizes.opt, sizes.max, strict=True))
        if any(not 0 < low <= opt <= high for low, opt, high in bounds):
            found.append(f"the profile {sizes} does not ascend")
        elif any(side % contract.multiple for bound in bounds[1:] for side in bound):
            found.append(f"the profile {sizes} has sides that are no multiples of {contract.multiple}")
    if not any(sizes.holds(contract.height, contract.width) for sizes in record.profiles):
        found.append(f"none of its profiles takes its own size, {contract.height}x{contract.width}")
    return found


def _check_precision(record: EngineRecord) -> Check:
    said, asked, how = record.artifact.precision, record.precision.get("asked"), record.precision.get("how")
    if not isinstance(asked, str) or how is None:
        return Check("precision", False, f"it says that it is {said}, and its record holds no audit")
    # int8+fp16 is audited for its 8-bit convolutions.
    kind = asked.partition("+")[0]
    if kind != said.partition("+")[0]:
        return Check("precision", False, f"it says that it is {said}, and it was built and audited as {asked}")
    counted = record.precision.get("engine") or record.precision.get("network")
    counts = counted.get("convolutions") if isinstance(counted, dict) else None
    right = counts.get(kind) if isinstance(counts, dict) else None
    if not isinstance(counts, dict) or not right:
        return Check("precision", False, f"no convolution of it was found to compute in {kind}")
    return Check("precision", True, f"{right} of {sum(counts.values())} convolutions in {kind}, by {how}")


def _plugin_finding(record: EngineRecord) -> str | None:
    """What is wrong with the plugin; None if nothing is."""
    plugin, mode = record.plugin, record.artifact.decode.mode
    if (plugin is None) != (mode is not DecodeMode.PLUGIN):
        return f"its decoding is {mode}, and its record says that it has {'a' if plugin else 'no'} plugin"
    if plugin is None or plugin.get("form") == "aot":  # the kernel lies in the engine
        return None
    ours = kernel_record().ptx_sha256
    theirs = str(plugin.get("kernel_sha256"))
    if theirs == ours:
        return None
    return (
        f"its plugin was built with the kernel {theirs[:12]}, and this release would run it with {ours[:12]}: build it "
        "again, or use the release that built it"
    )


def checks_in_child(path: Path, loads: str, command: Sequence[str] = COMMAND) -> Iterator[Check]:
    """:func:`child_checks`, in a child process that may crash or hang; what becomes of it is a check too."""
    with Child([*command, str(path)]) as child:
        try:
            yield from (Check(**message) for message in child.messages(TIMEOUT))
        except TimeoutError:
            yield Check(loads, False, f"loading and running it took more than {TIMEOUT:g} seconds")
            child.kill()
            return
        code = child.exit()
        if code:
            how = f"ended with {exit_name(code)}" if code > 0 else f"crashed ({exit_name(code)})"
            yield Check(loads, False, f"the process that loads it {how}.{child.last_lines()}")


def main() -> int:
    """Check the engine that the command line names, and tell."""
    tell = open_answers()
    end_with_parent()
    for check in child_checks(Path(sys.argv[1])):
        tell(**vars(check))
    return 0


def child_checks(path: Path) -> Iterator[Check]:
    """What only TensorRT can tell of an engine, as far as this machine allows."""
    record = read_record(path)
    require_same_bytes(path, record)
    loads = f"{record.backend} loads it"
    try:
        api = load_api(TRT_VARIANTS[record.backend])
    except SetupError as error:
        yield from _not_loaded(loads, error.finding)
        return
    yield from _check_header(api, path)
    gpu = find_gpu()
    if isinstance(gpu, str):
        yield from _not_loaded(loads, f"there is no GPU to load it on: {gpu}")
        return
    found = differences(record, version=api.version, gpu=gpu)
    if found:
        yield from _not_loaded(loads, f"it is not for this machine: {'; '.join(found)}")
        return
    yield from _check_runs(path, record, loads, f"{record.backend} {api.version} on {gpu.name}")


def _not_loaded(loads: str, why: str) -> Iterator[Check]:
    yield Check(loads, None, why)
    yield Check("runs", None, "it was not loaded")


def _check_header(api: TrtApi, path: Path) -> Iterator[Check]:
    """TensorRT-RTX can judge an engine's beginning without a GPU; TensorRT cannot."""
    if not api.has("Runtime.get_engine_validity"):
        return
    runtime = api.trt.Runtime(api.logger(lambda *_: None))
    with path.open("rb") as stream:
        header = stream.read(HEADER)
    _, diagnostics = runtime.get_engine_validity(header)
    known = not int(diagnostics) & MALFORMED
    said = "its beginning is that of an engine" if known else "its beginning is not that of an engine"
    yield Check("header", known, f"{api.variant.name} {api.version}: {said}")


def _check_runs(path: Path, record: EngineRecord, loads: str, what: str) -> Iterator[Check]:
    from rtmo_deploy.runtime.tensorrt_backend import TensorRtBackend

    try:
        backend = TensorRtBackend(engine_artifact(path), 0)
    except ArtifactError as error:
        yield Check(loads, False, error.finding)
        return
    except SetupError as error:
        yield from _not_loaded(loads, error.finding)
        return
    yield Check(loads, True, what)
    names = {spec.name for spec in record.outputs}
    first = record.profiles[0]
    for check in run_checks(backend, list(dict.fromkeys((first.opt, first.min)))):
        if check.ok and not all(name in check.detail for name in names):
            yield Check(check.name, False, f"its outputs are not those of its record: {check.detail}")
            return
        yield check
    backend.close()


if __name__ == "__main__":
    sys.exit(main())
