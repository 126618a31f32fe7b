"""What is told of the machine, from made-up ``/proc`` and a made-up NVML."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from rtmo_deploy.machine import (
    GpuState,
    Load,
    Machine,
    MachineWatch,
    merge_states,
    read_gpus,
    read_machine,
    warnings_of,
)
from rtmo_deploy.measure.bench.result import published_latency

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse4_2 avx2 avx512_vnni amx_int8 avx2\n\n"
QUIET = Load(0.1, 0.01, 0.0)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO + CPUINFO.replace("Some", "Other"))
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16384 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\n")
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("powersave\n")
    return tmp_path


def test_the_machine(root):
    found = read_machine(root)
    assert found.cpu == "Some CPU @ 2 GHz"
    assert found.flags == ("amx_int8", "avx2", "avx512_vnni", "sse4_2")
    assert (found.memory, found.governor, found.gpus) == (2**24, "powersave", ())
    assert 1 <= found.cores <= found.cores_total
    assert "governor is 'powersave'" in " ".join(warnings_of(found, QUIET, "cpu"))


def test_a_machine_that_tells_nothing(tmp_path):
    found = read_machine(tmp_path)
    assert found.cpu
    assert (found.flags, found.memory, found.governor) == ((), None, None)
    assert MachineWatch(tmp_path, sleep=lambda _: None).load().busy is None


def test_the_fingerprint_is_of_what_decides_the_speed():
    one = Machine("A", ("avx2",), 4, 8, 1, "Linux 1", None)
    assert replace(one, system="Linux 2", memory=2, governor="performance").fingerprint == one.fingerprint
    for change in ({"cpu": "B"}, {"flags": ("avx512f",)}, {"cores": 2}, {"gpus": ("H200",)}):
        assert replace(one, **change).fingerprint != one.fingerprint


def test_a_busy_machine_and_a_greedy_hypervisor_are_told(root):
    stat = root / "proc/stat"

    def others_work(seconds):
        stat.write_text("cpu  130 0 100 840 30 0 0 0 0 0\n")  # of 100 ticks 30 busy, 30 waiting, 40 idle

    watch = MachineWatch(root, sleep=others_work)
    stat.write_text("cpu  200 0 100 860 30 0 0 10 0 0\n")
    load = watch.load()
    assert (load.busy, load.steal) == (pytest.approx(0.3), pytest.approx(0.1))
    machine = replace(read_machine(root), governor=None)
    told = warnings_of(machine, load, "cpu")
    assert len(told) == 2
    assert "others used 30%" in told[0]
    assert "took 10%" in told[1]
    assert warnings_of(machine, QUIET, "cpu") == []


def test_the_load_average_where_nothing_else_is_known():
    machine = Machine("A", (), 4, 8, 1, "x", None)
    assert "load average was 7.0" in warnings_of(machine, Load(7.0, None, None), "cpu")[0]
    assert warnings_of(machine, Load(0.5, None, None), "cpu") == []


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b", "cpu 1 2 3", "intr 1"])
def test_a_strange_proc_stat(root, text):
    (root / "proc/stat").write_text(text)
    load = MachineWatch(root, sleep=lambda _: None).load()
    assert (load.busy, load.steal) == (None, None)


class NVMLError(Exception):
    pass


def nvml(monkeypatch, *, reasons=0x4, clock=900, missing=()):
    """A stand-in of pynvml with one GPU."""
    module = ModuleType("pynvml")
    values = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetDriverVersion": b"555.1",
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetName": "Tesla V100-SXM2",
        "nvmlDeviceGetPowerUsage": 250_000,
        "nvmlDeviceGetEnforcedPowerLimit": 300_000,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=2**30),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50),
        "nvmlDeviceGetCurrentClocksThrottleReasons": reasons,
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetMaxClockInfo": 1530,
        "nvmlDeviceGetTemperature": 70,
    }

    def function(name, value):
        def call(*_):
            if name in missing:
                raise NVMLError(name)
            return value

        return call

    for name, value in values.items():
        setattr(module, name, function(name, value))
    module.NVMLError = NVMLError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_without_nvml_nothing_is_known():
    assert read_gpus() == ()
    told = warnings_of(Machine("A", (), 4, 8, 1, "x", None), QUIET, "cuda:0")
    assert "nvidia-ml-py" in told[0]


def test_a_throttled_gpu_is_told(monkeypatch):
    nvml(monkeypatch)
    (state,) = read_gpus()
    assert (state.name, state.driver, state.power_w, state.reasons) == (
        "Tesla V100-SXM2",
        "555.1",
        250.0,
        ("power cap",),
    )
    told = warnings_of(Machine("A", (), 4, 8, 1, "x", None), replace(QUIET, gpus=(state,)), "cuda:0")
    assert told == [
        "Tesla V100-SXM2 was throttled: power cap.",
        "Tesla V100-SXM2 was seen at 900 MHz; it can do 1530.",
    ]
    assert warnings_of(Machine("A", (), 4, 8, 1, "x", None), replace(QUIET, gpus=(state,)), "cuda:1") == []


def test_an_idle_gpu_at_full_clock_is_fine(monkeypatch):
    nvml(monkeypatch, reasons=0x1, clock=1500)
    (state,) = read_gpus()
    assert state.reasons == ("idle",)
    assert warnings_of(Machine("A", (), 4, 8, 1, "x", None), replace(QUIET, gpus=(state,)), "cuda:0") == []


def test_what_a_gpu_does_not_tell_is_none(monkeypatch):
    nvml(monkeypatch, missing={"nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons"})
    (state,) = read_gpus()
    assert (state.power_w, state.reasons, state.temperature_c) == (None, (), 70)


def test_no_driver_is_no_gpu(monkeypatch):
    nvml(monkeypatch, missing={"nvmlInit"})
    assert read_gpus() == ()


def test_over_a_time_the_worst_counts():
    one = GpuState(0, "G", clock_mhz=1500, temperature_c=60, power_w=None, reasons=("idle",))
    two = GpuState(0, "G", clock_mhz=900, temperature_c=80, power_w=100.0, reasons=("power cap", "idle"))
    found = merge_states([one, two, one])
    assert (found.clock_mhz, found.temperature_c, found.power_w) == (900, 80, 100.0)
    assert found.reasons == ("idle", "power cap")


@pytest.mark.parametrize(
    ("changes", "facts", "gpu", "verdict"),
    [
        ({}, {}, "Tesla V100-SXM2-16GB", "the same hardware"),
        ({}, {}, "NVIDIA H200", "not comparable: other hardware"),
        ({}, {}, None, "not comparable: other hardware"),
        ({}, {"input_hw": [320, 640]}, "Tesla V100", "not comparable: the input is 320x640"),
        ({}, {"backend": "torch"}, "Tesla V100", "not comparable: the runtime is torch"),
        ({"precision": "fp16"}, {}, "Tesla V100", "not comparable: the precision is fp16"),
        ({"decode": {"mode": "raw"}}, {}, "V100", "not comparable: a raw graph has no suppression inside"),
    ],
)
def test_published_latencies(changes, facts, gpu, verdict):
    artifact = {
        "kind": "onnx",
        "architecture": "rtmo-l",
        "variant": "rtmo-l-body7",
        "precision": "fp32",
        "decode": {"mode": "onnx"},
        "skeleton": {"keypoints": ["k"] * 17},
        **changes,
    }
    found = published_latency(artifact, {"input_hw": [640, 640], "backend": "onnxruntime", **facts}, gpu)
    assert (found.model, found.latency_ms, found.verdict()) == ("rtmo-l-body7", 19.1, verdict)
    assert found.comparable == (verdict == "the same hardware")


@pytest.mark.parametrize(("name", "joints"), [("rtmo-t", 17), ("rtmo-n", 17), ("rtmo-l", 14)])
def test_where_nothing_was_published(name, joints):
    artifact = {
        "kind": "onnx",
        "architecture": name,
        "variant": None,
        "precision": "fp32",
        "decode": {"mode": "onnx"},
        "skeleton": {"keypoints": ["k"] * joints},
    }
    assert published_latency(artifact, {"input_hw": [640, 640], "backend": "onnxruntime"}, None) is None
