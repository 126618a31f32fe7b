"""Checks a TensorRT engine against its record, and whether TensorRT loads and runs it.

An engine is executable code. So its bytes are compared with its record first, nothing is loaded that does not match,
and loading happens in a process of its own. Without TensorRT or a GPU that part is reported as not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.engine_child import COMMAND, checks_in_child
from rtmo_deploy.measure.validate import Check, ValidationReport, companion_check, contract_findings
from rtmo_deploy.runtime.engine_file import read_record
from rtmo_deploy.runtime.plugins.kernel import kernel_record
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, installed_backends

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rtmo_deploy.runtime.engine_file import EngineRecord


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
    yield Check("input and outputs", not found, "; ".join(found) or _sizes(record))
    yield _check_precision(record)
    if record.plugin is not None or record.artifact.decode.mode is DecodeMode.PLUGIN:
        wrong = _plugin_finding(record)
        yield Check("plugin", wrong is None, wrong or _plugin_text(record))
    yield from companion_check(record.artifact)
    yield from _check_loading(path, record, command)


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
    for profile in record.profiles:
        bounds = list(zip(profile.min.sides(), profile.opt.sides(), profile.max.sides(), strict=True))
        if any(not 0 < low <= opt <= high for low, opt, high in bounds):
            found.append(f"the profile {profile} does not ascend")
        elif any(side % contract.multiple for bound in bounds[1:] for side in bound):
            found.append(f"the profile {profile} has sides that are no multiples of {contract.multiple}")
    if not any(profile.holds(contract.height, contract.width) for profile in record.profiles):
        found.append(f"none of its profiles takes its own size, {contract.height}x{contract.width}")
    return found


def _sizes(record: EngineRecord) -> str:
    tensors = "; ".join(map(str, (*record.inputs, *record.outputs)))
    return f"{tensors}; takes {'; or '.join(map(str, record.profiles))}"


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


def _plugin_text(record: EngineRecord) -> str:
    plugin = record.plugin or {}
    return f"{plugin.get('name')} {plugin.get('version')}, {plugin.get('form')}, kernel {plugin.get('kernel_sha256')}"


def _check_loading(path: Path, record: EngineRecord, command: Sequence[str]) -> Iterator[Check]:
    name = f"{record.backend} loads it"
    if record.backend not in installed_backends():
        variant = TRT_VARIANTS[record.backend]
        yield Check(name, None, f"{variant.module} is not installed: pip install 'rtmo-deploy[{variant.extra}]'")
        yield Check("runs", None, "it was not loaded")
        return
    yield from checks_in_child(path, name, command)
