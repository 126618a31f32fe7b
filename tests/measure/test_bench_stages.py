"""A time goes to the stage it was spent in; what a runtime does not tell apart is not made up."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Kind
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench import BenchOptions, Spinning, pipeline
from rtmo_deploy.measure.bench.clock import STAGES, Clock
from rtmo_deploy.measure.bench.ort_runner import spinning_entries
from rtmo_deploy.measure.bench.pictures import picture_sets
from rtmo_deploy.measure.bench.pipeline import Pipeline
from rtmo_deploy.measure.bench.runners import BackendRunner, TimedBackend
from rtmo_deploy.zoo import COCO_17

NAP = 0.25


def artifact(mode=DecodeMode.FIXED):
    return Artifact(
        Path("m.onnx"), Kind.ONNX, "rtmo-n", COCO_17, InputContract(64, 96), DecodeContract(mode, max_dets=5)
    )


def rows(images):
    """One person in each picture."""
    dets = np.zeros((len(images), 5, 5), np.float32)
    dets[:, 0] = (10, 10, 40, 50, 0.9)
    return {"dets": dets, "keypoints": np.full((len(images), 5, 17, 3), 20, np.float32)}


class Runner:
    """A device that is none."""

    artifact, device, backend = artifact(), "cuda:0", "fake"
    upload_stage, compute_stages, fetch_stage, host_stage = (
        "host->device",
        ("network+NMS+DCC",),
        "device->host",
        "rows to people",
    )

    def __init__(self, slow=""):
        self.facts = {"threads": 3}
        self.slow = slow

    def nap(self, what):
        if self.slow == what:
            time.sleep(NAP)

    def upload(self, images):
        self.nap("host->device")
        assert images.dtype == np.float32
        return images

    def compute(self, handle, clock):
        self.nap("network+NMS+DCC")
        clock.lap("network+NMS+DCC")
        return rows(handle)

    def fetch(self, outputs):
        self.nap("device->host")
        return outputs


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "p.png"
    assert cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))
    return path


@pytest.fixture
def slowed(monkeypatch):
    """A pipeline of which one stage takes a nap. Nothing is drawn: drawing loads much the first time."""

    def make(stage):
        monkeypatch.setattr(pipeline, "draw_poses", lambda image, _: image)
        names = {
            "decode file": "read_image",
            "letterbox": "letterbox",
            "rows to people": "outputs_to_poses",
            "un-letterbox": "_to_original",
            "draw": "draw_poses",
        }
        if stage in names:
            original = getattr(pipeline, names[stage])

            def napping(*arguments):
                time.sleep(NAP)
                return original(*arguments)

            monkeypatch.setattr(pipeline, names[stage], napping)
        return Pipeline(Runner(stage), None)

    return make


ALL = ("decode file", "letterbox", "host->device", "network+NMS+DCC", "device->host", "rows to people", "un-letterbox")


@pytest.mark.parametrize("stage", [*ALL, "draw"])
def test_a_slow_stage_is_blamed(slowed, picture, stage):
    times, total, found = slowed(stage).call([picture])
    assert list(times) == [*ALL, "draw"]
    assert found == [1]
    assert times[stage] >= 1000 * NAP * 0.99
    assert max(times, key=times.get) == stage
    before_drawing = sum(value for name, value in times.items() if name != "draw")
    assert total == pytest.approx(before_drawing, rel=0.01, abs=1)


@pytest.mark.parametrize("stage", ["decode file", "letterbox", "host->device", "device->host", "rows to people"])
def test_only_the_network_counts_where_only_it_is_asked_for(slowed, picture, stage):
    times, found = slowed(stage).network([picture])
    assert list(times) == ["network+NMS+DCC"]
    assert times["network+NMS+DCC"] < 1000 * NAP
    assert found == [1]


def test_poses_are_in_pixels_of_the_picture(monkeypatch, picture):
    drawn = []
    monkeypatch.setattr(pipeline, "draw_poses", lambda image, poses: drawn.append((image.shape, poses)))
    Pipeline(Runner(), None).call([picture, picture])
    assert len(drawn) == 2
    shape, poses = drawn[0]
    assert shape == (48, 64, 3)
    # 64x48 is enlarged by 4/3 into 96x64 and stands 5.33 from the left.
    assert poses.boxes[0] == pytest.approx([(10 - 16 / 3) * 0.75, 7.5, (40 - 16 / 3) * 0.75, 37.5], abs=1e-4)


class Plain:
    """A backend without a clock of its own."""

    def __init__(self, device="cpu", mode=DecodeMode.FIXED):
        self.artifact, self.device = artifact(mode), device

    def __call__(self, images):
        return rows(images)


class Timed(Plain):
    def timed(self, images):
        return rows(images), {"host->device": 1.0, "network": 7.0, "device->host": 2.0}


@pytest.mark.parametrize(
    ("backend", "stages"),
    [
        (Plain(), ("network+NMS+DCC",)),
        (Plain(mode=DecodeMode.RAW), ("network",)),
        (Plain("cuda:0"), ("copies+network+NMS+DCC",)),
        (Plain("cuda:0", DecodeMode.RAW), ("copies+network",)),
        (Timed("cuda:0"), ("host->device", "network+NMS+DCC", "device->host")),
    ],
)
def test_what_is_not_told_apart_says_so(backend, stages):
    runner, clock = BackendRunner(backend), Clock()
    assert runner.compute_stages == stages
    runner.compute(runner.upload(np.zeros((1, 3, 64, 96), np.float32)), clock)
    assert tuple(clock.times) == stages
    assert isinstance(backend, TimedBackend) == (len(stages) == 3)


def test_a_backend_that_measures_itself_is_believed(picture):
    times, _ = Pipeline(BackendRunner(Timed("cuda:0")), None).network([picture])
    assert times == {"network+NMS+DCC": 7.0}


def test_the_network_alone_cannot_be_asked_of_everybody(picture):
    with pytest.raises(UsageError, match="does not tell the network from the copies"):
        Pipeline(BackendRunner(Plain("cuda:0")), None).network([picture])


def test_a_clock():
    ticks = iter([0.0, 1.0, 1.5, 4.0, 4.25, 5.0])
    clock = Clock(lambda: next(ticks))
    clock.lap("a")
    clock.lap("b")
    clock.skip()
    clock.lap("a")
    clock.add("c", 3.0)
    assert clock.times == {"a": 1250.0, "b": 500.0, "c": 3.0}
    assert clock.total() == 5000.0
    assert len(set(STAGES)) == len(STAGES)


@pytest.mark.parametrize(
    ("spinning", "entries"), [(Spinning.STOP, ("1", "1")), (Spinning.ON, ("1", "0")), (Spinning.OFF, ("0", "0"))]
)
def test_spinning_is_chosen(spinning, entries):
    assert tuple(spinning_entries(spinning).values()) == entries


@pytest.mark.parametrize("people", [0, 1, 10, 50])
def test_drawn_pictures_have_exactly_so_many_people(tmp_path, people, monkeypatch):
    from rtmo_deploy.data import synthetic

    counts = []
    original = synthetic.SyntheticPeople.__getitem__

    def counting(self, index):
        sample = original(self, index)
        if index == 0:  # as if there had been no room for one
            nobody = SimpleNamespace(boxes=np.zeros((people - 1 if people else 1, 4), np.float32))
            sample = SimpleNamespace(image=sample.image, people=nobody)
        counts.append(len(sample.people.boxes))
        return sample

    monkeypatch.setattr(synthetic.SyntheticPeople, "__getitem__", counting)
    options = BenchOptions(models=(Path("m"),), people=(people,), pictures=2)
    (one,) = picture_sets(options, tmp_path)
    assert one.people == people
    assert len(one.paths) == 2 == counts.count(people)
    assert len(counts) == 3
    assert all(cv2.imread(str(path)).shape == (480, 640, 3) for path in one.paths)


def test_own_pictures_are_read_before_anything_is_measured(tmp_path, picture):
    from rtmo_deploy.errors import InputDataError

    (one,) = picture_sets(BenchOptions(models=(Path("m"),), images=tmp_path), tmp_path)
    assert one.paths == (picture.resolve(),)
    (tmp_path / "q.png").write_bytes(picture.read_bytes()[:60])
    with pytest.raises(InputDataError, match=r"q\.png"):
        picture_sets(BenchOptions(models=(Path("m"),), images=tmp_path), tmp_path)


class Cuda(ModuleType):
    """The calls of ``cuda.bindings.runtime`` that measuring an engine makes; 'device' memory is the host's."""

    def __init__(self):
        super().__init__("runtime")
        self.calls, self.memory, self.clock = [], {}, 0.0
        self.cudaStreamNonBlocking = 1
        self.cudaMemcpyKind = type("Kind", (), {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            return self.answer(name, arguments)

        return call

    def answer(self, name, arguments):
        import ctypes

        if name in {"cudaMalloc", "cudaMallocHost"}:
            block = ctypes.create_string_buffer(arguments[0])
            self.memory[ctypes.addressof(block)] = block
            return 0, ctypes.addressof(block)
        if name == "cudaMemcpyAsync":
            ctypes.memmove(arguments[0], arguments[1], arguments[2])
        if name in {"cudaStreamCreateWithFlags", "cudaEventCreate"}:
            return 0, 7
        return (0, 3.5) if name == "cudaEventElapsedTime" else (0,)


def test_an_engine_is_timed_between_two_events(monkeypatch):
    """With stand-ins of CUDA and of the engine; no GPU has seen this."""
    from rtmo_deploy.measure.bench import trt_runner
    from rtmo_deploy.runtime import cuda
    from rtmo_deploy.runtime.cuda import DeviceArray, Gpu

    fake = Cuda()
    for module in (cuda, trt_runner):
        monkeypatch.setattr(module, "cuda_runtime", lambda: fake)
        if hasattr(module, "checked"):
            monkeypatch.setattr(module, "checked", lambda result, _: result[1] if len(result) > 1 else None)
    monkeypatch.setattr(trt_runner, "require_gpu", lambda index: Gpu(index, "Fake", "7.0", "12.0"))
    results = {name: np.ascontiguousarray(value) for name, value in rows([0, 0]).items()}

    class Engine(Plain):
        def run_device(self, images, *, stream):
            fake.calls.append("run")
            assert stream == 7
            assert images.shape == (2, 3, 64, 96)
            return {name: DeviceArray(v.ctypes.data, v.shape, v.dtype) for name, v in results.items()}

    runner, clock = trt_runner.TrtRunner(Engine("cuda:0")), Clock()
    outputs = runner.compute(runner.upload(np.ones((2, 3, 64, 96), np.float32)), clock)
    assert clock.times == {"network+NMS+DCC": 3.5}
    start = fake.calls.index("cudaEventRecord")
    assert fake.calls[start : start + 4] == ["cudaEventRecord", "run", "cudaEventRecord", "cudaStreamSynchronize"]
    found = runner.fetch(outputs)
    for name, value in results.items():
        np.testing.assert_array_equal(found[name], value)
    assert runner.facts["device_name"] == "Fake"
    assert sys.modules.get("tensorrt") is None
