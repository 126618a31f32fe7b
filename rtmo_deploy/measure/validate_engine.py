"""Is a TensorRT engine the one that its record describes, and does TensorRT load it?

An engine is executable code. So its bytes are compared with its record before anything else, nothing is loaded that
does not match, and what is loaded is loaded in a process of its own. Without TensorRT or without a GPU that part is not
checked, and says so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.validate import Check, ValidationReport, companion_finding, contract_findings, until_failed
from rtmo_deploy.runtime.engine_file import read_record
from rtmo_deploy.runtime.plugins import kernel_record
from rtmo_deploy.runtime.trt_api import FLAVOURS, installed_backends

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.runtime.engine_file import EngineRecord

#: What loads an engine; -P keeps the current folder from hiding packages.
COMMAND = (sys.executable, "-P", "-m", "rtmo_deploy.measure.engine_child")
#: Seconds after which loading and running is given up.
TIMEOUT = 600.0
#: The folder that holds the package ``rtmo_deploy``.
_PACKAGES = Path(__file__).resolve().parents[2]
_TOLD_LINES = 3


def validate_engine(path: Path, *, command: Sequence[str] = COMMAND) -> ValidationReport:
    """Check an engine against its record, and let TensorRT load and run it where that is possible.

    The checks: the record; the engine's bytes; input, outputs and profiles against what it is said to be; the
    precision asked for against the one audited; the plugin; the companion of a ``raw`` engine; then, in a process of
    its own, that TensorRT loads it and that runs give finite outputs, twice the same.

    Args:
        path: The engine.
        command: What loads it; the engine's path is added to it.

    Raises:
        ArtifactError: There is no such engine.
    """
    if not path.is_file():
        read_record(path)
    return until_failed(_steps(path, command))


def engine_findings(path: Path, record: EngineRecord) -> list[str]:
    """What lies beside or in an engine and is not as its record says; empty if nothing. Nothing is loaded.

    Args:
        path: The engine.
        record: Its record.
    """
    found = [finding for finding in (_bytes_finding(path, record), companion_finding(record.artifact)) if finding]
    plugin = _plugin_finding(record)
    return [*found, plugin] if plugin else found


def _steps(path: Path, command: Sequence[str]) -> Iterator[Check]:
    try:
        record = read_record(path)
    except ArtifactError as error:
        yield Check("record", False, error.finding)
        return
    if record.backend not in FLAVOURS:
        yield Check("record", False, f"it speaks of a backend that there is not: {record.backend}")
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
    companion = record.artifact.companion
    if companion is not None:
        wrong = companion_finding(record.artifact)
        yield Check("companion", wrong is None, wrong or f"{companion.name} is the one it was made with")
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
        bounds = list(zip(profile.least.sides(), profile.usual.sides(), profile.most.sides(), strict=True))
        sides = [side for bound in bounds[1:] for side in bound]
        if any(not 0 < low <= usual <= high for low, usual, high in bounds):
            found.append(f"the profile {profile} does not ascend")
        elif any(side % contract.multiple for side in sides):
            found.append(f"the profile {profile} has sides that are no multiples of {contract.multiple}")
    own = (contract.height, contract.width)
    takes = [p for p in record.profiles if _takes(p.least.sides()[1:], own, p.most.sides()[1:])]
    if not takes:
        found.append(f"none of its profiles takes its own size, {own[0]}x{own[1]}")
    return found


def _takes(least: tuple[int, ...], sides: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return all(low <= side <= high for low, side, high in zip(least, sides, most, strict=True))


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
        flavour = FLAVOURS[record.backend]
        yield Check(name, None, f"{flavour.module} is not installed: pip install 'rtmo-deploy[{flavour.extra}]'")
        yield Check("runs", None, "it was not loaded")
        return
    try:
        done = subprocess.run(  # noqa: S603 - our own module, by our own interpreter
            [*command, str(path)], capture_output=True, env=_environment(), timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        yield Check(name, False, f"loading and running it took more than {TIMEOUT:g} seconds")
        return
    told = [_parsed(line) for line in done.stdout.decode(errors="replace").splitlines()]
    yield from (check for check in told if check is not None)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        said = " | ".join(lines[-_TOLD_LINES:]) or "nothing"
        yield Check(name, False, f"the process that loads it {_death(done.returncode)}; the last it said: {said}")


def _parsed(line: str) -> Check | None:
    """A check that the child told; None where a library printed something else."""
    try:
        return Check(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _death(code: int) -> str:
    try:
        return f"ended with code {code}" if code >= 0 else f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed (signal {-code})"


def _environment() -> dict[str, str]:
    """This process's, and the folder that this package lies in, wherever it was imported from."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
