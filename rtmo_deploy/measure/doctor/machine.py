"""Rules for the machine: processor, 8-bit arithmetic, how busy it is, and the folders that are written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.report import Row, Verdict
from rtmo_deploy.measure.doctor.words import GIB, gib, troubled

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts
    from rtmo_deploy.measure.doctor.parts import FolderFacts

_AREA = "machine"
#: Bytes free below which a reader is warned, and below which nothing useful can be written.
SCARCE, FULL = 2 * GIB, 50 * 2**20
#: What becomes of INT8 models where sums are lossy.
_LOSSY = {
    "ONNX Runtime": "ONNX Runtime computes INT8 models in float32 here.",
    "OpenVINO": "OpenVINO is not given INT8 models here, unless their weights have 7 bits.",
}
_CACHE_VARIABLE = "RTMO_DEPLOY_CACHE"


def machine_rows(facts: Facts) -> list[Row]:
    """The rows of this area."""
    return [
        _processor(facts),
        _busy(facts),
        _int8(facts),
        _folder("working directory", facts.working, "Work in another folder."),
        _cache(facts),
    ]


def _processor(facts: Facts) -> Row:
    name, cpu = "processor", facts.cpu
    if cpu.trouble is not None and cpu.cores is None:
        return troubled(_AREA, name, cpu.trouble, "Nothing else depends on it; bench would not know the machine.")
    cores = f"{cpu.cores} of {cpu.cores_total} cores" if cpu.cores != cpu.cores_total else f"{cpu.cores} cores"
    text = f"{cpu.name}, {cores}{f', {gib(cpu.memory)} of memory' if cpu.memory else ''}."
    if cpu.quota is not None and cpu.cores is not None and cpu.quota < cpu.cores:
        finding = f"{text} A container's limit gives it the time of {cpu.quota:g}: more threads than that stall."
        threads = max(1, int(cpu.quota))
        return Row(_AREA, name, Verdict.WARNING, finding, f"Use --threads {threads}.")
    return Row(_AREA, name, Verdict.FINE, text)


def _busy(facts: Facts) -> Row:
    name, cpu = "load", facts.cpu
    if cpu.notes:
        remedy = "Measure when it is quiet: bench gives no ratios on a busy machine."
        return Row(_AREA, name, Verdict.WARNING, " ".join(cpu.notes), remedy)
    if cpu.trouble is not None:
        return troubled(_AREA, name, cpu.trouble, "Times of bench may be longer than they could be.")
    return Row(_AREA, name, Verdict.FINE, "Nothing was seen that makes times longer.")


def _int8(facts: Facts) -> Row:
    """Only what was tried is said: a CPU's flags do not tell what a library makes of them."""
    name = "8-bit sums"
    tried = {
        "ONNX Runtime": facts.onnxruntime.saturates if facts.onnxruntime else None,
        "OpenVINO": facts.openvino.saturates if facts.openvino else None,
    }
    lossy = [runtime for runtime, saturates in tried.items() if saturates]
    exact = [runtime for runtime, saturates in tried.items() if saturates is False]
    if lossy:
        finding = (
            f"Measured in {' and '.join(lossy)}: they lose what does not fit in 16 bits, as on CPUs without VNNI. "
            + " ".join(_LOSSY[runtime] for runtime in lossy)
            + (f" Nothing is lost in {exact[0]}." if exact else "")
        )
        remedy = "Run INT8 on a CPU with VNNI, or on a GPU; here float32 is as fast. See docs/cpu.md."
        return Row(_AREA, name, Verdict.WARNING, finding, remedy)
    if exact:
        return Row(_AREA, name, Verdict.FINE, f"Nothing is lost (measured in {' and '.join(exact)}).")
    return Row(_AREA, name, Verdict.ABSENT, "Not measured: neither ONNX Runtime nor OpenVINO could be tried.")


def _folder(name: str, folder: FolderFacts, remedy: str) -> Row:
    if folder.trouble is not None and folder.writable is None:
        return troubled(_AREA, name, folder.trouble, remedy)
    free = "" if folder.free is None else f", {gib(folder.free)} free"
    size = "" if folder.size is None else f", {gib(folder.size)} in it" if folder.size else ", empty"
    text = f"{folder.path}{size}{free}"
    if not folder.writable:
        why = folder.why or "no reason was given"
        return Row(_AREA, name, Verdict.WARNING, f"{text}. It cannot be written to: {why}.", remedy)
    if folder.free is not None and folder.free < FULL:
        return Row(_AREA, name, Verdict.BROKEN, f"{text}. The disk is full.", f"Free some space. {remedy}")
    if folder.free is not None and folder.free < SCARCE:
        finding = f"{text}. A release with engines and calibration takes more than that."
        return Row(_AREA, name, Verdict.WARNING, finding, f"Free some space. {remedy}")
    return Row(_AREA, name, Verdict.FINE, f"{text}{'' if folder.exists else '; it is made when it is needed'}")


def _cache(facts: Facts) -> Row:
    name, remedy = "cache", f"Set {_CACHE_VARIABLE} to another folder."
    if facts.cache_setting:
        finding = facts.cache_setting
        return Row(_AREA, name, Verdict.BROKEN, finding, "Correct or unset that variable; downloads are refused.")
    return _folder(name, facts.cache, remedy)
