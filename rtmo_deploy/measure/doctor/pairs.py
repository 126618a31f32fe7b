"""Known bad pairs: two things that work, each by itself, and not together.

Each rule sees the facts alone. What was tried out and did work is believed over a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.cuda_pairs import CUDA_RULES
from rtmo_deploy.measure.doctor.packages import ONNXRUNTIMES, OPENCVS, install_line
from rtmo_deploy.measure.doctor.report import Row, Verdict
from rtmo_deploy.measure.doctor.words import bad_pair, dotted
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, gpu_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.doctor.facts import Facts

_AREA = "pairs"


def pairs_rows(facts: Facts) -> list[Row]:
    """A row for each bad pair that is there; one that says so if there is none."""
    rows = [row for rule in RULES for row in rule(facts)]
    return rows or [Row(_AREA, "known bad pairs", Verdict.FINE, f"None of the {len(RULES)} kinds was found.")]


def _two_onnxruntimes(facts: Facts) -> list[Row]:
    found = [name for name in ONNXRUNTIMES if name in facts.distributions]
    if len(found) < 2:
        return []
    finding = f"{' and '.join(found)} share one module: what was installed last has overwritten the other."
    extra = "gpu" if facts.gpus and "onnxruntime-gpu" in found else "cpu"
    remedy = f"pip uninstall -y {' '.join(found)} && {install_line(extra)}"
    return [bad_pair("ONNX Runtime, twice", finding, remedy)]


def _two_opencvs(facts: Facts) -> list[Row]:
    found = [name for name in OPENCVS if name in facts.distributions]
    if len(found) < 2:
        return []
    finding = f"{' and '.join(found)} share one module: what was installed last has overwritten the other."
    remedy = f"pip uninstall -y {' '.join(found)} && pip install 'opencv-python-headless>=4.10,<5'"
    return [bad_pair("OpenCV, twice", finding, remedy, broken=False)]


def _tensorrt_and_gpu(facts: Facts) -> list[Row]:
    rows = []
    for name, installed in (("tensorrt", facts.tensorrt), ("tensorrt-rtx", facts.tensorrt_rtx)):
        if installed is None or installed.version is None:
            continue
        variant = TRT_VARIANTS[name]
        problems = [
            (gpu, gpu_problem(variant, installed.version, gpu.name, dotted(gpu.capability))) for gpu in facts.gpus
        ]
        # TensorRT that fits one GPU of several is not broken, nor is one that builds for other machines.
        useless = all(problem for _, problem in problems) and not variant.builds_without_gpu
        title = "TensorRT" if name == "tensorrt" else "TensorRT-RTX"
        rows += [
            bad_pair(f"{title} and cuda:{gpu.index}", problem.finding, problem.remedy, broken=useless)
            for gpu, problem in problems
            if problem
        ]
    return rows


RULES: tuple[Callable[[Facts], list[Row]], ...] = (
    _two_onnxruntimes,
    _two_opencvs,
    _tensorrt_and_gpu,
    *CUDA_RULES,
)
