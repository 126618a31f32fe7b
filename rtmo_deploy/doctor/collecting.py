"""Finds out about this machine: what can be read at once is read here, what may crash or hang in child processes."""

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

from packaging.utils import canonicalize_name

from rtmo_deploy._version import __version__
from rtmo_deploy.doctor.children import COMMAND, Answer, Children
from rtmo_deploy.doctor.facts import Driver, Facts, Folder, Gpu, Processor, Software
from rtmo_deploy.doctor.requirements import EXTRAS, ONNXRUNTIMES, OPENCVS, PROJECT, requirements
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

#: Seconds that each probe may take.
TIMEOUT_S = 60.0
#: Providers that run on this machine. Others reach over a network, or want a device of their own to be set up.
_LOCAL = (
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
SAFE_PROVIDERS = frozenset(f"{name}ExecutionProvider" for name in _LOCAL)
#: Distributions that bring each piece of software whose module (the name with underscores) is probed if it is there.
_SOFTWARE = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnxruntime": ONNXRUNTIMES,
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}
#: What each probe is about, as progress shows it.
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
    """Probe this machine.

    Args:
        timeout: Seconds that each probe may take.
        progress: Told what is being probed.
        command: What probes run as; another one in tests.
    """
    started = time.monotonic()
    distributions = _distributions()
    installed = {name: _is_installed(name.replace("-", "_")) for name in _SOFTWARE}
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

    # Alone and first: the probes after it make the machine busy themselves.
    with Children(timeout, 1, command) as children:
        children.add("machine", "machine")
        gather(children)
    with Children(timeout, max(2, os.cpu_count() or 1), command) as children:
        for name in _SOFTWARE:
            if installed[name]:
                children.add(name, *(("trt", name) if name.startswith("tensorrt") else (name,)))
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
    def software(name: str) -> Software | None:
        return _build(Software, answers[name]) if name in answers else None

    packages, driver, cache = answers["packages"], answers["driver"], answers["cache"]
    listed = answers["onnxruntime"].facts.get("providers", ()) if "onnxruntime" in answers else ()
    gone = [name for software, names in _SOFTWARE.items() if not installed[software] for name in names]
    return Facts(
        python={
            "version": tuple(sys.version_info[:3]),
            "implementation": platform.python_implementation(),
            "bits": 64 if sys.maxsize > 2**32 else 32,
            "executable": sys.executable,
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
        },
        package={
            "version": __version__,
            "recorded": distributions.get(PROJECT),
            "folder": str(Path(__file__).resolve().parents[1]),
        },
        distributions=distributions,
        imports=packages.facts.get("imports", {}),
        imports_trouble=packages.trouble,
        kernel_file=packages.facts.get("kernel_file", ""),
        cache_setting=cache.facts.get("setting", ""),
        shells=tuple(name for name in gone if name in distributions),
        torch=software("torch"),
        onnxruntime=software("onnxruntime"),
        providers=tuple(_provider(name, answers.get(name)) for name in listed),
        openvino=software("openvino"),
        tensorrt=software("tensorrt"),
        tensorrt_rtx=software("tensorrt-rtx"),
        driver=_driver(driver),
        nvidia_card=driver.facts.get("card"),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        bindings=software("bindings"),
        cpu=_build(Processor, answers["machine"]),
        working=_build(Folder, answers["working"]),
        cache=_build(Folder, cache),
        seconds=seconds,
    )


def _build(kind: type[_Part], answer: Answer, **more: Any) -> _Part:
    """Facts of one kind from the answer of a probe; what it left out is not known."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    told = {name: tuple(v) if isinstance(v, list) else v for name, v in answer.facts.items() if name in known}
    return kind(**{**told, "trouble": answer.trouble, **more})


def _driver(answer: Answer) -> Driver | None:
    if not answer.facts.get("there") and answer.trouble is None:
        return None
    gpus = [Gpu(**{**gpu, "capability": tuple(gpu["capability"])}) for gpu in answer.facts.get("gpus", ())]
    return _build(Driver, answer, gpus=tuple(gpus))


def _provider(name: str, answer: Answer | None) -> Software:
    if answer is None:
        return Software(name=name)
    usable, trouble = answer.facts.get("usable"), answer.trouble
    why = answer.facts.get("why") or _reason(answer.said) or (trouble.text if trouble else "")
    return Software(name=name, usable=usable, why="" if usable else why, trouble=trouble)


def _reason(said: str) -> str:
    """What ONNX Runtime printed of why a provider could not be made: the end of its first error, without its place."""
    lines = [line for line in said.splitlines() if re.search(r"\[[EF]:onnxruntime", line)] or said.splitlines()[-1:]
    if not lines:
        return ""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    text = re.sub(r"^\S+ \S+ \[[EWF]:onnxruntime:[^]]*\] ", "", text)
    return re.sub(r"(?:\S*/)+(lib\S+)", r"\1", text)


def _distributions() -> dict[str, str]:
    """What pip has installed, as far as it matters here."""
    wanted = {canonicalize_name(one.name) for extra in ("", *EXTRAS) for one in requirements(extra)}
    wanted |= {*ONNXRUNTIMES, *OPENCVS, PROJECT}
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        try:
            name = canonicalize_name(distribution.metadata["Name"] or "")
        except KeyError:  # what a broken installation leaves behind
            continue
        if name in wanted or name.startswith(("nvidia-cu", "nvidia-cudnn", "tensorrt")):
            found.setdefault(name, str(distribution.version))
    return dict(sorted(found.items()))


def _is_installed(module: str) -> bool:
    """Whether a module is there, without importing it. A folder of nothing but type stubs has no origin."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # something stands in its place that was not imported
        return False
    return spec is not None and spec.origin is not None


def _doing(answers: Collection[str], labels: Sequence[str]) -> Count:
    names = [_NAMES.get(label, label.removesuffix("ExecutionProvider") + " in ONNX Runtime") for label in labels]
    return Count("checks done", len(answers), None, ", ".join(names))
