"""A time goes to the stage it was spent in; what a runtime does not tell apart is not made up."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.bench import BenchOptions, Contender, Spinning, pipeline
from rtmo_deploy.measure.bench.options import spinning_entries
from rtmo_deploy.measure.bench.pipeline import Pipeline, contender_artifact, open_pipeline
from rtmo_deploy.measure.bench.plan import image_sets
from rtmo_deploy.runtime import estimator
from rtmo_deploy.runtime.backends import open_backend
from rtmo_deploy.runtime.clock import STAGES, Clock, graph_stage
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.zoo import COCO_17

NAP = 0.25


def artifact(mode=DecodeMode.FIXED):
    return Artifact(
        Path("m.onnx"), Kind.ONNX, "rtmo-n", COCO_17, InputContract(64, 96), DecodeContract(mode, max_dets=5)
    )


def rows(images):
    """One person in each image."""
    dets = np.zeros((len(images), 5, 5), np.float32)
    dets[:, 0] = (10, 10, 40, 50, 0.9)
    return {"dets": dets, "keypoints": np.full((len(images), 5, 17, 3), 20, np.float32)}


class Backend:
    """A device that is none; ``before`` is called at the beginning of each of its stages."""

    facts: ClassVar = {"threads": 3}

    def __init__(self, before=lambda _: None, device="cuda:0"):
        self.artifact, self.device, self.before = artifact(), device, before

    def timed(self, images, clock):
        assert images.dtype == np.float32
        for stage in ("host->device", "network+NMS+DCC", "device->host"):
            self.before(stage)
            clock.lap(stage)
        return rows(images)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "p.png"
    assert cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))
    return path


@pytest.fixture
def slowed(monkeypatch):
    """A pipeline of which one stage takes a nap, by a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr(pipeline, "Clock", lambda: Clock(lambda: now[0]))

    def make(stage):
        def nap(at):
            now[0] += NAP * (at == stage)

        monkeypatch.setattr(pipeline, "draw_poses", lambda image, _: image)
        names = {
            "decode file": (pipeline, "read_image"),
            "letterbox": (estimator, "letterbox"),
            "rows to people": (pipeline, "outputs_to_poses"),
            "un-letterbox": (pipeline, "poses_to_original"),
            "draw": (pipeline, "draw_poses"),
        }
        if stage in names:
            original = getattr(*names[stage])

            def napping(*arguments):
                nap(stage)
                return original(*arguments)

            monkeypatch.setattr(*names[stage], napping)
        return Pipeline("fake", Backend(nap), None)

    return make


ALL = ("decode file", "letterbox", "host->device", "network+NMS+DCC", "device->host", "rows to people", "un-letterbox")


@pytest.mark.parametrize("stage", [*ALL, "draw"])
def test_a_slow_stage_is_blamed(slowed, image, stage):
    times, total, found = slowed(stage).call([image])
    assert list(times) == [*ALL, "draw"]
    assert found == [1]
    assert {name: value for name, value in times.items() if value} == {stage: 1000 * NAP}
    assert total == (0 if stage == "draw" else 1000 * NAP)


@pytest.mark.parametrize("stage", ["decode file", "letterbox", "host->device", "device->host", "rows to people"])
def test_only_the_network_counts_where_only_it_is_asked_for(slowed, image, stage):
    times, total, found = slowed(stage).network([image])
    assert list(times) == ["network+NMS+DCC"]
    assert times["network+NMS+DCC"] == total == 0
    assert found == [1]


def test_poses_are_in_pixels_of_the_image(monkeypatch, image):
    drawn = []
    monkeypatch.setattr(pipeline, "draw_poses", lambda image, poses: drawn.append((image.shape, poses)))
    Pipeline("fake", Backend(), None).call([image, image])
    assert len(drawn) == 2
    shape, poses = drawn[0]
    assert shape == (48, 64, 3)
    # 64x48 is enlarged by 4/3 into 96x64 and stands 5.33 from the left.
    assert poses.boxes[0] == pytest.approx([(10 - 16 / 3) * 0.75, 7.5, (40 - 16 / 3) * 0.75, 37.5], abs=1e-4)


def test_what_a_result_says_of_a_contender():
    facts = Pipeline("fake", Backend(), (64, 96)).facts()
    assert facts == {"backend": "fake", "device": "cuda:0", "input_hw": [64, 96], "threads": 3}


def test_only_pytorch_compiles(onnx_n):
    one = Contender("m", str(onnx_n), compiled=True)
    with pytest.raises(UsageError, match="Only PyTorch compiles"):
        open_pipeline(one, contender_artifact(one))


def stages_of(path, *, precision=None, backend=None):
    opened = open_backend(read_artifact(path), "cpu", backend=backend, threads=1, precision=precision)
    clock, images = Clock(), np.zeros((1, 3, 64, 64), np.float32)
    timed = opened.timed(images, clock)
    for name, value in opened(images).items():
        np.testing.assert_array_equal(timed[name], value)
    return list(clock.times), set(opened.facts)


def test_every_backend_times_what_a_call_does(onnx_n, checkpoint_n):
    assert stages_of(checkpoint_n) == (["network", "NMS+DCC"], {"threads", "compiled"})
    assert stages_of(onnx_n) == (["network+NMS+DCC"], {"providers", "threads", "config"})
    pytest.importorskip("openvino")
    assert stages_of(onnx_n, backend="openvino") == (["network+NMS+DCC"], {"runtime_threads", "runtime_precision"})


@pytest.mark.parametrize(("mode", "stage"), [(DecodeMode.RAW, "network"), (DecodeMode.FIXED, "network+NMS+DCC")])
def test_a_graph_that_decodes_is_called_so(mode, stage):
    assert graph_stage(artifact(mode)) == stage


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
def test_synthetic_images_have_exactly_so_many_people(tmp_path, people, monkeypatch):
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
    (one,) = image_sets(options, tmp_path)
    assert one.people == people
    assert len(one.paths) == 2 == counts.count(people)
    assert len(counts) == 3
    assert all(cv2.imread(str(path)).shape == (480, 640, 3) for path in one.paths)


def test_own_images_are_read_before_anything_is_measured(tmp_path, image):
    from rtmo_deploy.errors import InputDataError

    (one,) = image_sets(BenchOptions(models=(Path("m"),), images=tmp_path), tmp_path)
    assert one.paths == (image.resolve(),)
    (tmp_path / "q.png").write_bytes(image.read_bytes()[:60])
    with pytest.raises(InputDataError, match=r"q\.png"):
        image_sets(BenchOptions(models=(Path("m"),), images=tmp_path), tmp_path)


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


class Engine:
    """An engine that puts the same rows out whatever goes in."""

    def __init__(self, cuda):
        self.cuda, self.addresses = cuda, {}

    def create_execution_context(self):
        return self

    def set_optimization_profile_async(self, *_):
        return True

    def set_input_shape(self, _, shape):
        self.outputs = rows(range(shape[0]))
        return True

    def get_tensor_shape(self, name):
        return self.outputs[name].shape

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream):
        import ctypes

        assert stream == 7
        self.cuda.calls.append("run")
        for name, value in self.outputs.items():
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True


def test_an_engine_is_timed_between_two_events(monkeypatch):
    """With stand-ins of CUDA and of the engine; no GPU has seen this."""
    from rtmo_deploy.runtime import cuda, tensorrt_backend
    from rtmo_deploy.runtime.engine_file import Shape

    fake = Cuda()
    for module in (cuda, tensorrt_backend):
        monkeypatch.setattr(module, "cuda_runtime", lambda: fake)
        if hasattr(module, "checked"):
            monkeypatch.setattr(module, "checked", lambda result, _: result[1] if len(result) > 1 else None)
    names = ("input", ("dets", "keypoints"))
    bucket = tensorrt_backend.Bucket(Engine(fake), names, Shape(2, 64, 96), 0, 7, where=Path("m.engine"))
    for _ in range(2):
        clock = Clock()
        outputs = bucket.run_timed(np.ones((2, 3, 64, 96), np.float32), clock, "network+NMS+DCC")
        assert list(clock.times) == ["host->device", "network+NMS+DCC", "device->host"]
        assert clock.times["network+NMS+DCC"] == 3.5
        for name, value in rows([0, 0]).items():
            np.testing.assert_array_equal(outputs[name], value)
    start = fake.calls.index("cudaEventRecord")
    assert fake.calls[start : start + 4] == ["cudaEventRecord", "run", "cudaEventRecord", "cudaStreamSynchronize"]
    bucket.close()
    assert fake.calls.count("cudaEventDestroy") == 2
    assert sys.modules.get("tensorrt") is None
