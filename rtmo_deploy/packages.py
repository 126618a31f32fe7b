"""Packages that share one Python module, and whether such a module is whole.

pip installs two distributions with the same module over each other: the files of the one installed last are left, and
removing either takes them away.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache

from rtmo_deploy.errors import MissingDependencyError, SetupError

#: Distributions that all bring the module ``onnxruntime``, and those that all bring ``cv2``.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    *(f"onnxruntime-{kind}" for kind in ("directml", "openvino", "qnn", "silicon", "training", "rocm")),
    "ort-nightly",
    "ort-nightly-gpu",
)
OPENCVS = tuple(f"opencv-{kind}" for kind in ("python", "python-headless", "contrib-python", "contrib-python-headless"))


@cache
def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Version by name of those distributions that pip has recorded."""
    from importlib import metadata

    found = {}
    for name in names:
        try:
            version: str | None = metadata.version(name)
        except (metadata.PackageNotFoundError, KeyError, OSError):  # what a broken installation leaves behind
            continue
        if version:
            found[name] = version
    return found


def is_whole(module: str) -> bool:
    """Whether a module can be found; of one whose files are gone, a folder without code may be left."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # something stands in its place that was not imported
        return False
    return spec is not None and spec.origin is not None


def require_onnxruntime(purpose: str, extra: str = "cpu") -> None:
    """Refuse an environment without an ONNX Runtime that can be imported, or with two.

    Args:
        purpose: Begins the sentence: "Running model.onnx".
        extra: The extra that installs it.

    Raises:
        MissingDependencyError: It is not installed.
        SetupError: Several distributions have overwritten each other, its files are gone, or it cannot be imported.
    """
    broken = broken_onnxruntime(extra)
    if broken is not None:
        raise broken
    if not is_whole("onnxruntime"):
        raise MissingDependencyError("onnxruntime", purpose=purpose, extra=extra)
    try:
        importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:  # built for another NumPy, or a system library is missing
        name, version = next(iter(installed(ONNXRUNTIMES).items()), ("onnxruntime", ""))
        raise SetupError(
            f"{name} {version} cannot be imported ({' '.join(str(error).split()) or type(error).__name__}).",
            remedy="'rtmo-deploy doctor' tells more. Install it anew: "
            f"pip install --upgrade --force-reinstall --no-deps {name}",
        ) from error


def broken_onnxruntime(extra: str = "cpu") -> SetupError | None:
    """Why ``onnxruntime`` is not as one distribution installed it; None if it is, or is not there at all."""
    return _broken("onnxruntime", ONNXRUNTIMES, f"'rtmo-deploy[{extra}]'")


def broken_opencv() -> SetupError | None:
    """Why ``cv2`` is not as one distribution installed it; None if it is, or is not there at all."""
    return _broken("cv2", OPENCVS, "'opencv-python-headless>=4.10,<5'")


def _broken(module: str, names: tuple[str, ...], wanted: str) -> SetupError | None:
    found = list(installed(names))
    listed = " and ".join(found)
    if len(found) > 1:
        return SetupError(
            f"{listed} are installed and share the module {module}: what was installed last has overwritten the other.",
            remedy=f"Keep one: pip uninstall -y {' '.join(found)} && pip install {wanted}",
        )
    blocked = sys.modules.get(module, module) is None  # Python's way to forbid an import
    if blocked or is_whole(module) or (not found and importlib.util.find_spec(module) is None):
        return None
    what = f"pip's record of {listed} is there" if found else "its folder is left"
    return SetupError(
        f"The files of the module {module} are gone, and {what}: that happens when one of two packages that share a "
        "module is removed.",
        remedy=f"Install it again: pip install --force-reinstall --no-deps {found[0]}"
        if found
        else f"Install it: pip install {wanted}",
    )
