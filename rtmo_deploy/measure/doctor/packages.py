"""What this project needs and what its extras bring, as in ``pyproject.toml``; a test compares the two.

The record of an installation would say the same, but there is none where the package is run from a checkout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rtmo_deploy.errors import MissingDependencyError
from rtmo_deploy.measure.doctor.parts import release_of

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = "rtmo-deploy"
#: Oldest and newest Python that the tests run on.
TESTED_PYTHON = ((3, 11), (3, 13))

REQUIRED = (
    "numpy>=1.26",
    "torch>=2.6,<2.14",
    "onnx>=1.16",
    "onnxsim>=0.4.36",
    "ml-dtypes>=0.4",
    "opencv-python-headless>=4.10,<5",
    "typer>=0.26",
    "rich>=13.7",
    "platformdirs>=4",
    "requests>=2.31",
    "filelock>=3.12",
    "safetensors>=0.4",
    "supervision>=0.30",
    "faster-coco-eval>=1.8",
    "pillow>=11.3",
    "pydantic>=2.7",
    "pyyaml>=6",
)


@dataclass(frozen=True)
class Extra:
    """An extra.

    Attributes:
        purpose: What it is for, in a few words.
        requirements: What it brings.
        nvidia: It is of no use without a GPU of NVIDIA.
    """

    purpose: str
    requirements: tuple[str, ...]
    nvidia: bool = False


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "cpu": Extra("ONNX models on the CPU", ("onnxruntime>=1.18",)),
        "gpu": Extra("ONNX models on a GPU", ("onnxruntime-gpu>=1.18", "nvidia-ml-py>=12"), nvidia=True),
        "trt": Extra("TensorRT engines", ("tensorrt>=10", "cuda-bindings>=12.6"), nvidia=True),
        "trt-rtx": Extra("TensorRT-RTX engines", ("tensorrt-rtx-cu12>=1.1", "cuda-bindings>=12.6")),
        "openvino": Extra("OpenVINO as a runtime", ("openvino>=2025.0",)),
        "pycuda": Extra("arrays of PyCUDA as input of engines", ("pycuda>=2024.1",), nvidia=True),
        "polygraphy": Extra("looking into engines with Polygraphy", ("polygraphy>=0.49",)),
        "train": Extra("curves and TensorBoard in trainings", ("matplotlib>=3.8", "tensorboard>=2.16")),
        "test": Extra(
            "this project's tests",
            (
                "rtmo-deploy[train,polygraphy]",
                "pytest>=8",
                "pytest-timeout>=2.3",
                "pytest-xdist>=3.6",
                "hypothesis>=6.100",
                "hatchling>=1.25",
            ),
        ),
        "dev": Extra(
            "changing this project",
            ("ruff>=0.14", "mypy>=1.18", "types-protobuf", "types-requests", "types-pyyaml"),
        ),
    }
)

#: Distributions that all bring the module ``onnxruntime``.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-rocm",
    "ort-nightly",
    "ort-nightly-gpu",
)
#: Distributions that all bring the module ``cv2``.
OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

#: Other distributions that bring the same module, and serve as well.
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnxruntime": ONNXRUNTIMES[2:],
        "onnxruntime-gpu": ("ort-nightly-gpu",),
        "opencv-python-headless": OPENCVS,
        "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
        "tensorrt-rtx-cu12": ("tensorrt-rtx", "tensorrt-rtx-cu13"),
    }
)


@dataclass(frozen=True)
class Shortfall:
    """How an installation falls short of requirements.

    Attributes:
        missing: Names of what is not installed.
        outside: What is installed and is not of the versions asked for, in words.
        present: How many requirements something is installed for.
    """

    missing: tuple[str, ...]
    outside: tuple[str, ...]
    present: int


def normalised(name: str) -> str:
    """The name of a distribution as pip compares it: ``tensorrt_cu12`` -> ``tensorrt-cu12``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install_line(extra: str) -> str:
    """The command that installs an extra, as every error of this project has it."""
    return MissingDependencyError(PROJECT, purpose="This", extra=extra).remedy.partition(": ")[2]


def shortfall(requirements: tuple[str, ...], distributions: Mapping[str, str]) -> Shortfall:
    """Compare requirements with what is installed.

    Args:
        requirements: As in ``torch>=2.6,<2.14``; one that names an extra (``x[y]``) is left out.
        distributions: Version by normalised name.
    """
    missing, outside, present = [], [], 0
    for requirement in requirements:
        name, bounds = _parsed(requirement)
        if "[" in name:
            continue
        found = next((other for other in (name, *_ALTERNATIVES.get(name, ())) if other in distributions), None)
        if found is None:
            missing.append(name)
            continue
        present += 1
        if not _within(distributions[found], bounds):
            outside.append(f"{found} is {distributions[found]}, not {requirement[len(name) :]}")
    return Shortfall(tuple(missing), tuple(outside), present)


def _parsed(requirement: str) -> tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    """``torch>=2.6,<2.14`` -> ``torch`` and ((">=", (2, 6)), ("<", (2, 14)))."""
    found = re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?", requirement)
    name = found[0] if found else requirement
    bounds = re.findall(r"(>=|<)\s*([0-9.]+)", requirement[len(name) :])
    return name, tuple((sign, release_of(version)) for sign, version in bounds)


def _within(version: str, bounds: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether a version keeps its bounds; one without numbers does."""
    release = release_of(version)
    if not release:
        return True
    width = max([len(release), *(len(bound) for _, bound in bounds)])
    padded = release + (0,) * (width - len(release))
    for sign, bound in bounds:
        full = bound + (0,) * (width - len(bound))
        if (padded < full) if sign == ">=" else (padded >= full):
            return False
    return True
