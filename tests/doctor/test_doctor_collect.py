"""What the doctor probes: the probes themselves, against made-up libraries, and how their answers are put together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

import rtmo_deploy
from rtmo_deploy.doctor import collect as collect_facts
from rtmo_deploy.doctor import judge
from rtmo_deploy.doctor.collecting import _reason
from rtmo_deploy.doctor.probes import PROBES, TINY_NETWORK, _nvidia_card, _quota
from rtmo_deploy.doctor.requirements import EXTRAS, TESTED_PYTHON, bounds_of, install_line, requirements
from rtmo_deploy.doctor.rules import KERNEL_BEGINS, KERNEL_CUDA
from rtmo_deploy.machine import module_version
from rtmo_deploy.runtime.plugins.kernel import kernel_record

PACKAGE = Path(rtmo_deploy.__file__).parent
PROBES_FILE = PACKAGE / "doctor/probes.py"
PYPROJECT = PACKAGE.parent / "pyproject.toml"

#: What a machine with everything answers; a line of Python each, run in place of the probes.
ANSWERS = {
    "machine": {"name": "Some CPU", "flags": ["avx2"], "cores": 4, "cores_total": 8, "notes": []},
    "torch": {"version": "2.9.0+cu128", "cuda": "12.8", "archs": ["sm_90"], "available": True, "computes": True},
    "onnxruntime": {"version": "1.24.0", "cuda": "12.8", "saturates": False,
                    "providers": ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]},
    "openvino": {"version": "2025.1", "devices": {"CPU": "Some CPU"}, "saturates": False},
    "trt": {"version": "10.13.3.9"},
    "bindings": {"gpu": True, "why": ""},
    "packages": {"imports": {}},
    "driver": {"card": True, "there": True, "version": "580.65.06", "cuda": [13, 0], "gpus": [
        {"index": 0, "name": "NVIDIA H200", "capability": [9, 0], "memory": 2**37, "kernel": True, "kernel_why": ""}]},
    "working": {"path": "here", "exists": True, "free": 2**36, "writable": True},
    "cache": {"path": "there", "exists": False, "free": 2**36, "writable": True},
    "provider CUDAExecutionProvider": {"usable": True, "why": ""},
    "provider CPUExecutionProvider": {"usable": True, "why": ""},
}  # fmt: skip
FAKE = """
import json, os, signal, sys
answers = json.loads(sys.argv[1])
name, *rest = sys.argv[2:]
answer = answers[f"{name} {rest[0]}" if name == "provider" else name]
if answer.pop("crash", False): os.kill(os.getpid(), signal.SIGSEGV)
print(answer.pop("said", ""), file=sys.stderr)
print(json.dumps({**answer, "ended": True}))
"""


def collected(monkeypatch, **changes):
    """Facts of a machine on which everything is installed and answers as given."""
    import rtmo_deploy.doctor.collecting as module

    monkeypatch.setattr(module, "is_whole", lambda _: True)
    monkeypatch.setattr(module, "_distributions", lambda: {"cuda-bindings": "12.9", "onnxruntime-gpu": "1.24.0"})
    answers = ANSWERS | {name.replace("__", " "): answer for name, answer in changes.items()}
    told = []
    facts = collect_facts(progress=told.append, command=(sys.executable, "-S", "-c", FAKE, json.dumps(answers)))
    assert (told[0].done, told[0].detail) == (0, "the processor")
    return facts


def probe(name, *arguments, **environment):
    """Run a real probe; its answer and its exit code."""
    stdin, parent = os.pipe()  # when it ends, so does the probe
    done = subprocess.run(
        [sys.executable, "-P", PROBES_FILE, name, *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | environment,
        check=False,
    )
    os.close(stdin)
    os.close(parent)
    answer = {}
    for line in done.stdout.splitlines():
        answer |= json.loads(line)
    return answer, done


def test_a_machine_is_put_together(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    facts = collected(monkeypatch)
    assert facts.gpus[0].capability == (9, 0)
    assert facts.driver.cuda == (13, 0)
    assert facts.torch.archs == ("sm_90",)
    assert [(one.name[:4], one.usable) for one in facts.providers] == [("CUDA", True), ("Azur", None), ("CPUE", True)]
    assert (facts.tensorrt.version, facts.cpu.cores, facts.hidden) == ("10.13.3.9", 4, "0")
    assert facts.seconds > 0
    assert facts.python["version"] == tuple(sys.version_info[:3])
    assert json.loads(json.dumps(facts.to_dict()))["driver"]["gpus"][0]["capability"] == [9, 0]
    assert {row.name for row in judge(facts).broken} == {"required packages"}  # the made-up list has two


def test_crashes_everywhere(monkeypatch):
    facts = collected(monkeypatch, **{name: {"crash": True} for name in ANSWERS})
    assert facts.onnxruntime.trouble.kind == "crashed"
    assert facts.providers == ()
    broken = {row.name for row in judge(facts).broken}
    assert {"PyTorch", "ONNX Runtime", "OpenVINO", "TensorRT", "CUDA driver", "cache", "processor"} <= broken


def test_why_a_provider_does_not_run(monkeypatch):
    said = (
        "2025-03-05 11:40:14.84 [E:onnxruntime:Default, provider_bridge_ort.cc:1548 TryGetProviderInfo_CUDA] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1209 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
        "/usr/lib/python3/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open "
        "shared object file: No such file or directory\n"
        "2025-03-05 11:40:14.84 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:861 Create] "
        "Failed to create CUDAExecutionProvider."
    )
    facts = collected(monkeypatch, provider__CUDAExecutionProvider={"usable": False, "said": said})
    (provider, *_) = facts.providers
    assert provider.why == (
        "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open shared "
        "object file: No such file or directory"
    )
    assert _reason("") == ""
    assert _reason("one\ntwo") == "two"
    assert _reason("2025-03-05 11:40:14.8 [E:onnxruntime:Default, x.cc:1 F] bad luck") == "bad luck"


def test_a_driver_that_is_not_there(monkeypatch):
    facts = collected(monkeypatch, driver={"card": False})
    assert facts.driver is None
    assert facts.nvidia_card is False
    facts = collected(monkeypatch, driver={"crash": True})
    assert facts.driver.trouble.kind == "crashed"


def test_the_list_of_what_is_installed():
    from rtmo_deploy.doctor.collecting import _distributions

    found = _distributions()
    assert {"numpy", "onnx", "typer"} <= set(found)
    assert "hypothesis" in found
    assert "setuptools" not in found


@pytest.mark.skipif(not PYPROJECT.is_file(), reason="needs the checkout")
def test_the_extras_and_pythons_are_those_of_the_project():
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"])
    pythons = [line.rpartition(":: ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert (pythons[0], pythons[-1]) == tuple(".".join(map(str, version)) for version in TESTED_PYTHON)


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "checkout"])
def test_requirements(monkeypatch, installed):
    def requires(name):
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return ["torch<2.14,>=2.6", "NumPy>=1.26", "onnxruntime>=1.18; extra == 'cpu'", "other; sys_platform == 'no'"]

    monkeypatch.setattr(metadata, "requires", requires)
    requirements.cache_clear()
    try:
        required = {one.name.lower(): bounds_of(one) for one in requirements()}
        assert required.items() >= {"torch": ">=2.6,<2.14", "numpy": ">=1.26"}.items()
        assert not {"onnxruntime", "other"} & set(required)
        assert [(one.name, bounds_of(one)) for one in requirements("cpu")] == [("onnxruntime", ">=1.18")]
    finally:
        requirements.cache_clear()


def test_the_line_is_that_of_every_error():
    assert install_line("trt-rtx") == "pip install 'rtmo-deploy[trt-rtx]'"


def test_the_kernel_is_the_one_that_is_shipped():
    record = kernel_record()
    assert record.architecture == "compute_{}{}".format(*KERNEL_BEGINS)
    assert record.compiler == "NVRTC {}.{}".format(*KERNEL_CUDA)


def test_the_tiny_network():
    model = onnx.load_from_string(TINY_NETWORK)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]) == np.float32(2)


def test_a_probe_at_a_provider():
    pytest.importorskip("onnxruntime")
    answer, done = probe("provider", "CPUExecutionProvider")
    assert answer == {"usable": True, "why": "", "ended": True}, done.stderr
    answer, done = probe("provider", "CUDAExecutionProvider")
    if not answer["usable"]:
        assert answer["ended"]


def test_an_error_in_a_probe_is_one_line(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("print('hello')\nraise ImportError('libfoo.so: gone\\nand more')\n")
    answer, done = probe("onnxruntime", PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert answer == {"failed": "ImportError: libfoo.so: gone"}
    assert done.returncode == 1
    assert "hello" in done.stderr  # what a library prints stays out of the answer
    assert "Traceback" not in done.stderr


def test_a_probe_needs_nothing_but_the_standard_library(tmp_path):
    for name in ("numpy", "torch", "onnx", "pydantic", "rich", "typer", "platformdirs"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken')\n")
    answer, done = probe("driver", PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert answer["ended"], done.stderr
    answer, _ = probe("torch", PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert answer == {"failed": "ImportError: broken"}
    answer, _ = probe("packages", PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert answer["ended"]
    assert answer["imports"]["numpy"] == "ImportError: broken"


def test_folders(tmp_path):
    answer, _ = probe("cache", RTMO_DEPLOY_CACHE=str(tmp_path / "a/b"))
    assert (answer["path"], answer["exists"], answer["writable"]) == (str(tmp_path / "a/b"), False, True)
    assert answer["free"] > 0
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"12345")
    answer, _ = probe("cache", RTMO_DEPLOY_CACHE=str(tmp_path))
    assert (answer["size"], answer["exists"]) == (5, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    answer, _ = probe("cache", RTMO_DEPLOY_CACHE=str(tmp_path / "file"), RTMO_DEPLOY_OFFLINE="maybe")
    assert (answer["writable"], answer["why"]) == (False, "Not a directory")
    assert answer["setting"] == "RTMO_DEPLOY_OFFLINE: 'maybe' is neither yes nor no."


DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
static int set(const char* name, int fallback) { const char* v = getenv(name); return v ? atoi(v) : fallback; }
int cuInit(int flags) { return set("FAKE_INIT", 0); }
int cuDriverGetVersion(int* v) { *v = set("FAKE_VERSION", 12080); return 0; }
int cuGetErrorString(int code, const char** text) { *text = "no luck"; return 0; }
int cuDeviceGetCount(int* n) { *n = 2; return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 40; return 0; }
int cuDeviceGetName(char* name, int size, int device) { snprintf(name, size, "Fake %d", device); return 0; }
int cuDeviceGetAttribute(int* v, int what, int device) { *v = what == 75 ? 7 : device - 40; return 0; }
int cuDeviceTotalMem_v2(size_t* v, int device) { *v = (size_t)5 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)(size_t)device; return 0; }
static void* current;
int cuCtxSetCurrent(void* context) { current = context; return 0; }
int cuCtxGetCurrent(void** context) { *context = current; return 0; }
int cuCtxGetId(void* context, unsigned long long* id) { *id = (size_t)context; return 0; }
int cuModuleLoadData(void** module, const char* ptx) {
  if (set("FAKE_CRASH", 0)) abort();
  *module = (void*)ptx;
  return strstr(ptx, ".target sm_70") && (size_t)current == 40 ? 0 : 222;
}
int cuModuleGetFunction(void** function, void* module, const char* name) { *function = module; return 0; }
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    """A folder with a CUDA driver of two GPUs, the second of which does not take the kernel."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, on Linux")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    return str(folder)


def test_a_probe_at_a_driver(fake_driver):
    answer, done = probe("driver", LD_LIBRARY_PATH=fake_driver)
    assert answer.get("ended"), done.stderr
    assert (answer["there"], answer["cuda"]) == (True, [12, 8])
    good, bad = answer["gpus"]
    assert (good["name"], good["capability"], good["memory"]) == ("Fake 40", [7, 0], 5 << 30)
    assert (good["kernel"], good["kernel_why"]) == (True, "")
    assert (bad["name"], bad["capability"], bad["kernel"]) == ("Fake 41", [7, 1], False)
    assert bad["kernel_why"] == "cuModuleLoadData failed: no luck (CUDA error 222)."


def test_a_driver_that_fails(fake_driver):
    answer, _ = probe("driver", LD_LIBRARY_PATH=fake_driver, FAKE_INIT="803")
    assert (answer["error"], answer["code"], answer["ended"]) == ("no luck", 803, True)
    assert "gpus" not in answer
    answer, done = probe("driver", LD_LIBRARY_PATH=fake_driver, FAKE_CRASH="1")
    assert done.returncode < 0
    assert [gpu["name"] for gpu in answer["gpus"]] == ["Fake 40", "Fake 41"]  # told before the crash
    assert "ended" not in answer


def test_graphics_cards(tmp_path):
    assert _nvidia_card(tmp_path / "nowhere") is None
    assert _nvidia_card(tmp_path) is False
    for name, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "half").mkdir()
    assert _nvidia_card(tmp_path) is False
    (tmp_path / "b/class").write_text("0x030200\n")
    assert _nvidia_card(tmp_path) is True


def test_the_version_of_the_kernel_module(tmp_path):
    file = tmp_path / "version"
    assert module_version(file) is None
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC 13")
    assert module_version(file) == "535.183.01"
    file.write_text("nonsense")
    assert module_version(file) is None


def test_the_limit_of_a_container(tmp_path):
    assert _quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert _quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert _quota(tmp_path) == 2


def test_every_probe_is_described_where_it_is_used():
    source = (PACKAGE / "doctor/collecting.py").read_text()
    for name in PROBES:
        assert re.search(f'"{name}"', source), name
