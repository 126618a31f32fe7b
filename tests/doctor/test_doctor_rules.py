"""The doctor's rules, on made-up machines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rtmo_deploy.doctor import Facts, Verdict, judge
from rtmo_deploy.doctor.facts import Driver, Folder, Gpu, Processor, Software, Trouble
from rtmo_deploy.doctor.pairs import PAIRS, cuda_majors, has_code_for
from rtmo_deploy.doctor.requirements import EXTRAS, release_of, requirements
from rtmo_deploy.doctor.rules import FULL, KERNEL_BEGINS, SCARCE
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, VOLTA, gpu_problem

CPU, CUDA, TRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
#: What this project requires, in the oldest version that will do.
NEEDED = {one.name: next(part.version for part in one.specifier if part.operator == ">=") for one in requirements()}
PYTHON = {"version": (3, 12, 4), "implementation": "CPython", "bits": 64, "executable": "python"}
PYTHON |= {"system": "Linux 6.1", "machine": "x86_64"}
FOLDER = Folder("here", exists=True, free=2**36, writable=True)
FAILED = Trouble("failed", "ImportError: libfoo.so.3: cannot open shared object file.")
CRASHED = Trouble("crashed", "It crashed (SIGSEGV).")
SLOW = Trouble("slow", "It did not answer within 60 s and was stopped.")


def laptop(**changes):
    """No GPU; ONNX Runtime and OpenVINO for the CPU."""
    facts = Facts(
        PYTHON,
        {"version": "0.1.0", "recorded": "0.1.0", "folder": "site-packages/rtmo_deploy"},
        {**NEEDED, "onnxruntime": "1.22.0", "openvino": "2025.1"},
        torch=Software("2.9.0+cpu"),
        onnxruntime=Software("1.22.0", providers=(CPU,), saturates=False),
        providers=(Software(name=CPU, usable=True),),
        openvino=Software("2025.1", devices={"CPU": "Some CPU"}, saturates=False),
        nvidia_card=False,
        cpu=Processor("Some CPU", ("avx2", "avx512_vnni"), 8, 8, memory=2**34),
        working=FOLDER,
        cache=FOLDER,
    )
    return replace(facts, **changes)


def server(name="NVIDIA H200", capability=(9, 0), cuda=(13, 0), **changes):
    """A GPU, and everything for it."""
    facts = laptop(
        distributions={
            **NEEDED,
            "onnxruntime-gpu": "1.24.0",
            "nvidia-ml-py": "12",
            "tensorrt": "10.13.3.9",
            "tensorrt-cu12": "10.13.3.9",
            "cuda-bindings": "12.9.0",
            "nvidia-cublas-cu12": "12.8.4.1",
        },
        torch=Software(
            "2.9.0+cu128", "12.8", cudnn=91002, archs=("sm_75", "sm_90", "compute_90"), available=True, computes=True
        ),
        onnxruntime=Software("1.24.0", "12.8", providers=(TRT, CUDA, CPU), saturates=False),
        providers=(Software(name=TRT, usable=True), Software(name=CUDA, usable=True), Software(name=CPU, usable=True)),
        tensorrt=Software("10.13.3.9"),
        driver=Driver("580.65.06", cuda, gpus=(Gpu(0, name, capability, 141 * 2**30, kernel=True),)),
        bindings=Software(gpu=True),
    )
    return replace(facts, **changes)


def rows(facts):
    return {row.name: row for row in judge(facts).rows}


def broken(facts):
    return {row.name for row in judge(facts).broken}


def torch_of(facts, **changes):
    return replace(facts, torch=replace(facts.torch, **changes))


def on_gpu(facts, **changes):
    """The same with another GPU, or another driver."""
    gpu = replace(
        facts.gpus[0], **{key: changes.pop(key) for key in ("name", "capability", "kernel") if key in changes}
    )
    return replace(facts, driver=replace(facts.driver, gpus=(gpu,), **changes))


def test_good_machines():
    for facts in (laptop(), server()):
        report = judge(facts)
        assert report.ok
        assert report.counts["broken"] == report.counts["warning"] == 0, report.rows
        assert rows(facts)["known bad pairs"].finding == f"None of the {len(PAIRS)} kinds was found."
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"] is True
    assert rows(laptop())["CUDA driver"].verdict is Verdict.ABSENT
    assert rows(server())["cuda:0"].finding == "NVIDIA H200, compute capability 9.0, 141.0 GiB."


def test_a_v100_with_a_tensorrt_that_forgot_it():
    facts = server("Tesla V100", (7, 0), (12, 8))
    row = rows(facts)["TensorRT and cuda:0"]
    assert row.verdict is Verdict.BROKEN
    assert row.finding == "TensorRT 10.13.3.9 does not know the Tesla V100."
    assert row.remedy == VOLTA
    old = replace(facts, tensorrt=Software("10.4.0"))
    assert "TensorRT and cuda:0" not in rows(old)
    both = replace(facts.driver, gpus=(*facts.gpus, Gpu(1, "NVIDIA H200", (9, 0), kernel=True)))
    assert rows(replace(facts, driver=both))["TensorRT and cuda:0"].verdict is Verdict.WARNING


@pytest.mark.parametrize("version", ["10.4.0", "10.4.99", "10.5.0", "10.13.3.9", "11.4"])
@pytest.mark.parametrize("capability", ["6.1", "7.0", "7.5", "8.0", "9.0", "12.0"])
def test_which_gpus_tensorrt_knows(version, capability):
    knows = capability not in {"6.1", "7.0"} or (capability == "7.0" and version.startswith("10.4"))
    problem = gpu_problem(TRT_VARIANTS["tensorrt"], version, "GPU", capability)
    assert (problem is None) == knows
    assert problem is None or str(problem) == f"{problem.finding} {problem.remedy}"


@pytest.mark.parametrize(
    ("capability", "runs"),
    [("6.1", 0), ("7.0", 0), ("7.5", 1), ("8.0", 1), ("8.9", 1), ("9.0", 0), ("10.0", 0), ("12.0", 1), ("12.1", 1)],
)
def test_which_gpus_tensorrt_rtx_knows(capability, runs):
    problem = gpu_problem(TRT_VARIANTS["tensorrt-rtx"], "1.7.1", "GPU", capability)
    assert (problem is None) == bool(runs)
    if problem:
        assert capability in problem.finding
        assert problem.finding.endswith(".")
        assert problem.remedy


def test_rtx_builds_where_it_does_not_run():
    facts = server(tensorrt=None, tensorrt_rtx=Software("1.7.1"))
    row = rows(facts)["TensorRT-RTX and cuda:0"]
    assert row.verdict is Verdict.WARNING
    assert "Hopper" in row.finding


def test_two_onnxruntimes():
    facts = server()
    facts = replace(facts, distributions={**facts.distributions, "onnxruntime": "1.22"})
    row = rows(facts)["ONNX Runtime, twice"]
    assert row.verdict is Verdict.BROKEN
    assert row.remedy == ("pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'rtmo-deploy[gpu]'")
    facts = laptop(distributions={**laptop().distributions, "onnxruntime-gpu": "1.22"})
    assert rows(facts)["ONNX Runtime, twice"].remedy.endswith("'rtmo-deploy[cpu]'")


def test_two_opencvs_are_a_warning():
    facts = laptop(distributions={**laptop().distributions, "opencv-python": "4.12"})
    assert rows(facts)["OpenCV, twice"].verdict is Verdict.WARNING


def test_an_onnxruntime_that_was_half_removed():
    facts = laptop(onnxruntime=None, providers=(), shells=("onnxruntime",))
    row = rows(facts)["ONNX Runtime"]
    assert row.verdict is Verdict.BROKEN
    assert row.remedy == "pip install --force-reinstall onnxruntime"
    absent = rows(laptop(onnxruntime=None, providers=()))["ONNX Runtime"]
    assert (absent.verdict, absent.remedy) == (Verdict.ABSENT, "pip install 'rtmo-deploy[cpu]'")


def test_cuda_13_and_a_driver_for_12():
    facts = server(cuda=(12, 4))
    facts = replace(
        facts,
        distributions={**facts.distributions, "cuda-bindings": "13.0.1", "tensorrt-cu13": "10.13.3.9"},
        onnxruntime=replace(facts.onnxruntime, cuda="13.0"),
        providers=(Software(name=CUDA, usable=False, why="CUDA failure 35"), Software(name=CPU, usable=True)),
        bindings=Software(gpu=False, why="CUDA could not find a GPU."),
    )
    facts = torch_of(facts, cuda="13.0", available=False, computes=None, archs=(), why="The driver is too old.")
    assert cuda_majors(facts) == {"PyTorch": 13, "ONNX Runtime": 13, "TensorRT": 12, "cuda-bindings": 13}
    found = rows(facts)
    for name in ("PyTorch", "ONNX Runtime", "cuda-bindings"):
        row = found[f"{name} and the driver"]
        assert row.verdict is Verdict.BROKEN
        assert f"{name} is for CUDA 13, and the driver takes CUDA up to 12.4." == row.finding
        assert "580 or later" in row.remedy
    assert found["cuda-bindings and the driver"].remedy.endswith("pip install 'cuda-bindings<13'")
    assert {"PyTorch on the GPU", "ONNX Runtime, CUDA", "cuda-bindings"} <= broken(facts)
    assert "CUDA failure 35" in found["ONNX Runtime, CUDA"].finding
    assert "TensorRT and the driver" not in found
    del facts.distributions["tensorrt-cu12"]
    assert "TensorRT and the driver" in broken(facts)


def test_what_works_is_believed_over_a_rule():
    facts = server(cuda=(12, 4))
    facts = torch_of(replace(facts, onnxruntime=replace(facts.onnxruntime, cuda="13.0")), cuda="13.0")
    assert not broken(facts)  # a compatibility package can bring newer CUDA to an older driver


def test_minor_versions_of_cuda_go_together():
    assert judge(server(cuda=(12, 1))).ok


def test_an_onnxruntime_for_another_cuda_than_what_is_there():
    facts = server()
    facts = replace(
        facts,
        onnxruntime=replace(facts.onnxruntime, cuda="13.0"),
        providers=(
            Software(name=CUDA, usable=False, why="libcublasLt.so.13: no such file"),
            Software(name=CPU, usable=True),
        ),
    )
    row = rows(facts)["ONNX Runtime and CUDA"]
    assert row.verdict is Verdict.BROKEN
    assert "PyTorch brings CUDA 12 and nvidia-cublas-cu12 brings CUDA 12" in row.finding
    assert "onnxruntime-gpu[cuda,cudnn]" in row.remedy
    there = replace(facts, distributions={**facts.distributions, "nvidia-cublas": "13.1.0.3"})
    assert "ONNX Runtime and CUDA" not in rows(there)
    assert "ONNX Runtime, CUDA" in broken(there)


def test_two_cudnns():
    facts = server()
    assert "cuDNN, twice" not in rows(facts)
    old = torch_of(facts, cudnn=8902)
    row = rows(old)["cuDNN, twice"]
    assert row.verdict is Verdict.WARNING  # the provider ran, alone
    assert "PyTorch brings cuDNN 8 and ONNX Runtime was built with cuDNN 9" in row.finding
    assert "--upgrade torch" in row.remedy
    failing = replace(old, providers=(Software(name=CUDA, usable=False, why="libcudnn.so.9"),))
    assert "cuDNN, twice" in broken(failing)
    older = replace(facts, onnxruntime=Software("1.18.0", providers=(CUDA,)))
    assert "--upgrade onnxruntime-gpu" in rows(older)["cuDNN, twice"].remedy
    assert "cuDNN, twice" not in rows(torch_of(laptop(), cudnn=8902))


def test_the_cuda_of_an_onnxruntime_that_does_not_tell():
    for version, major in (("1.18.1", 11), ("1.19.0", 12), ("1.20.2", 12), ("1.25", None), ("nightly", None)):
        facts = server(onnxruntime=Software(version, None, providers=(CUDA,)))
        assert cuda_majors(facts).get("ONNX Runtime") == major
    assert "ONNX Runtime" not in cuda_majors(laptop())


def test_a_v100_with_a_pytorch_without_code_for_it():
    facts = server("Tesla V100", (7, 0), (12, 8), tensorrt=None)
    facts = torch_of(facts, computes=False, why="CUDA error: no kernel image is available", archs=("sm_75", "sm_90"))
    assert {"PyTorch's code and cuda:0", "PyTorch on the GPU"} == broken(facts)
    assert "no kernel image" in rows(facts)["PyTorch on the GPU"].finding
    thirteen = torch_of(facts, cuda="13.0")
    row = rows(on_gpu(thirteen, cuda=(13, 0)))["PyTorch and cuda:0"]
    assert "begins at compute capability 7.5; Tesla V100 has 7.0" in row.finding


@pytest.mark.parametrize(
    ("archs", "capability", "fits"),
    [
        (("sm_70",), (7, 0), True),
        (("sm_70",), (7, 5), True),
        (("sm_75",), (7, 0), False),
        (("sm_70", "sm_80"), (9, 0), False),
        (("compute_70",), (12, 0), True),
        (("compute_90",), (8, 9), False),
        (("sm_90a",), (9, 0), True),
        (("sm_90a",), (9, 1), False),
        (("sm_100", "sm_120"), (12, 1), True),
        (("sm_100",), (1, 0), False),
        (("gfx90a", "", "sm_"), (9, 0), False),
    ],
)
def test_code_for_a_gpu(archs, capability, fits):
    assert has_code_for(archs, capability) is fits


def test_a_cpu_pytorch_beside_a_gpu():
    facts = server(torch=Software("2.9.0+cpu"))
    row = rows(facts)["PyTorch on the GPU"]
    assert row.verdict is Verdict.WARNING
    assert "CPU build" in row.finding


def test_gpu_software_without_a_gpu_is_not_broken():
    facts = server(driver=None, bindings=Software(gpu=False, why="no driver"))
    facts = replace(
        torch_of(facts, available=False, computes=None, archs=()),
        providers=(
            Software(name=TRT, usable=False),
            Software(name=CUDA, usable=False),
            Software(name=CPU, usable=True),
        ),
    )
    assert judge(facts).ok
    found = rows(facts)
    assert found["ONNX Runtime, CUDA"].verdict is found["PyTorch on the GPU"].verdict is Verdict.ABSENT
    assert "no GPU" in found["decode kernel"].finding


def test_a_gpu_without_software_for_it():
    facts = laptop(driver=server().driver)
    row = rows(facts)["ONNX Runtime, CUDA"]
    assert (row.verdict, row.remedy) == (Verdict.ABSENT, "In a fresh environment: pip install 'rtmo-deploy[gpu]'")
    row = rows(facts)["[gpu]"]
    assert row.remedy == "In a fresh environment, without onnxruntime: pip install 'rtmo-deploy[gpu]'"
    assert "of no use" not in row.finding


@pytest.mark.parametrize(
    ("driver", "card", "hidden", "verdict", "word"),
    [
        (None, False, None, Verdict.ABSENT, "everything runs on the CPU"),
        (None, None, None, Verdict.ABSENT, "everything runs on the CPU"),
        (None, True, None, Verdict.WARNING, "no CUDA driver for it"),
        (Driver("1", (12, 0), "no CUDA-capable device is detected", 100), False, None, Verdict.WARNING, "100"),
        (Driver("1", (12, 0), "no CUDA-capable device is detected", 100), True, None, Verdict.BROKEN, "100"),
        (Driver("1", (12, 0), "no CUDA-capable device is detected", 100), True, "-1", Verdict.WARNING, "100"),
        (Driver(None, (12, 0), "stub", 34), None, None, Verdict.WARNING, "linking alone"),
        (Driver("1", (12, 0), "system not yet initialized", 802), True, None, Verdict.BROKEN, "802"),
        (Driver("1", (12, 0)), True, "", Verdict.WARNING, "shows no GPU"),
        (Driver(trouble=CRASHED), None, None, Verdict.BROKEN, "SIGSEGV"),
        (Driver(trouble=SLOW), None, None, Verdict.WARNING, "within 60 s"),
    ],
)
def test_drivers(driver, card, hidden, verdict, word):
    row = rows(laptop(driver=driver, nvidia_card=card, hidden=hidden))["CUDA driver"]
    assert row.verdict is verdict
    assert word in row.finding
    if hidden is not None:
        assert f"CUDA_VISIBLE_DEVICES is '{hidden}'" in row.remedy


def test_the_decode_kernel():
    facts = server()
    assert "compiled it for this GPU" in rows(facts)["decode kernel, cuda:0"].finding
    untried = rows(on_gpu(facts, kernel=None))["decode kernel, cuda:0"]
    assert (untried.verdict, "not compiled here" in untried.finding) == (Verdict.FINE, True)
    volta = rows(on_gpu(facts, capability=KERNEL_BEGINS, kernel=None))["decode kernel, cuda:0"]
    assert volta.verdict is Verdict.FINE
    old = rows(on_gpu(facts, capability=(6, 1), kernel=False))["decode kernel, cuda:0"]
    assert (old.verdict, "this GPU has 6.1" in old.finding) == (Verdict.WARNING, True)
    driver = rows(on_gpu(facts, cuda=(11, 8), kernel=False))["decode kernel, cuda:0"]
    assert "530 or later" in driver.remedy
    assert "--decode fixed" in driver.remedy
    refused = rows(on_gpu(facts, kernel=False))["decode kernel, cuda:0"]
    assert refused.verdict is Verdict.WARNING
    assert "decode kernel" in broken(laptop(kernel_file="The decode kernel is not the one that was shipped."))


def test_bindings():
    assert "it finds the GPU" in rows(server())["cuda-bindings"].finding
    without = rows(server(bindings=None))["cuda-bindings"]
    assert (without.verdict, without.remedy) == (Verdict.WARNING, "pip install 'rtmo-deploy[trt]'")
    assert "cuda-bindings" not in rows(laptop())


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({"version": (3, 10, 4)}, Verdict.BROKEN, "begins at 3.11"),
        ({"version": (3, 14, 0)}, Verdict.WARNING, "3.13"),
        ({"bits": 32}, Verdict.BROKEN, "32-bit"),
        ({"version": (3, 13, 9)}, Verdict.FINE, "3.13.9"),
    ],
)
def test_pythons(changes, verdict, word):
    row = rows(laptop(python=PYTHON | changes))["Python"]
    assert (row.verdict, word in row.finding) == (verdict, True)


def test_what_is_required():
    assert rows(laptop())["required packages"].verdict is Verdict.FINE
    less = {name: version for name, version in laptop().distributions.items() if name not in {"typer", "pyyaml"}}
    row = rows(laptop(distributions=less))["required packages"]
    assert (row.verdict, row.remedy) == (Verdict.BROKEN, "pip install 'pyyaml>=6' 'typer>=0.26'")
    unloadable = rows(laptop(imports={"cv2": "ImportError: libGL.so.1: cannot open"}))["required packages"]
    assert unloadable.verdict is Verdict.BROKEN
    assert "libGL.so.1" in unloadable.finding
    assert unloadable.remedy == "pip install --force-reinstall 'opencv-python-headless>=4.10,<5'"
    other = {**laptop().distributions, "torch": "2.14.0", "numpy": "1.21"}
    row = rows(laptop(distributions=other))["required packages"]
    assert row.verdict is Verdict.WARNING
    assert "torch is 2.14.0, not >=2.6,<2.14" in row.finding
    assert "numpy is 1.21, not >=1.26" in row.finding
    assert "required packages" in broken(laptop(imports_trouble=CRASHED))


def test_a_package_of_another_packager_counts_if_it_can_be_imported():
    less = {name: version for name, version in laptop().distributions.items() if "opencv" not in name}
    assert judge(laptop(distributions=less)).ok
    assert not judge(laptop(distributions=less, imports_trouble=SLOW)).ok


def test_this_project():
    checkout = rows(laptop(package={"version": "0.1.0", "recorded": None, "folder": "src"}))["rtmo-deploy"]
    assert (checkout.verdict, "not installed by pip" in checkout.finding) == (Verdict.FINE, True)
    stale = rows(laptop(package={"version": "0.2.0", "recorded": "0.1.0", "folder": "src"}))["rtmo-deploy"]
    assert stale.verdict is Verdict.WARNING


@pytest.mark.parametrize("trouble", [FAILED, CRASHED, SLOW])
def test_trouble(trouble):
    facts = server(
        torch=Software(trouble=trouble),
        onnxruntime=Software(trouble=trouble),
        openvino=Software(trouble=trouble),
        tensorrt=Software(trouble=trouble),
        tensorrt_rtx=Software(trouble=trouble),
        bindings=Software(trouble=trouble),
        cpu=Processor(trouble=trouble),
        working=Folder(trouble=trouble),
        cache=Folder(trouble=trouble),
        providers=(Software(name=CUDA, trouble=trouble), Software(name=CPU, trouble=trouble)),
    )
    found = rows(facts)
    names = ["PyTorch", "ONNX Runtime", "ONNX Runtime, CUDA", "ONNX Runtime, CPU", "OpenVINO", "TensorRT"]
    for name in [*names, "TensorRT-RTX", "cuda-bindings", "processor", "working directory", "cache"]:
        assert found[name].finding == trouble.text
        if trouble is SLOW:
            assert found[name].verdict is Verdict.WARNING
            assert "--timeout" in found[name].remedy
        else:
            assert found[name].verdict is Verdict.BROKEN


def test_torch_that_crashes_on_the_gpu_only():
    facts = torch_of(server(), computes=None, trouble=CRASHED)
    assert rows(facts)["PyTorch"].verdict is Verdict.FINE
    assert broken(facts) == {"PyTorch on the GPU"}


def test_other_providers_break_nothing():
    facts = server()
    facts = replace(
        facts,
        providers=(
            Software(name=TRT, usable=False, why="libnvinfer.so.10: cannot open shared object file"),
            Software(name="AzureExecutionProvider"),
            Software(name="DmlExecutionProvider", trouble=CRASHED),
            *facts.providers[1:],
        ),
    )
    row = rows(facts)["ONNX Runtime, others"]
    assert row.verdict is Verdict.FINE
    assert "Tensorrt: does not run (libnvinfer.so.10" in row.finding
    assert "Azure: not tried" in row.finding
    assert "Dml: does not run (It crashed (SIGSEGV))" in row.finding


def test_8_bit_sums():
    fine = rows(laptop())["8-bit sums"]
    assert fine.verdict is Verdict.FINE
    lossy = laptop(onnxruntime=replace(laptop().onnxruntime, saturates=True))
    assert rows(lossy)["8-bit sums"].verdict is Verdict.WARNING
    finding = rows(lossy)["8-bit sums"].finding
    assert finding.startswith("Measured in ONNX Runtime: they lose")
    assert "OpenVINO is not given" not in finding
    for flags in (("avx2", "avx512_vnni"), ("avx2", "avx512f"), ()):
        nothing = laptop(onnxruntime=None, openvino=None, providers=(), cpu=replace(laptop().cpu, flags=flags))
        row = rows(nothing)["8-bit sums"]
        assert row.verdict is Verdict.ABSENT
        assert row.finding.startswith("Not measured:")


def test_a_busy_machine_and_a_container():
    note = "The machine was busy."
    assert rows(laptop(cpu=Processor("c", (), 2, 2, notes=(note,))))["load"].finding == note
    limited = rows(laptop(cpu=Processor("c", (), 8, 8, quota=1.5)))["processor"]
    assert (limited.verdict, limited.remedy) == (Verdict.WARNING, "Use --threads 1.")
    assert "2 of 8 cores" in rows(laptop(cpu=Processor("c", (), 2, 8)))["processor"].finding


@pytest.mark.parametrize("name", ["working", "cache"])
def test_folders(name):
    row_name = {"working": "working directory", "cache": "cache"}[name]
    for changes, verdict in (
        ({}, Verdict.FINE),
        ({"free": SCARCE}, Verdict.FINE),
        ({"free": SCARCE - 1}, Verdict.WARNING),
        ({"free": FULL - 1}, Verdict.BROKEN),
        ({"free": None}, Verdict.FINE),
        ({"writable": False, "why": "Read-only file system"}, Verdict.WARNING),
    ):
        row = rows(laptop(**{name: replace(FOLDER, **changes)}))[row_name]
        assert row.verdict is verdict, changes
        assert changes.get("why", "here") in row.finding
    assert "RTMO_DEPLOY_CACHE" in rows(laptop(cache=replace(FOLDER, writable=False)))["cache"].remedy


def test_a_setting_that_makes_no_sense():
    facts = laptop(cache_setting="RTMO_DEPLOY_OFFLINE: 'maybe' is neither yes nor no.")
    assert broken(facts) == {"cache"}


def test_extras():
    found = rows(laptop())
    assert {f"[{name}]" for name in EXTRAS} <= set(found)
    assert found["[cpu]"].verdict is found["[openvino]"].verdict is Verdict.FINE
    for name in ("trt", "trt-rtx", "pycuda", "train", "test", "dev"):
        assert found[f"[{name}]"].verdict is Verdict.ABSENT
        assert found[f"[{name}]"].remedy == f"pip install 'rtmo-deploy[{name}]'"
    assert "of no use without an NVIDIA GPU" in found["[trt]"].finding
    assert "of no use" not in rows(server())["[pycuda]"].finding
    assert rows(server())["[cpu]"].finding.endswith("not needed, [gpu] is there and holds the same.")
    nothing = rows(laptop(distributions=NEEDED))
    assert nothing["[cpu]"].remedy == "pip install 'rtmo-deploy[cpu]'"
    assert nothing["[gpu]"].remedy == "pip install 'rtmo-deploy[gpu]'"
    volta = server(distributions={**NEEDED, "tensorrt-cu12": "10.4.0", "cuda-bindings": "12.9"})
    assert rows(volta)["[trt]"].verdict is Verdict.FINE
    old = rows(laptop(distributions={**NEEDED, "openvino": "2024.6"}))["[openvino]"]
    assert (old.verdict, "openvino is 2024.6, not >=2025.0" in old.finding) == (Verdict.WARNING, True)


def test_type_stubs_are_not_tensorrt():
    facts = laptop(distributions={**laptop().distributions, "tensorrt-stubs": "10.13"})
    row = rows(facts)["TensorRT"]
    assert row.verdict is Verdict.ABSENT
    assert "nothing but types" in row.finding


def test_an_empty_environment():
    facts = laptop(distributions={}, torch=None, onnxruntime=None, providers=(), openvino=None, imports={})
    assert {"PyTorch", "required packages"} == broken(facts)
    assert "'torch>=2.6,<2.14'" in rows(facts)["PyTorch"].remedy


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2.13.0+cu126", (2, 13, 0)),
        ("10.13.3.9", (10, 13, 3, 9)),
        ("1.25.0.dev20250101", (1, 25, 0)),
        ("1.25rc1", (1, 25)),
        ("nightly", ()),
        ("", ()),
        (None, ()),
        ("٣.1", ()),
    ],
)
def test_versions(version, release):
    assert release_of(version) == release
