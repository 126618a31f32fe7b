"""The wheel in fresh environments: one for each extra, in which what the extra is for is used.

All environments share one folder with what the package itself requires, so that PyTorch is installed once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from rtmo_deploy.doctor.requirements import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
#: Bytes that the wheel and the source distribution may have.
LARGEST = 8 * 2**20

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout"),
]

FRAMES = """
import numpy as np
from rtmo_deploy.media.video_writer import VideoWriter
from rtmo_deploy import RTMO
with VideoWriter("two.mp4") as writer:
    for value in (80, 160):
        writer.write(np.full((96, 128, 3), value, np.uint8))
print(len(list(RTMO("model.onnx").stream("two.mp4"))))
"""
SERVE = """
import json, re, subprocess, sys, urllib.request
server = subprocess.Popen([sys.executable, "-m", "rtmo_deploy", "serve", "model.onnx", "--port", "0"],
    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    address = re.search(r"http://\\S+?:\\d+", server.stdout.readline())[0]
    with urllib.request.urlopen(address + "/predict", open("image.png", "rb").read(), timeout=60) as answer:
        json.load(answer)["people"]
finally:
    server.terminate()
sys.exit(server.wait(30))
"""
FRAME = """
from rtmo_deploy import RTMO
poses = RTMO("model.onnx")("image.png")
print(poses.to_dataframe("{}"))
"""
SIGN = """
import subprocess, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rtmo_deploy.release import verify_release
key = ec.generate_private_key(ec.SECP256R1())
Path("key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
Path("public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
Path("tiny.yaml").write_text("name: tiny\\nsource: rtmo-n\\nartifacts: {onnx: {make: export}}\\n")
subprocess.run([sys.executable, "-m", "rtmo_deploy", "release", "tiny.yaml", "--sign", "key.pem"], check=True)
verify_release("releases/tiny", key="public.pem").require_ok()
"""
PREDICT = "predict model.onnx image.png --json"
#: What is done with an extra: the other extras it needs, and commands or programs.
USES = {
    "cpu": ((), (PREDICT, "validate model.onnx")),
    "openvino": (("cpu",), ("export rtmo-n --format openvino -o ov.xml", "predict ov.xml image.png --json")),
    "trt-rtx": (
        ("cpu",),
        ("export rtmo-n --decode fixed -o fixed.onnx", "build-trt fixed.onnx --backend tensorrt-rtx --dry-run"),
    ),
    "polygraphy": ((), ("import polygraphy.comparator",)),
    "video": (("cpu",), (FRAMES,)),
    "table": (("cpu",), (FRAME.format("polars"), "predict model.onnx image.png --parquet people.parquet")),
    "pandas": (("cpu",), (FRAME.format("pandas"),)),
    "train": ((), ("import matplotlib.pyplot", "from torch.utils.tensorboard import SummaryWriter")),
    "serve": (("cpu",), (SERVE,)),
    "ray": (("cpu",), ("predict model.onnx image.png --engine ray --parquet people",)),
    "sign": (("cpu",), (SIGN,)),
    "docs": ((), ("import mkdocs, mkdocstrings, material",)),
}
#: Those of no use, or that cannot be installed, without a GPU; and those for developers, which CI installs.
NOT_HERE = {"gpu", "trt", "pycuda", "test", "dev"}


def run(python, *arguments, cwd=None, expected=0):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RTMO_DEPLOY"))}
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def use(python, what, cwd):
    return run(python, *(("-c", what) if "import " in what else ("-m", "rtmo_deploy", *what.split())), cwd=cwd)


def environment(folder, below=None):
    """The interpreter of a new virtual environment that also has the packages of another one."""
    run(sys.executable, "-m", "venv", folder)
    if below is not None:
        site = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(site, "shared.pth").write_text(sysconfig.get_path("purelib", vars={"base": str(below)}), encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    return sdist, next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def shared(built, tmp_path_factory):
    """An environment with what the package requires, without the package."""
    folder = tmp_path_factory.mktemp("shared") / "venv"
    python = environment(folder)
    run(python, "-m", "pip", "install", "--quiet", built[1])
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "rtmo-deploy")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, onnx_n, pictures):
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.onnx").write_bytes(onnx_n.read_bytes())
    (folder / "image.png").write_bytes(pictures[0].read_bytes())
    return folder


def test_sizes_and_files(built, tmp_path):
    assert all(path.stat().st_size < LARGEST for path in built)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (direct,) = tmp_path.glob("*.whl")
    assert zipfile.ZipFile(built[1]).namelist() == zipfile.ZipFile(direct).namelist()


def test_every_extra_is_used():
    assert USES.keys() | NOT_HERE == EXTRAS.keys()


@pytest.mark.parametrize("extra", USES)
def test_an_extra(extra, built, shared, files, tmp_path):
    others, uses = USES[extra]
    python = environment(tmp_path / "venv", shared)
    asked = ",".join([extra, *others])
    run(python, "-m", "pip", "install", "--quiet", f"{built[1]}[{asked}]")
    assert str(tmp_path) in run(python, "-c", "import rtmo_deploy; print(rtmo_deploy.__file__)", cwd=tmp_path)
    for what in uses:
        use(python, what, files)
    report = json.loads(run(python, "-m", "rtmo_deploy", "doctor", "--json", cwd=files))
    verdicts = {row["name"]: row["verdict"] for row in report["rows"]}
    assert report["ok"]
    assert {name for name in (extra, *others) if verdicts[f"[{name}]"] != "fine"} == set()
    # What was not asked for may be there, brought by another package, but is never broken.
    assert {verdicts[f"[{name}]"] for name in EXTRAS} <= {"fine", "absent"}
    about = json.loads(run(python, "-m", "rtmo_deploy", "--version", "--json", cwd=files))
    assert {extra, *others} - {"docs"} <= set(about["extras"])


def test_two_onnxruntimes_one_after_the_other(built, shared, files, tmp_path):
    """What pip really leaves: the second overwrites the first, and removing it takes the module away."""
    python = environment(tmp_path / "venv", shared)
    run(python, "-m", "pip", "install", "--quiet", f"{built[1]}[cpu]")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "onnxruntime-gpu")
    predict = ("-m", "rtmo_deploy", *PREDICT.split())
    found = json.loads(run(python, *predict, cwd=files, expected=5))["error"]
    assert found["message"].startswith("onnxruntime and onnxruntime-gpu are installed and share the module onnxruntime")
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "onnxruntime-gpu")
    found = json.loads(run(python, *predict, cwd=files, expected=5))["error"]
    assert found["message"].startswith("The files of the module onnxruntime are gone, and pip's record of onnxruntime")
    run(python, *found["remedy"].partition(": ")[2].replace("pip", "-m pip", 1).split(), cwd=files)
    run(python, *predict, cwd=files)
