"""Collects the facts of this machine: what may crash or hang is probed in child processes, several at a time."""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.utils import canonicalize_name

from rtmo_deploy._version import __version__
from rtmo_deploy.child import Child, exit_name, python_command
from rtmo_deploy.doctor.facts import Driver, Facts, Folder, Gpu, Processor, Software, Trouble
from rtmo_deploy.doctor.requirements import EXTRAS, PROJECT, requirements
from rtmo_deploy.errors import SetupError
from rtmo_deploy.packages import ONNXRUNTIMES, OPENCVS, is_whole
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    #: Facts of a probe, with ``trouble`` and ``stderr``.
    Answer = dict[str, Any]

#: A probe is run as a file, so that it starts whatever else is broken.
COMMAND = python_command(str(Path(__file__).with_name("probes.py")))
#: Seconds that each probe may take.
TIMEOUT_S = 60.0
#: Providers that run on this machine. Others reach over a network, or need a device of their own to be set up.
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
    installed = {name: is_whole(name.replace("-", "_")) for name in _SOFTWARE}
    probes = {name: ("trt", name) if name.startswith("tensorrt") else (name,) for name in _SOFTWARE if installed[name]}
    if "cuda-bindings" in distributions:
        probes["bindings"] = ("bindings",)
    probes |= {name: (name,) for name in ("packages", "driver", "working", "cache")}
    # Alone and first: the probes after it make the machine busy themselves.
    answers = run_probes({"machine": ("machine",)}, {}, 1, timeout, progress, command)
    answers = run_probes(probes, answers, max(2, os.cpu_count() or 1), timeout, progress, command)
    absent = [name for software, names in _SOFTWARE.items() if not installed[software] for name in names]
    return _facts(
        answers,
        distributions=distributions,
        shells=tuple(name for name in absent if name in distributions),
        seconds=time.monotonic() - started,
    )


def run_probes(
    probes: Mapping[str, Sequence[str]],
    answers: Mapping[str, Answer],
    at_once: int,
    timeout: float,
    progress: Callable[[str], None],
    command: Sequence[str] = COMMAND,
) -> dict[str, Answer]:
    """The answers so far and those of more probes, by label; ONNX Runtime's providers are probed after it."""
    answers = dict(answers)
    running: list[Child] = []
    stopped = threading.Event()

    def probe(arguments: Sequence[str]) -> Answer:
        try:
            child = Child([*command, *arguments])
        except SetupError as error:
            return {"trouble": Trouble("failed", error.finding), "stderr": ""}
        running.append(child)
        if stopped.is_set():
            child.kill()
        return _answer(child, timeout)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            futures = {pool.submit(probe, arguments): label for label, arguments in probes.items()}
            while futures:
                progress(_doing(len(answers), list(futures.values())[:at_once]))
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    label = futures.pop(future)
                    answers[label] = future.result()
                    if label == "onnxruntime":
                        listed = answers[label].get("providers", ())
                        providers = [name for name in listed if name in SAFE_PROVIDERS]
                        futures |= {pool.submit(probe, ("provider", name)): name for name in providers}
            progress(_doing(len(answers), ()))
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running:
                child.kill()
    return answers


def _answer(child: Child, timeout: float) -> Answer:
    facts: Answer = {}
    trouble = None
    with child:
        try:
            for message in child.messages(timeout):
                facts.update(message)
        except TimeoutError:
            child.kill()
            trouble = Trouble("slow", f"It did not answer within {timeout:g} s and was stopped.")
        code, stderr = child.exit(), child.printed()
    failed, finished = facts.pop("failed", None), facts.pop("ended", False)
    if trouble is None and failed is not None:
        trouble = Trouble("failed", _sentence(str(failed)))
    elif trouble is None and (not finished or code):
        last = stderr.splitlines()[-1:]
        text = f"It crashed ({exit_name(code)})" + (f"; its last output: {last[0]}" if last else "")
        trouble = Trouble("crashed", _sentence(text))
    return {**facts, "trouble": trouble, "stderr": stderr}


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _doing(done: int, labels: Sequence[str]) -> Count:
    names = [_NAMES.get(label, label.removesuffix("ExecutionProvider") + " in ONNX Runtime") for label in labels]
    return Count("checks done", done, None, ", ".join(names))


def _facts(answers: Mapping[str, Answer], **more: Any) -> Facts:
    def software(name: str) -> Software | None:
        return _build(Software, answers[name]) if name in answers else None

    packages, driver, cache = answers["packages"], answers["driver"], answers["cache"]
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
            "recorded": more["distributions"].get(PROJECT),
            "folder": str(Path(__file__).resolve().parents[1]),
        },
        imports=packages.get("imports", {}),
        imports_trouble=packages["trouble"],
        kernel_file=packages.get("kernel_file", ""),
        cache_setting=cache.get("setting", ""),
        torch=software("torch"),
        onnxruntime=software("onnxruntime"),
        providers=tuple(
            _provider(name, answers.get(name)) for name in answers.get("onnxruntime", {}).get("providers", ())
        ),
        openvino=software("openvino"),
        tensorrt=software("tensorrt"),
        tensorrt_rtx=software("tensorrt-rtx"),
        driver=_driver(driver),
        nvidia_card=driver.get("card"),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        bindings=software("bindings"),
        cpu=_build(Processor, answers["machine"]),
        working=_build(Folder, answers["working"]),
        cache=_build(Folder, cache),
        **more,
    )


def _build(kind: type[_Part], answer: Mapping[str, Any]) -> _Part:
    """Facts of one kind from the answer of a probe; what it left out is not known."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in answer.items() if name in known})


def _driver(answer: Answer) -> Driver | None:
    if not answer.get("there") and answer["trouble"] is None:
        return None
    return _build(Driver, {**answer, "gpus": [_build(Gpu, gpu) for gpu in answer.get("gpus", ())]})


def _provider(name: str, answer: Answer | None) -> Software:
    if answer is None:
        return Software(name=name)
    usable, trouble = answer.get("usable"), answer["trouble"]
    why = answer.get("why") or _reason(answer["stderr"]) or (trouble.text if trouble else "")
    return Software(name=name, usable=usable, why="" if usable else why, trouble=trouble)


def _reason(stderr: str) -> str:
    """Why ONNX Runtime could not make a provider: the end of the first error that it printed, without its place."""
    lines = [line for line in stderr.splitlines() if re.search(r"\[[EF]:onnxruntime", line)] or stderr.splitlines()[-1:]
    if not lines:
        return ""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    text = re.sub(r"^\S+ \S+ \[[EWF]:onnxruntime:[^]]*\] ", "", text)
    return re.sub(r"(?:\S*/)+(lib\S+)", r"\1", text)


def _distributions() -> dict[str, str]:
    """What pip has installed, as far as it matters here."""
    required = {canonicalize_name(one.name) for extra in ("", *EXTRAS) for one in requirements(extra)}
    wanted = {*required, *ONNXRUNTIMES, *OPENCVS, PROJECT}
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        try:
            name = canonicalize_name(distribution.metadata["Name"] or "")
        except KeyError:  # what a broken installation leaves behind
            continue
        if name in wanted or name.startswith(("nvidia-cu", "nvidia-cudnn", "tensorrt")):
            found.setdefault(name, str(distribution.version))
    return dict(sorted(found.items()))
