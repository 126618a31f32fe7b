"""Looks at this machine: what can be read at once is read here, what may crash or hang in child processes."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import time
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rtmo_deploy._version import __version__
from rtmo_deploy.measure.doctor.children import COMMAND, Answer, Children
from rtmo_deploy.measure.doctor.facts import Facts
from rtmo_deploy.measure.doctor.packages import EXTRAS, ONNXRUNTIMES, OPENCVS, PROJECT, REQUIRED, normalised
from rtmo_deploy.measure.doctor.parts import (
    BindingsFacts,
    CpuFacts,
    DriverFacts,
    FolderFacts,
    GpuFacts,
    OpenvinoFacts,
    OrtFacts,
    PackageFacts,
    ProviderFacts,
    PythonFacts,
    TorchFacts,
    Trouble,
    TrtFacts,
)
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

#: Seconds that each look may take.
TIMEOUT_S = 60.0
_MODULES = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}
#: Providers that run on this machine. Others reach over a network, or want a device of their own to be set up.
SAFE_PROVIDERS = frozenset(
    f"{name}ExecutionProvider"
    for name in (
        "CPU",
        "CUDA",
        "Tensorrt",
        "NvTensorRTRTX",
        "OpenVINO",
        "Dml",
        "CoreML",
        "ROCM",
        "MIGraphX",
        "Dnnl",
        "XNNPACK",
    )
)
_NAMES = {
    "machine": "the processor",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "packages": "required packages",
    "bindings": "cuda-bindings",
    "driver": "the CUDA driver",
    "working": "the working directory",
    "cache": "the cache",
}

_Part = TypeVar("_Part")


def collect(
    *,
    timeout: float = TIMEOUT_S,
    progress: Callable[[str], None] = lambda _: None,
    command: Sequence[str] = COMMAND,
) -> Facts:
    """Look at this machine.

    Args:
        timeout: Seconds that each look may take.
        progress: Told what is being looked at.
        command: What looks run as; another one in tests.
    """
    started = time.monotonic()
    distributions = _distributions()
    installed = {name: _is_installed(module) for name, module in _MODULES.items()}
    answers: dict[str, Answer] = {}

    def gather(children: Children) -> None:
        progress(_doing(answers, children.labels))
        for label, answer in children.answers():
            answers[label] = answer
            if label == "onnxruntime":
                for name in answer.facts.get("providers", ()):
                    if name in SAFE_PROVIDERS:
                        children.add(name, "provider", name)
            progress(_doing(answers, children.labels))

    # Alone and first: the looks after it make the machine busy themselves.
    with Children(timeout, 1, command) as children:
        children.add("machine", "machine")
        gather(children)
    with Children(timeout, max(2, os.cpu_count() or 1), command) as children:
        for name in ("torch", "openvino", "onnxruntime"):
            if installed[name]:
                children.add(name, name)
        for name in ("tensorrt-rtx", "tensorrt"):
            if installed[name]:
                children.add(name, "trt", name)
        if "cuda-bindings" in distributions:
            children.add("bindings", "bindings")
        for name in ("packages", "driver", "working", "cache"):
            children.add(name, name)
        gather(children)
    return _facts(answers, distributions, installed, time.monotonic() - started)


def _facts(
    answers: Mapping[str, Answer],
    distributions: Mapping[str, str],
    installed: Mapping[str, bool],
    seconds: float,
) -> Facts:
    def part(kind: type[_Part], name: str) -> _Part | None:
        return _build(kind, answers[name]) if name in answers else None

    packages, driver, cache = answers["packages"], answers["driver"], answers["cache"]
    listed = answers["onnxruntime"].facts.get("providers", ()) if "onnxruntime" in answers else ()
    return Facts(
        python=_python(),
        package=PackageFacts(__version__, distributions.get(PROJECT), str(Path(__file__).resolve().parents[2])),
        distributions=distributions,
        imports=packages.facts.get("imports", {}),
        imports_trouble=packages.trouble,
        kernel_file=packages.facts.get("kernel_file", ""),
        cache_setting=cache.facts.get("setting", ""),
        shells=_shells(distributions, installed),
        torch=part(TorchFacts, "torch"),
        onnxruntime=part(OrtFacts, "onnxruntime"),
        providers=tuple(_provider(name, answers.get(name)) for name in listed),
        openvino=part(OpenvinoFacts, "openvino"),
        tensorrt=part(TrtFacts, "tensorrt"),
        tensorrt_rtx=part(TrtFacts, "tensorrt-rtx"),
        driver=_driver(driver),
        nvidia_card=driver.facts.get("card"),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        bindings=part(BindingsFacts, "bindings"),
        cpu=_build(CpuFacts, answers["machine"]),
        working=_build(FolderFacts, answers["working"]),
        cache=_build(FolderFacts, cache),
        seconds=seconds,
    )


def _build(kind: type[_Part], answer: Answer, **more: Any) -> _Part:
    """Facts of one kind from what a look told; what it left out is not known."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    told = {name: tuple(v) if isinstance(v, list) else v for name, v in answer.facts.items() if name in known}
    if "trouble" in known:
        told["trouble"] = answer.trouble
    return kind(**{**told, **more})


def _driver(answer: Answer) -> DriverFacts | None:
    if not answer.facts.get("there") and answer.trouble is None:
        return None
    gpus = tuple(
        GpuFacts(**{**gpu, "capability": (gpu["capability"][0], gpu["capability"][1])})
        for gpu in answer.facts.get("gpus", ())
    )
    return _build(DriverFacts, answer, gpus=gpus)


def _provider(name: str, answer: Answer | None) -> ProviderFacts:
    if answer is None:
        return ProviderFacts(name)
    why = answer.facts.get("why") or _reason(answer.said)
    usable, trouble = answer.facts.get("usable"), answer.trouble
    return ProviderFacts(name, usable, "" if usable else why or _text(trouble), trouble)


def _text(trouble: Trouble | None) -> str:
    return "" if trouble is None else trouble.text


def _reason(said: str) -> str:
    """What ONNX Runtime printed of why a provider could not be made: the end of its first error, without its place."""
    lines = [line for line in said.splitlines() if re.search(r"\[[EF]:onnxruntime", line)] or said.splitlines()[-1:]
    if not lines:
        return ""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    text = re.sub(r"^\S+ \S+ \[[EWF]:onnxruntime:[^]]*\] ", "", text)
    return re.sub(r"(?:\S*/)+(lib\S+)", r"\1", text)


def _python() -> PythonFacts:
    return PythonFacts(
        tuple(sys.version_info[:3]),
        platform.python_implementation(),
        64 if sys.maxsize > 2**32 else 32,
        sys.executable,
        f"{platform.system()} {platform.release()}",
        platform.machine(),
    )


def _distributions() -> dict[str, str]:
    """What pip has installed, as far as it matters here."""
    wanted = {normalised(re.split(r"[\[><=]", line)[0]) for line in REQUIRED}
    wanted |= {normalised(re.split(r"[\[><=]", line)[0]) for extra in EXTRAS.values() for line in extra.requirements}
    wanted |= {*ONNXRUNTIMES, *OPENCVS, PROJECT}
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = normalised(_name_of(distribution))
        if name in wanted or name.startswith(("nvidia-cu", "nvidia-cudnn", "tensorrt")):
            found.setdefault(name, str(distribution.version))
    return dict(sorted(found.items()))


def _name_of(distribution: metadata.Distribution) -> str:
    """Its name; empty for what a broken installation leaves behind."""
    try:
        return distribution.metadata["Name"] or ""
    except KeyError:
        return ""


def _is_installed(module: str) -> bool:
    """Whether a module is there, without importing it. A folder of nothing but type stubs has no origin."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # something stands in its place that was not imported
        return False
    return spec is not None and spec.origin is not None


def _shells(distributions: Mapping[str, str], installed: Mapping[str, bool]) -> tuple[str, ...]:
    names = {"torch": ("torch",), "onnxruntime": ONNXRUNTIMES, "openvino": ("openvino",)}
    names |= {"tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")}
    names |= {"tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13")}
    return tuple(name for key, group in names.items() if not installed[key] for name in group if name in distributions)


def _doing(answers: Collection[str], labels: Sequence[str]) -> Count:
    names = [_NAMES.get(label, label.removesuffix("ExecutionProvider") + " in ONNX Runtime") for label in labels]
    return Count("checks done", len(answers), None, ", ".join(names))
