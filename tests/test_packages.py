"""Two distributions with one module, modules whose files are gone, versions that are not supported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtmo_deploy import packages
from rtmo_deploy.errors import MissingDependencyError, SetupError


@pytest.fixture(autouse=True)
def fresh():
    packages.installed.cache_clear()
    yield
    packages.installed.cache_clear()


def record(folder, name, version):
    """What pip leaves of a distribution."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")


def module(folder, name, *, whole=True):
    (folder / name).mkdir()
    (folder / name / ("__init__.py" if whole else "left.txt")).touch()


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An environment that has only what is in this folder."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("onnxruntime", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)  # is put back, or taken out again, after the test
        del sys.modules[name]
    return tmp_path


@pytest.mark.parametrize("name", packages.ONNXRUNTIMES)
def test_each_onnxruntime_is_taken(alone, name):
    record(alone, name, "1.20.0")
    module(alone, "onnxruntime")
    packages.require_onnxruntime("Testing")


def test_two_are_refused_by_name(alone):
    record(alone, "onnxruntime", "1.20.0")
    record(alone, "onnxruntime-gpu", "1.20.0")
    module(alone, "onnxruntime")
    with pytest.raises(SetupError) as caught:
        packages.require_onnxruntime("Testing", "gpu")
    assert str(caught.value) == (
        "onnxruntime and onnxruntime-gpu are installed and share the module onnxruntime: what was installed last has "
        "overwritten the other. Keep one: pip uninstall -y onnxruntime onnxruntime-gpu && pip install "
        "'rtmo-deploy[gpu]'"
    )


def test_files_that_are_gone(alone):
    record(alone, "onnxruntime-openvino", "1.20.0")
    module(alone, "onnxruntime", whole=False)
    with pytest.raises(SetupError, match="record of onnxruntime-openvino is there") as caught:
        packages.require_onnxruntime("Testing")
    assert caught.value.remedy.endswith("pip install --force-reinstall --no-deps onnxruntime-openvino")


def test_a_folder_without_a_record(alone):
    module(alone, "onnxruntime", whole=False)
    with pytest.raises(SetupError, match=r"its folder is left.*pip install 'rtmo-deploy\[cpu\]'$"):
        packages.require_onnxruntime("Testing")


def test_none(alone):
    with pytest.raises(MissingDependencyError, match="Testing needs the package 'onnxruntime', which is not installed"):
        packages.require_onnxruntime("Testing")
    assert packages.broken_opencv() is None


@pytest.mark.parametrize(("why", "told"), [("DLL load\nfailed", "DLL load failed"), ("", "ImportError")])
def test_one_that_cannot_be_imported(alone, why, told):
    record(alone, "onnxruntime-gpu", "1.18.0")
    module(alone, "onnxruntime")
    (alone / "onnxruntime" / "__init__.py").write_text(f"raise ImportError({why!r})", encoding="utf-8")
    with pytest.raises(SetupError) as caught:
        packages.require_onnxruntime("Testing", "gpu")
    assert caught.value.finding == f"onnxruntime-gpu 1.18.0 cannot be imported ({told})."
    assert caught.value.remedy.endswith("--no-deps onnxruntime-gpu")


def test_a_record_without_content_is_none(alone):
    (alone / "onnxruntime_gpu-1.0.dist-info").mkdir()
    record(alone, "onnxruntime", "1.20.0")
    module(alone, "onnxruntime")
    packages.require_onnxruntime("Testing")


def test_two_opencvs(alone):
    record(alone, "opencv-python", "4.12.0")
    record(alone, "opencv-python-headless", "4.11.0")
    module(alone, "cv2")
    assert "share the module cv2" in packages.broken_opencv().finding


def run(folder, *arguments):
    """The command in an environment that has this folder first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).resolve().parent.parent)])}
    command = [sys.executable, "-m", "rtmo_deploy", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_command_says_it_in_a_sentence(tmp_path, onnx_n, pictures):
    record(tmp_path, "onnxruntime-gpu", "1.20.0")
    record(tmp_path, "onnxruntime", "1.20.0")
    done = run(tmp_path, "predict", onnx_n, pictures[0])
    assert done.returncode == 5
    assert "onnxruntime and onnxruntime-gpu are installed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("whole", [True, False])
def test_a_module_in_place_of_opencv(tmp_path, onnx_n, pictures, whole):
    """cv2 without its functions, as it is left when one of two distributions is removed."""
    module(tmp_path, "cv2", whole=whole)
    record(tmp_path, "opencv-python", "4.12.0")
    record(tmp_path, "opencv-python-headless", "4.12.0")
    done = run(tmp_path, "predict", onnx_n, pictures[0])
    if whole:
        assert done.returncode == 5
        assert "opencv-python and opencv-python-headless are installed" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    else:  # a folder without code gives way to a module further down the path
        assert done.returncode == 0


def test_a_version_that_is_not_supported(tmp_path, onnx_n, pictures):
    record(tmp_path, "numpy", "1.24.0")
    (tmp_path / "cv2.py").write_text("import numpy\nraise AttributeError('module numpy has no attribute new')\n")
    done = run(tmp_path, "predict", onnx_n, pictures[0])
    assert done.returncode == 5
    last = done.stderr.splitlines()[-1]
    assert "It failed with AttributeError: module numpy has no attribute new. In this environment numpy is" in last
    assert last.endswith("pip install 'numpy>=1.26'")


def test_a_python_that_is_too_old():
    code = "import sys; sys.version_info = (3, 10, 4); sys.version = '3.10.4 (main)'; import rtmo_deploy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ImportError: rtmo-deploy needs Python 3.11 or newer; this is Python 3.10.4."
