"""What is shipped: its dependencies, its modules, and that nothing of the machine it was made on is in it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import rtmo_deploy
from rtmo_deploy.zoo import EMBEDDED

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rtmo_deploy"
#: Unwanted: the frameworks this project replaces, and what is under the AGPL.
BANNED = {
    "mmcv",
    "mmcv-full",
    "mmcv-lite",
    "mmengine",
    "mmpose",
    "mmdet",
    "mmdeploy",
    "ultralytics",
    "boxmot",
    "yolov5",
}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")
needs_hatchling = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="needs hatchling, the build backend"
)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def tracked():
    """Text files under version control."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    for name in done.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_dependencies():
    required = {name_of(line) for line in project()["dependencies"]}
    optional = {name_of(line) for lines in project()["optional-dependencies"].values() for line in lines}
    assert not BANNED & (required | optional)
    assert {"torch", "onnx", "numpy", "typer"} <= required
    # Two packages with one import name: only one of them may be installed, so neither is required.
    assert not {"onnxruntime", "onnxruntime-gpu"} & required
    assert "click" not in required | optional  # Typer brings its own


def test_the_extras_that_errors_name_exist():
    named = set()
    for path in modules():
        source = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"rtmo-deploy\[([a-z-]+)\]", source))
        named |= set(re.findall(r"extra=\"([a-z-]+)\"", source)) - {"forbid"}  # pydantic's word for something else
    from rtmo_deploy.runtime.backends import BACKENDS

    named |= {record.extra for record in BACKENDS}
    assert {"cpu", "gpu"} <= named <= set(project()["optional-dependencies"])


def test_every_import_is_a_dependency():
    distributions = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "google": "onnx",
        "yaml": "pyyaml",
        "cyclonedx": "cyclonedx-python-lib",
        "packageurl": "packageurl-python",
        "tensorrt_rtx": "tensorrt-rtx-cu12",
        "cuda": "cuda-bindings",
        "pynvml": "nvidia-ml-py",
    }
    optional = project()["optional-dependencies"]
    extras = [line for name in set(optional) - {"test", "dev"} for line in optional[name]]
    known = {name_of(line) for line in [*project()["dependencies"], *extras]}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names | {"rtmo_deploy"}:
                    assert name_of(distributions.get(top, top)) in known, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "_version.py"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_has_what_it_exports(path):
    module = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    exported = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    assert not [name for name in exported if not hasattr(module, name)]
    for name in exported:
        value = getattr(module, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__doc__, f"{name} has no docstring"
        for method, function in vars(value).items() if isinstance(value, type) else ():
            if not method.startswith("_") and callable(function):
                assert function.__doc__, f"{name}.{method} has no docstring"


def test_nothing_of_a_machine_is_in_the_files():
    machine = re.compile(r"(?<![\w.:/~-])/(?:work|home|root|Users)/\w|(?<![\w.:/])/tmp/\w")
    hosts = re.compile(r"pypi\.org/simple|pythonhosted|--index-url|registry\.npmjs")
    found = [
        f"{name}: {line.strip()}"
        for name, text in tracked()
        if name != "tests/test_package.py"
        for line in text.splitlines()
        if machine.search(line) or hosts.search(line)
    ]
    assert not found


@needs_hatchling
def test_the_wheel(tmp_path):
    build(tmp_path, "wheel")
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert f"rtmo_deploy-{rtmo_deploy.__version__}-py3-none-any.whl" == wheel.name
    expected = {path.relative_to(ROOT).as_posix() for path in modules()} | {"rtmo_deploy/py.typed"}
    for data in (
        "data/calibration_sets/*.json",
        "report/templates/*",
        "release/documents/templates/*",
        "*/plugins/rtmo_decode.*",
        "zoo/weights/*",
        "package/*/sources/*",
        "package/triton/templates/*",
        "web/assets/*",
    ):
        expected |= {path.relative_to(ROOT).as_posix() for path in PACKAGE.glob(data)}
    assert {name for name in names if name.startswith("rtmo_deploy/")} == expected
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert not others
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in names if name.endswith("dist-info/METADATA"))
        text = archive.read(metadata).decode()
        (entry,) = (name for name in names if name.endswith("dist-info/entry_points.txt"))
        assert "rtmo-deploy = rtmo_deploy.cli:main" in archive.read(entry).decode()
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in names)


@needs_hatchling
def test_the_sdist(tmp_path):
    build(tmp_path, "sdist")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    assert {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "mkdocs.yml",
        "rtmo_deploy/py.typed",
        "tests/golden.py",
        "docker/serve.Dockerfile",
        ".dockerignore",
        ".ci/run",
    } <= names
    made = {name for name in names if name.endswith((".pth", ".onnx", ".engine", ".pyc"))}
    assert made == {f"rtmo_deploy/zoo/weights/{name}.pth" for name in EMBEDDED}


def build(folder, target):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
