"""The decode kernel and plugin on a GPU: the same bits as on the CPU, and engines that hold it.

Written without a GPU at hand: none of these has run so far.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from plugin_host import numpy_people, run_host
from test_plugin_kernel import DEFAULT, KINDS, make_scene

from rtmo_deploy.errors import SetupError
from rtmo_deploy.runtime.plugins.kernel import BLOCK, KERNEL_NAME, DecodeFields, DriverKernel, load_ptx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exported_graphs import Exported


def _gpus() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not _gpus(), reason="needs a CUDA GPU")]


def call(name: str, *arguments: Any) -> None:
    status = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    assert status == 0, f"{name}: CUDA error {status}"


@pytest.fixture(scope="module")
def context() -> None:
    device, handle = ctypes.c_int(), ctypes.c_void_p()
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), device)
    call("cuCtxSetCurrent", handle)


class Buffers:
    """Arrays on the GPU; outputs are filled with rubbish."""

    def __init__(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        self.arrays, self.addresses = arrays, []
        for array in arrays:
            address = ctypes.c_ulonglong()
            call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(array.nbytes))
            self.addresses.append(address.value)
            call(
                "cuMemcpyHtoD_v2",
                address,
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_size_t(array.nbytes),
            )

    def fetch(self) -> list[np.ndarray[Any, Any]]:
        call("cuCtxSynchronize")
        for address, array in zip(self.addresses, self.arrays, strict=True):
            call(
                "cuMemcpyDtoH_v2",
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_ulonglong(address),
                ctypes.c_size_t(array.nbytes),
            )
        return self.arrays

    def free(self) -> None:
        for address in self.addresses:
            call("cuMemFree_v2", ctypes.c_ulonglong(address))


def run_gpu(
    kernel: DriverKernel, scene: tuple[np.ndarray[Any, Any], ...], fields: DecodeFields
) -> list[np.ndarray[Any, Any]]:
    expected = run_host(*scene, fields)
    outputs = [expected.num_dets, expected.boxes, expected.scores, expected.kept, expected.work]
    rubbish = [np.full(array.shape, -7, array.dtype) for array in outputs]
    given, made = Buffers([np.ascontiguousarray(array) for array in scene]), Buffers(rubbish)
    try:
        batch, cells = scene[0].shape
        kernel.launch(batch, BLOCK, given.addresses, fields.scalars(cells), made.addresses, 0)
        return made.fetch()
    finally:
        given.free()
        made.free()


@pytest.mark.usefixtures("context")
def test_the_kernel_on_the_gpu_is_the_kernel_on_the_cpu() -> None:
    kernel = DriverKernel(load_ptx(), KERNEL_NAME)
    rng = np.random.default_rng(0)
    people = 0
    for seed in range(300):
        kinds = [str(kind) for kind in rng.choice(KINDS, rng.integers(1, 9))]
        scene = make_scene(kinds, int(rng.choice([5, 60, 512, 2000])), seed)
        fields = DecodeFields(int(rng.integers(1, 100)), 0.1, float(rng.choice([0.3, 0.65])), int(rng.choice([0, 40])))
        expected = run_host(*scene, fields)
        num_dets, boxes, scores, kept, _ = run_gpu(kernel, scene, fields)
        np.testing.assert_array_equal(num_dets, expected.num_dets)
        np.testing.assert_array_equal(kept, expected.kept)
        np.testing.assert_array_equal(scores, expected.scores)
        np.testing.assert_array_equal(boxes, expected.boxes)
        people += int(num_dets.sum())
    assert people > 3000


@pytest.mark.usefixtures("context")
def test_the_kernel_on_the_gpu_is_numpy() -> None:
    kernel = DriverKernel(load_ptx(), KERNEL_NAME)
    for seed in range(30):
        scene = make_scene(["crowd", "ties", "together", "few"], 700, seed)
        num_dets, _, _, kept, _ = run_gpu(kernel, scene, DEFAULT)
        for image, (cells, _, _) in enumerate(numpy_people(*scene, DEFAULT)):
            assert kept[image, : num_dets[image, 0]].tolist() == cells


@pytest.mark.usefixtures("context")
def test_a_bad_launch_is_an_error() -> None:
    with pytest.raises(SetupError, match="cuLaunchKernel"):
        DriverKernel(load_ptx(), KERNEL_NAME).launch(1, 4096, [0] * 3, DEFAULT.scalars(1), [0] * 5, 0)


#: Builds and runs an engine in one form of the plugin; another process runs the engine that was written.
ENGINE = """
import json, sys
import numpy as np, torch
import tensorrt as trt
from rtmo_deploy.runtime.plugins import PluginForm, network_flags, register_plugin

action, form, model, plan, images, output = sys.argv[1:]
log = trt.Logger(trt.Logger.WARNING)
if action == "build" or form == "python":
    register_plugin(trt, PluginForm(form))
if action == "build":
    builder = trt.Builder(log)
    strongly = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly | network_flags(trt, PluginForm(form)))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(model):
        sys.exit("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile.set_shape("input", (1, 3, 32, 32), (2, 3, 128, 160), (4, 3, 256, 256))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        sys.exit("no engine")
    open(plan, "wb").write(bytes(built))
engine = trt.Runtime(log).deserialize_cuda_engine(open(plan, "rb").read())
context = engine.create_execution_context()
x = torch.from_numpy(np.load(images)).cuda()
context.set_input_shape("input", tuple(x.shape))
context.set_tensor_address("input", x.data_ptr())
found = {name: torch.full(tuple(context.get_tensor_shape(name)), -7.0, device="cuda") for name in ("dets", "keypoints")}
for name, tensor in found.items():
    context.set_tensor_address(name, tensor.data_ptr())
stream = torch.cuda.Stream()
with torch.cuda.stream(stream):
    assert context.execute_async_v3(stream.cuda_stream)
stream.synchronize()
plain = {name: tensor.clone() for name, tensor in found.items()}
for tensor in found.values():
    tensor.fill_(-7)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, stream=stream):
    assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
graph.replay()
torch.cuda.synchronize()
assert all(torch.equal(plain[name], found[name]) for name in found)
np.savez(output, **{name: tensor.cpu().numpy() for name, tensor in plain.items()})
print(json.dumps({"own_modules": "rtmo_deploy.runtime.plugins.kernel" in sys.modules}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["python", "aot"])
def test_an_engine_finds_the_same_people(exported: Callable[..., Exported], tmp_path: Path, form: str) -> None:
    trt = pytest.importorskip("tensorrt")
    torch = pytest.importorskip("torch")
    if not hasattr(trt, "IPluginV3") or not torch.cuda.is_available():
        pytest.skip("needs TensorRT and a PyTorch with CUDA")
    if form == "aot" and not hasattr(trt, "QuickPluginCreationRequest"):
        pytest.skip("this TensorRT has no ahead-of-time plugins")
    from plugin_graph import session
    from test_plugin_rewrite import DYNAMIC, assert_same_people

    from rtmo_deploy.convert.plugins.rewrite import plugin_onnx
    from rtmo_deploy.measure import structured_images

    fixed = exported(DYNAMIC)
    model, plan, images = tmp_path / "plugin.onnx", tmp_path / "engine", tmp_path / "images.npy"
    plugin_onnx(fixed.path, model)
    pictures = structured_images(2, 128, 160)
    np.save(images, pictures)
    wanted = session(fixed.graph).run(None, {"input": pictures})
    for action in ("build", "run"):
        output = tmp_path / f"{action}.npz"
        arguments = [action, form, model, plan, images, output]
        child = subprocess.run(
            [sys.executable, "-c", ENGINE, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr[-3000:]
        with np.load(output) as found:
            assert assert_same_people([found["dets"], found["keypoints"]], wanted) > 0
        assert json.loads(child.stdout.splitlines()[-1])
