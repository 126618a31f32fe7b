"""What this project and its extras require, and how an environment falls short of it."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from rtmo_deploy.errors import MissingDependencyError, SetupError
from rtmo_deploy.packages import ONNXRUNTIMES, OPENCVS, broken_onnxruntime, broken_opencv, installed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROJECT = "rtmo-deploy"
#: Oldest and newest Python that the tests run on.
TESTED_PYTHON = ((3, 11), (3, 13))
#: What each extra is for.
EXTRAS = {
    "cpu": "ONNX models on the CPU",
    "gpu": "ONNX models on a GPU",
    "trt": "TensorRT engines",
    "trt-rtx": "TensorRT-RTX engines",
    "openvino": "OpenVINO as a runtime",
    "pycuda": "arrays of PyCUDA as input of engines",
    "polygraphy": "looking into engines with Polygraphy",
    "video": "videos, cameras and network streams",
    "table": "data frames of polars, Parquet files",
    "pandas": "data frames of pandas",
    "serve": "the HTTP server",
    "ray": "many images on one machine or a cluster",
    "sign": "signatures of releases",
    "docs": "the pages of this documentation",
    "train": "curves and TensorBoard in trainings",
    "test": "this project's tests",
    "dev": "changing this project",
}
#: Extras of no use without an NVIDIA GPU.
NVIDIA_EXTRAS = frozenset({"gpu", "trt", "pycuda"})
#: Other distributions that bring the same module, and serve as well.
_ALTERNATIVES = {
    "onnxruntime": ONNXRUNTIMES[2:],
    "onnxruntime-gpu": ("ort-nightly-gpu",),
    "opencv-python-headless": OPENCVS,
    "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-rtx-cu12": ("tensorrt-rtx", "tensorrt-rtx-cu13"),
}


@cache
def requirements(extra: str = "") -> tuple[Requirement, ...]:
    """What an extra requires on this system; what the project itself requires if none is named.

    Taken from the record of the installation, or from ``pyproject.toml`` where a checkout runs without one.
    """
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        lines = _checkout_requires()
    every = [Requirement(line) for line in sorted(lines)]
    mine = [one for one in every if (one.marker is not None and "extra" in str(one.marker)) == bool(extra)]
    return tuple(one for one in mine if one.marker is None or one.marker.evaluate({"extra": extra}))


def _checkout_requires() -> list[str]:
    try:
        text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        project: dict[str, Any] = tomllib.loads(text)["project"]
    except (OSError, ValueError, KeyError):
        return []
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f"{line}; extra == '{extra}'" for extra, lines in extras for line in lines)]


def bounds_of(requirement: Requirement) -> str:
    """``>=2.6,<2.14``."""
    return ",".join(sorted(map(str, requirement.specifier), reverse=True))


def install_line(extra: str) -> str:
    """The command that installs an extra, as every error of this project has it."""
    return MissingDependencyError(PROJECT, purpose="This", extra=extra).remedy.partition(": ")[2]


def shortfall(wanted: Iterable[Requirement], distributions: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names of requirements that are not installed, and, in words, what has another version than is asked for."""
    missing: list[str] = []
    outside = []
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name == PROJECT:
            continue
        found = next((other for other in (name, *_ALTERNATIVES.get(name, ())) if other in distributions), None)
        if found is None:
            missing.append(name)
            continue
        # A nightly build counts as its release, and a version without numbers fits.
        release = ".".join(map(str, release_of(distributions[found])))
        if release and not requirement.specifier.contains(release, prereleases=True):
            outside.append(f"{found} is {distributions[found]}, not {bounds_of(requirement)}")
    return missing, outside


def unfit(error: Exception) -> SetupError | None:
    """The error of an environment in which something failed that is no error of this project; None if it is fit.

    Modules that were overwritten or removed in part, and required packages in versions that are not supported.
    """
    told = f"It failed with {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}."
    for broken in (broken_opencv(), broken_onnxruntime()):
        if broken is not None:
            return SetupError(f"{told} {broken.finding}", remedy=broken.remedy)
    wanted = requirements()
    names = [name for one in wanted for name in (canonicalize_name(one.name), *_ALTERNATIVES.get(one.name, ()))]
    missing, outside = shortfall(wanted, installed(tuple(dict.fromkeys(names))))
    if not missing and not outside:
        return None
    lost = [*(f"{name} is not installed" for name in missing), *outside]
    return SetupError(
        f"{told} In this environment {'; '.join(lost)}.",
        remedy=f"Install what is supported: {mend(wanted, missing, outside)}",
    )


def mend(wanted: Iterable[Requirement], missing: Iterable[str], outside: Iterable[str]) -> str:
    """The command that installs requirements named by :func:`shortfall`."""
    names = {*missing, *(line.partition(" ")[0] for line in outside)}
    fitting = [one for one in wanted if names & {canonicalize_name(one.name), *_ALTERNATIVES.get(one.name, ())}]
    lines = [f"'{one.name}{bounds_of(one)}'" for one in fitting]
    return f"pip install {' '.join(lines)}"


def release_of(version: str | None) -> tuple[int, ...]:
    """The numbers of a version: ``2.13.0+cu126`` -> (2, 13, 0); empty where there are none."""
    try:
        return Version(version or "").release
    except InvalidVersion:
        return ()
