"""Every module can be imported without the packages that are needed only for a part of the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rtmo_deploy

PACKAGE = Path(rtmo_deploy.__file__).parent
#: Import names of the optional packages; those of other tools must never be needed at all.
OPTIONAL = (
    *("onnxruntime", "tensorrt_rtx", "tensorrt", "cuda", "openvino", "matplotlib", "pynvml", "rtmlib"),
    *("fastapi", "starlette", "uvicorn", "websockets", "multipart", "prometheus_client", "ray", "pyarrow"),
    *("model_signing", "sigstore", "in_toto_attestation", "cryptography", "OpenSSL"),
)
#: Required ones that take long to import: only the work itself may do so.
LAZY = ("supervision", "onnxsim", "requests", "platformdirs", "filelock", "rich.progress", "PIL")


def modules():
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def import_all(blocked):
    code = (
        "import importlib, sys\n"
        f"for name in {list(blocked)!r}: sys.modules[name] = None\n"
        f"for name in {modules()!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: sys.exit(f'{name}: {error}')\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )


def test_there_are_modules_to_import():
    assert {"rtmo_deploy", "rtmo_deploy.cli.app", "rtmo_deploy.runtime.onnxruntime_backend"} <= set(modules())


@pytest.mark.parametrize("packages", [OPTIONAL, LAZY], ids=["optional", "late"])
def test_without_packages_that_a_part_of_the_work_needs(packages):
    done = import_all(packages)
    assert done.returncode == 0, done.stderr


def test_the_blocking_works():
    done = import_all(["torch"])
    assert done.returncode == 1
    assert "torch" in done.stderr


def test_public_names_are_there():
    for name in rtmo_deploy.__all__:
        assert getattr(rtmo_deploy, name) is not None
    lazy = {name for names in rtmo_deploy._MODULES.values() for name in names}
    assert lazy | {"__version__"} == set(rtmo_deploy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rtmo_deploy.nothing
    code = "import sys, rtmo_deploy; sys.exit(bool({'torch', 'numpy', 'onnx', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent).returncode == 0
