"""Probes one thing, in a process of its own, which may crash, hang or print: ``python -P probes.py torch``.

It is run as a file, not as a module of the package, so that it starts whatever else is broken; what a probe needs is
imported by that probe. It writes lines of JSON, each with more of the answer, so that what was found before a crash is
kept. What libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtmo_deploy.child import end_with_parent, open_answers

#: Called with more of the answer.
Tell = Callable[..., None]

#: An ONNX model, opset 17: ``y`` (1, 1, 1, 4) = 1x1 convolution of ``x`` (1, 1, 1, 4) with the weight 2.
TINY_NETWORK = bytes.fromhex(
    "08083a630a0f0a01780a01771201792204436f6e761201672a13080108010801080110014201774a04000000405a1b0a01781216"
    "0a14080112100a0208010a0208010a0208010a020804621b0a017912160a14080112100a0208010a0208010a0208010a02080442"
    "040a001011"
)
#: Import names of the required packages with compiled code, which can be installed and not work.
COMPILED = {
    "numpy": "numpy",
    "ml-dtypes": "ml_dtypes",
    "onnx": "onnx",
    "onnxsim": "onnxsim",
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "faster-coco-eval": "faster_coco_eval",
}
#: Devices of this project, by the provider that serves them.
_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda:0"}
#: Folders of the cache that are counted at most.
_MAX_FOLDERS = 20_000


def _torch(tell: Tell) -> None:
    import torch

    tell(version=str(torch.__version__), cuda=torch.version.cuda, hip=torch.version.hip)
    with contextlib.suppress(RuntimeError):  # cuDNN is there in two versions: told by the GPU's row
        tell(cudnn=torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    tell(available=available, why=" ".join(str(warning.message) for warning in said))
    if not available:
        return
    tell(archs=[str(arch) for arch in torch.cuda.get_arch_list()])
    try:
        found = float((torch.ones(4, device="cuda") * 2).sum())
    except RuntimeError as error:
        tell(computes=False, why=_first_line(error))
    else:
        tell(computes=found == 8, why="" if found == 8 else f"2 + 2 + 2 + 2 was {found:g} on the GPU")


def _onnxruntime(tell: Tell) -> None:
    import onnxruntime as ort

    tell(version=str(ort.__version__), cuda=str(getattr(ort, "cuda_version", None) or "") or None)
    tell(providers=[str(name) for name in ort.get_available_providers()])
    from rtmo_deploy.runtime.onnxruntime_backend import saturates

    tell(saturates=saturates())


def _provider(tell: Tell, name: str) -> None:
    import numpy as np
    import onnxruntime as ort

    from rtmo_deploy.errors import SetupError
    from rtmo_deploy.runtime.onnxruntime_backend import open_session

    session = None
    if name in _DEVICES:  # as the commands do it
        with contextlib.suppress(SetupError):
            session = open_session(TINY_NETWORK, device=_DEVICES[name], where="a small network")
    if session is None:
        session = ort.InferenceSession(TINY_NETWORK, providers=[name])
    if session.get_providers()[0] != name:
        tell(usable=False)  # why, stands in what it printed
        return
    session.disable_fallback()
    found = session.run(None, {"x": np.ones((1, 1, 1, 4), np.float32)})[0]
    good = bool(np.all(found == 2))
    tell(usable=good, why="" if good else f"1 x 2 was {found.flat[0]:g} there")


def _openvino(tell: Tell) -> None:
    import openvino

    tell(version=openvino.__version__.split("-")[0])
    core = openvino.Core()
    devices: dict[str, str] = {}
    for name in core.available_devices:
        devices[name] = str(core.get_property(name, "FULL_DEVICE_NAME"))
        tell(devices=devices)
    from rtmo_deploy.runtime.openvino_backend import saturates

    tell(saturates=saturates())


def _trt(tell: Tell, name: str) -> None:
    from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, load_api

    tell(version=load_api(TRT_VARIANTS[name]).version)


def _bindings(tell: Tell) -> None:
    from rtmo_deploy.runtime.cuda import find_gpu

    found = find_gpu()
    tell(gpu=not isinstance(found, str), why=found if isinstance(found, str) else "")


def _packages(tell: Tell) -> None:
    import importlib

    failed = {}
    for name in COMPILED.values():
        try:
            importlib.import_module(name)
        except (ImportError, OSError, AttributeError, RuntimeError, ValueError, SystemError) as error:
            failed[name] = f"{type(error).__name__}: {_first_line(error)}"
        tell(imports=failed)
    from rtmo_deploy.errors import ArtifactError
    from rtmo_deploy.runtime.plugins.kernel import load_ptx

    try:
        load_ptx()
    except ArtifactError as error:
        tell(kernel_file=error.finding)


def _driver(tell: Tell) -> None:
    import ctypes

    from rtmo_deploy.machine import module_version

    tell(card=_nvidia_card(Path("/sys/bus/pci/devices")))
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return
    tell(there=True, version=module_version(Path("/proc/driver/nvidia/version")))
    number = ctypes.c_int()
    if not cuda.cuDriverGetVersion(ctypes.byref(number)):
        tell(cuda=[number.value // 1000, number.value % 1000 // 10])
    code = cuda.cuInit(0)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        tell(error=(text.value or b"unknown error").decode(errors="replace"), code=code)
        return
    cuda.cuDeviceGetCount(ctypes.byref(number))
    devices = [ctypes.c_int() for _ in range(number.value)]
    for index, device in enumerate(devices):
        cuda.cuDeviceGet(ctypes.byref(device), index)
    gpus = [{"index": index, **_gpu(cuda, device)} for index, device in enumerate(devices)]
    tell(gpus=gpus)
    for gpu, device in zip(gpus, devices, strict=True):
        gpu["kernel"], gpu["kernel_why"] = _try_kernel(cuda, device)
        tell(gpus=gpus)


def _gpu(cuda: Any, device: Any) -> dict[str, Any]:
    """A GPU by the driver's API; 75 and 76 are its attributes of the compute capability."""
    import ctypes

    value, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (75, 76):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    known = cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device) == 0
    text = name.value.decode(errors="replace")
    return {"name": text, "capability": capability, "memory": memory.value if known else None}


def _try_kernel(cuda: Any, device: Any) -> tuple[bool | None, str]:
    """Have the driver compile the shipped PTX for a GPU, in that GPU's own context; why it did not."""
    import ctypes

    from rtmo_deploy.errors import RtmoDeployError
    from rtmo_deploy.runtime.plugins.kernel import KERNEL_NAME, DriverKernel, load_ptx

    context = ctypes.c_void_p()
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) or cuda.cuCtxSetCurrent(context):
        return None, "no context could be made on this GPU"
    try:
        DriverKernel(load_ptx(), KERNEL_NAME).prepare()
    except RtmoDeployError as error:
        return False, error.finding
    return True, ""


def _nvidia_card(devices: Path) -> bool | None:
    """Whether the PCI bus shows a display or 3D controller (class 03) of NVIDIA (vendor 10de)."""
    if not devices.is_dir():
        return None
    for device in devices.iterdir():
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == "0x10de" and kind.startswith("0x03"):
                return True
    return False


def _machine(tell: Tell) -> None:
    from rtmo_deploy.machine import MachineWatch, read_machine, warnings_of

    machine = read_machine()
    tell(name=machine.cpu, flags=list(machine.flags), cores=machine.cores, cores_total=machine.cores_total)
    tell(memory=machine.memory, quota=_quota(Path("/sys/fs/cgroup")))
    tell(notes=warnings_of(machine, MachineWatch().load(), "cpu"))


def _quota(folder: Path) -> float | None:
    """Cores' worth of time that the container may use (cgroup 2, then 1); None where nothing limits it."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            share, period = " ".join((folder / name).read_text() for name in names).split()
            if share not in {"max", "-1"}:
                return int(share) / int(period)
    return None


def _working(tell: Tell) -> None:
    _tell_folder(tell, Path.cwd())


def _cache(tell: Tell) -> None:
    from rtmo_deploy.errors import SetupError
    from rtmo_deploy.zoo.cache import cache_dir, is_offline
    from rtmo_deploy.zoo.hub import endpoint
    from rtmo_deploy.zoo.sources import mirrors

    try:
        is_offline()
        mirrors()
        endpoint()
    except SetupError as error:
        tell(setting=f"{error.where}: {error.finding}")
    path = cache_dir()
    _tell_folder(tell, path)
    if path.is_dir():
        size = 0
        for count, (folder, _, names) in enumerate(os.walk(path)):
            for name in names:
                with contextlib.suppress(OSError):
                    size += os.lstat(Path(folder) / name).st_size
            if count > _MAX_FOLDERS:
                return
        tell(size=size)


def _tell_folder(tell: Tell, path: Path) -> None:
    """Whether a folder, or the nearest one above it that exists, can be written to, and what is free there."""
    import shutil
    import tempfile

    tell(path=str(path), exists=path.is_dir())
    place = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    with contextlib.suppress(OSError):
        tell(free=shutil.disk_usage(place).free)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        tell(writable=False, why=error.strerror or str(error))
    else:
        tell(writable=True)


PROBES: dict[str, Callable[..., None]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "provider": _provider,
    "openvino": _openvino,
    "trt": _trt,
    "bindings": _bindings,
    "packages": _packages,
    "driver": _driver,
    "machine": _machine,
    "working": _working,
    "cache": _cache,
}


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main(arguments: list[str]) -> None:
    """Run one probe and write its answer: its name, and what it takes."""
    tell = open_answers()
    end_with_parent()

    def give_up(kind: type[BaseException], error: BaseException, _: object) -> None:
        finding = getattr(error, "finding", None)  # this project's own errors say it in a sentence
        tell(failed=str(finding) if finding else f"{kind.__name__}: {_first_line(error)}")

    sys.excepthook = give_up
    name, *rest = arguments
    PROBES[name](tell, *rest)
    tell(ended=True)
    # Nothing of what was loaded needs to be put away in order, and some of it crashes when it is.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
