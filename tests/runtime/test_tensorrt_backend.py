"""Running engines: what is checked before anything is loaded, arrays of others, and, on a GPU, the runs themselves."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime import cuda, tensorrt_backend
from rtmo_deploy.runtime.cuda import DeviceArray, Gpu, as_device_array, checked, find_gpu, read_capsule
from rtmo_deploy.runtime.engine_file import EngineRecord, Profile, Shape, engine_artifact, sidecar_path
from rtmo_deploy.runtime.tensorrt_backend import Bucket, TensorRtBackend, load
from rtmo_deploy.runtime.trt_api import TrtApi, installed_backends
from rtmo_deploy.zoo import COCO_17

BYTES = b"no plan at all"
HAS_CUDA = importlib.util.find_spec("cuda") is not None


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "m.engine"
    path.write_bytes(BYTES)
    artifact = Artifact(
        path, Kind.ENGINE, "rtmo-n", COCO_17, InputContract(64, 64), DecodeContract(DecodeMode.FIXED), precision="fp16"
    )
    size = Shape(1, 64, 64)
    record = EngineRecord(
        artifact,
        backend="tensorrt-rtx",
        version="1.7.1.116",
        gpu="none",
        compute_capability=None,
        targets=(),
        profiles=(Profile(size, size, size),),
        inputs=(),
        outputs=(),
        precision={},
        layers={},
        plugin=None,
        onnx_sha256="",
        sha256=hashlib.sha256(BYTES).hexdigest(),
        size=len(BYTES),
    )
    sidecar_path(path).write_text(json.dumps(record.to_dict()))
    return record


def no_gpu_here():
    return isinstance(find_gpu(), str)


def test_a_cpu_is_no_place_for_an_engine(engine):
    with pytest.raises(SetupError, match="runs on a GPU, and the device is cpu"):
        load(engine.artifact, "cpu", None)
    with pytest.raises(UsageError, match="--threads does not apply"):
        load(engine.artifact, "cuda:0", 2)


@pytest.mark.skipif(not HAS_CUDA or "tensorrt-rtx" not in installed_backends(), reason="needs the extra trt-rtx")
@pytest.mark.skipif(HAS_CUDA and not no_gpu_here(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_named(engine):
    with pytest.raises(SetupError) as caught:
        load(engine.artifact, "cuda:0", None)
    assert "could not find a GPU" in str(caught.value)
    assert caught.value.exit_code == 5
    assert isinstance(find_gpu(), str)


def test_an_engine_that_changed_after_it_was_read_is_not_loaded(engine):
    artifact = engine_artifact(engine.artifact.path)
    artifact.path.write_bytes(b"another")
    with pytest.raises(ArtifactError, match="It is not the engine that its record"):
        load(artifact, "cuda:0", None)


def with_machine(monkeypatch, *, version, capability, trt=None):
    module = trt or SimpleNamespace(__version__=version)
    monkeypatch.setattr(tensorrt_backend, "load_api", lambda variant: TrtApi(variant, module))
    monkeypatch.setattr(tensorrt_backend, "require_gpu", lambda index: Gpu(index, "a GPU", capability, "12.8"))


def test_what_differs_is_told_before_the_engine_is_loaded(engine, monkeypatch):
    with_machine(monkeypatch, version="1.6.0", capability="7.5")
    with pytest.raises(SetupError) as caught:
        load(engine.artifact, "cuda:0", None)
    assert "built by tensorrt-rtx 1.7.1.116" in str(caught.value)
    assert "installed is 1.6.0" in str(caught.value)
    assert "a GPU has 7.5" in str(caught.value)


class FakeRuntime:
    def __init__(self, logger):
        logger.log("Severity.ERROR", "Magic tag does not match")

    def deserialize_cuda_engine(self, plan):
        assert plan == BYTES


@pytest.mark.skipif(not HAS_CUDA, reason="needs cuda-bindings")
def test_what_tensorrt_does_not_load_is_an_error_with_its_reason(engine, monkeypatch):
    trt = SimpleNamespace(__version__="1.7.1.116", Runtime=FakeRuntime, ILogger=object)
    with_machine(monkeypatch, version="1.7.1.116", capability="8.9", trt=trt)
    monkeypatch.setattr(tensorrt_backend, "checked", lambda *_: None)
    with pytest.raises(ArtifactError, match="Magic tag does not match"):
        load(engine.artifact, "cuda:0", None)


def test_a_status_is_an_error_in_words(monkeypatch):
    class Status(int):
        name = "cudaErrorMemoryAllocation"

    runtime = SimpleNamespace(cudaGetErrorString=lambda *_: (0, b"out of memory"))
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    assert checked((0,), "do it") == ()
    assert checked((0, 5), "do it") == 5
    assert checked((0, 5, 6), "do it") == (5, 6)
    with pytest.raises(SetupError, match=r"could not do it: out of memory \(cudaErrorMemoryAllocation\)") as caught:
        checked((Status(2), None), "do it")
    assert "smaller batch" in caught.value.remedy


def test_cuda_that_is_not_installed_is_answered_with_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(cuda.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"rtmo-deploy\[trt\]"):
        cuda.cuda_runtime()
    assert "not installed" in str(find_gpu())


def interface(**changes):
    entry = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "strides": None, "version": 3}
    return SimpleNamespace(__cuda_array_interface__={**entry, **changes})


def test_an_array_of_somebody_else_is_read():
    value = interface(strides=(12, 4))
    array = as_device_array(value, stream=7)
    assert (array.pointer, array.shape, array.dtype, array.nbytes) == (4096, (2, 3), np.dtype("float32"), 24)
    assert array.owner is value
    assert as_device_array(array, stream=7) is array
    again = as_device_array(SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__), stream=7)
    assert again == array


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (interface(strides=(4, 8)), "not contiguous"),
        (interface(mask=3), "has a mask"),
        (np.zeros((2, 3), np.float32), "not on a CUDA GPU"),
        ([1, 2], "is a list"),
        (None, "is a NoneType"),
    ],
)
def test_what_cannot_be_used_is_refused(value, said):
    with pytest.raises(UsageError, match=said):
        as_device_array(value, stream=1)


def test_a_tensor_that_raises_is_refused():
    class Picky:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")

    with pytest.raises(UsageError, match="requires grad"):
        as_device_array(Picky(), stream=1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_a_dlpack_capsule_is_read(dtype):
    source = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    array = read_capsule(source.__dlpack__(), "input")
    assert (array.pointer, array.shape, array.dtype) == (source.ctypes.data, (2, 3, 4), source.dtype)
    held = (ctypes.c_byte * array.nbytes).from_address(array.pointer)
    assert np.array_equal(np.frombuffer(held, dtype).reshape(array.shape), source)
    with pytest.raises(UsageError, match="not contiguous"):
        read_capsule(source[:, ::2].__dlpack__(), "input")
    # One image of several is contiguous whatever the stride of its first side is.
    assert read_capsule(source[1:].__dlpack__(), "input").pointer == source[1:].ctypes.data


class FakeContext:
    """A context whose one output is twice the mean of each image, computed by whoever asks for it."""

    def __init__(self, outputs):
        self.outputs, self.calls = outputs, []

    def set_optimization_profile_async(self, index, stream):
        self.calls.append(("profile", index, stream))
        return True

    def set_input_shape(self, name, shape):
        self.calls.append(("shape", name, shape))
        return True

    def get_tensor_shape(self, name):
        return self.outputs[name]

    def set_tensor_address(self, name, pointer):
        self.calls.append(("address", name, pointer))
        return True

    def execute_async_v3(self, stream):
        self.calls.append(("execute", stream))
        return True


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket on memory of the host, and a log of what was done with it."""
    from rtmo_deploy.runtime import tensorrt_backend

    done = []

    class Memory:
        def device(self, count):
            return 1000 + count

        def pinned(self, shape, dtype):
            return np.zeros(shape, dtype)

        def close(self):
            done.append("closed")

    def record(_arena, _stream, work):
        work()
        done.append("recorded")
        return "graph"

    monkeypatch.setattr(tensorrt_backend, "Arena", Memory)
    monkeypatch.setattr(tensorrt_backend, "synchronize", lambda *_: done.append("wait"))
    monkeypatch.setattr(tensorrt_backend, "to_device", lambda *_: done.append("in"))
    monkeypatch.setattr(tensorrt_backend, "to_host", lambda *_: done.append("out"))
    monkeypatch.setattr(tensorrt_backend, "launch", lambda graph, _: done.append(graph))
    monkeypatch.setattr(tensorrt_backend, "capture", record)

    def make(outputs=None):
        context = FakeContext(outputs or {"dets": (2, 100, 5)})
        engine = SimpleNamespace(create_execution_context=lambda: context)
        made = Bucket(engine, ("input", ("dets",)), Shape(2, 64, 96), 3, 77, where=tmp_path / "m.engine")
        return made, context, done

    return make


def test_a_size_that_comes_again_is_replayed(bucket):
    made, context, done = bucket()
    assert context.calls == [("profile", 3, 77), ("shape", "input", (2, 3, 64, 96))]
    images = np.ones((2, 3, 64, 96), np.float32)
    for _ in range(4):
        assert made.run(images)["dets"].shape == (2, 100, 5)
    once = ["in", "out"]
    assert done == ["wait", *once, "wait", *once, "recorded", "graph", "wait", "graph", "wait", "graph", "wait"]
    # Buffers are bound once; TensorRT is called once directly and once for the recording.
    assert sum(call[0] == "address" for call in context.calls) == 2
    assert sum(call[0] == "execute" for call in context.calls) == 2
    made.close()
    assert done[-1] == "closed"


def test_a_short_batch_is_filled_with_its_last_picture(bucket):
    made, _, _ = bucket()
    image = np.full((1, 3, 64, 96), 5, np.float32)
    made.run(image)
    staged = made._pinned["input"]
    assert (staged == 5).all()


def test_results_outlive_the_next_run(bucket):
    made, _, _ = bucket()
    images = np.ones((2, 3, 64, 96), np.float32)
    first = made.run(images)["dets"]
    made._pinned["dets"][:] = 9
    assert (first == 0).all()


def test_a_recording_that_fails_is_said_and_done_without(bucket, monkeypatch, caplog):
    from rtmo_deploy.runtime import tensorrt_backend

    def refuse(arena, stream, work):
        raise SetupError("It cannot be recorded.")

    made, _, done = bucket()
    monkeypatch.setattr(tensorrt_backend, "capture", refuse)
    images = np.ones((2, 3, 64, 96), np.float32)
    for _ in range(3):
        made.run(images)
    assert done.count("in") == 3
    assert caplog.text.count("runs without a CUDA graph") == 1


def test_device_arrays_go_in_and_out_without_copies(bucket):
    made, context, done = bucket()
    source = DeviceArray(4096, (2, 3, 64, 96), np.dtype("float32"))
    target = DeviceArray(8192, (2, 100, 5), np.dtype("float32"))
    assert made.run_device(source, {"dets": target}, 5)["dets"] is target
    assert context.calls[-3:] == [("address", "input", 4096), ("address", "dets", 8192), ("execute", 5)]
    own = made.run_device(source, {}, 6)["dets"]
    assert own.shape == (2, 100, 5)
    assert made.run_device(source, {}, 6)["dets"].pointer == own.pointer
    assert done == ["wait"]
    with pytest.raises(UsageError, match="needed is"):
        made.run_device(source, {"dets": replace(target, shape=(2, 99, 5))}, 5)
    with pytest.raises(UsageError, match="no output called boxes"):
        made.run_device(source, {"boxes": target}, 5)


def test_outputs_whose_size_depends_on_data_are_refused(bucket):
    with pytest.raises(ArtifactError, match="depends on the image"):
        bucket({"dets": (2, -1, 5)})


@pytest.fixture
def backend(monkeypatch, engine):
    """A backend without a GPU: its buckets echo what they were asked."""
    made = object.__new__(TensorRtBackend)
    made.artifact, made.device, made._lock = engine.artifact, "cuda:0", threading.Lock()
    made._profiles = (Profile(Shape(2, 64, 64), Shape(2, 64, 64), Shape(4, 128, 128)),)
    asked = []

    def find(shape, *, on_device):
        def run(images):
            asked.append((str(shape), len(images), on_device))
            filled = np.concatenate([images, np.repeat(images[-1:], shape.batch - len(images), axis=0)])
            return {"means": filled.mean((1, 2, 3))}

        return SimpleNamespace(run=run)

    made._bucket = find
    return made, asked


def test_a_batch_beyond_the_profile_is_cut_and_put_together(backend):
    made, asked = backend
    images = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 64, 96), np.float32)
    assert made(images)["means"].tolist() == list(range(9))
    assert asked == [("4x64x96", 4, False), ("4x64x96", 4, False), ("2x64x96", 1, False)]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 100, 64), np.float32),
        np.zeros((1, 4, 64, 64), np.float32),
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((0, 3, 64, 64), np.float32),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}",
)
def test_a_wrong_input_is_refused(backend, images):
    made, asked = backend
    with pytest.raises(ArtifactError, match="does not run on input"):
        made(images)
    assert not asked


def test_a_size_outside_every_profile_is_refused(backend):
    made, _ = backend
    with pytest.raises(ArtifactError, match="was built for 2x64x64 to 4x128x128"):
        made(np.zeros((1, 3, 160, 64), np.float32))
    array = DeviceArray(1, (5, 3, 64, 64), np.dtype("float32"))
    with pytest.raises(ArtifactError, match="takes 2 to 4 images"):
        made.run_device(array, stream=1)


# What follows needs a GPU, a TensorRT for it, and builds its own engine there.


@pytest.fixture(scope="module")
def gpu_engine(checkpoint_n, tmp_path_factory):
    reason = find_gpu() if HAS_CUDA else "cuda-bindings is not installed"
    if isinstance(reason, str):
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    if not installed_backends():
        pytest.skip("needs tensorrt or tensorrt_rtx")
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.convert.trt import BuildOptions, build_engine
    from rtmo_deploy.model import load_checkpoint

    folder = tmp_path_factory.mktemp("gpu")
    source = folder / "n.onnx"
    export_onnx(load_checkpoint(checkpoint_n), source, ExportOptions(decode="fixed"), verify=False)
    result = build_engine(source, None, BuildOptions(max=(Shape(4, 640, 640),)))
    assert result.record.artifact.path.is_file()
    return source, load(engine_artifact(result.record.artifact.path), "cuda:0", None)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 192, 192), (3, 256, 320), (5, 192, 192)])
def test_on_a_gpu_an_engine_finds_what_onnxruntime_finds(gpu_engine, shape):
    from rtmo_deploy.measure import structured_images
    from rtmo_deploy.runtime.estimator import read_artifact
    from rtmo_deploy.runtime.onnxruntime_backend import load as load_ort

    source, made = gpu_engine
    images = structured_images(*shape)
    expected = load_ort(read_artifact(source), "cpu", 1)(images)
    for _ in range(3):  # plain, recorded, replayed
        found = made(images)
        assert np.abs(found["dets"] - expected["dets"]).max() < 0.05
        assert np.abs(found["keypoints"] - expected["keypoints"]).max() < 0.5


@pytest.mark.gpu
def test_on_a_gpu_the_same_picture_gives_the_same_people_in_every_row(gpu_engine):
    from rtmo_deploy.measure import structured_images

    _, made = gpu_engine
    images = np.repeat(structured_images(1, 192, 192), 4, axis=0)
    for value in made(images).values():
        assert all(np.array_equal(value[0], row) for row in value)


@pytest.mark.gpu
@pytest.mark.parametrize("package", ["torch", "cupy", "pycuda"])
def test_on_a_gpu_arrays_of_other_packages_go_in_and_out(gpu_engine, package):
    from rtmo_deploy.measure import structured_images

    _, made = gpu_engine
    images = structured_images(2, 192, 192)
    expected = made(images)["dets"]
    if package == "torch":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("torch was built without CUDA")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            source = torch.from_numpy(images).cuda()
            outputs = made.run_device(source, stream=stream.cuda_stream)
            stream.synchronize()
            found = torch.as_tensor(outputs["dets"], device="cuda").cpu().numpy()
    elif package == "cupy":
        cupy = pytest.importorskip("cupy")
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            outputs = made.run_device(cupy.asarray(images), stream=stream.ptr)
            stream.synchronize()
            found = cupy.asnumpy(cupy.asarray(outputs["dets"]))
    else:
        pytest.importorskip("pycuda")
        import pycuda.autoprimaryctx  # noqa: F401 - it makes the primary context current
        import pycuda.driver as cuda
        from pycuda import gpuarray

        stream = cuda.Stream()
        source = gpuarray.to_gpu_async(images, stream=stream)
        target = gpuarray.empty(expected.shape, np.float32)
        made.run_device(source, stream=stream.handle, outputs={"dets": target})
        stream.synchronize()
        found = target.get()
    assert np.abs(found - expected).max() < 1e-3
