"""Rules for what runs on a GPU: driver, GPUs, the shipped kernel, PyTorch and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.packages import install_line
from rtmo_deploy.measure.doctor.report import Row, Verdict
from rtmo_deploy.measure.doctor.words import dotted, gib, troubled

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts
    from rtmo_deploy.measure.doctor.parts import DriverFacts, GpuFacts, TrtFacts

_AREA = "gpu"
#: Compute capability that the shipped PTX is for, and the CUDA whose drivers can compile it.
KERNEL_BEGINS, KERNEL_CUDA = (7, 0), (12, 1)
#: CUDA's numbers of errors: a driver library for linking alone; no GPU.
_STUB, _NO_DEVICE = 34, 100
_TORCH_BUILDS = "https://pytorch.org/get-started/locally"


def gpu_rows(facts: Facts) -> list[Row]:
    """The rows of this area."""
    return [
        _driver(facts),
        *(_gpu(gpu) for gpu in facts.gpus),
        *_kernel(facts),
        *_torch(facts),
        _trt(facts, "TensorRT", facts.tensorrt, "tensorrt", "trt"),
        _trt(facts, "TensorRT-RTX", facts.tensorrt_rtx, "tensorrt-rtx", "trt-rtx"),
        *_bindings(facts),
    ]


def _driver(facts: Facts) -> Row:
    name, driver = "CUDA driver", facts.driver
    if driver is None:
        if facts.nvidia_card:
            finding = "There is a graphics card of NVIDIA, and no CUDA driver for it."
            remedy = "Install NVIDIA's driver; a container needs to be given the GPU (docker run --gpus all)."
            return Row(_AREA, name, Verdict.WARNING, finding, remedy)
        return Row(_AREA, name, Verdict.ABSENT, "None, and no GPU of NVIDIA: everything runs on the CPU.")
    newest = f"CUDA up to {dotted(driver.cuda)}" if driver.cuda else "CUDA version not known"
    text = f"{driver.version}, {newest}" if driver.version else newest
    if driver.error:
        return _driver_error(facts, driver, text)
    if driver.trouble is not None:
        return troubled(_AREA, name, driver.trouble, "Does 'nvidia-smi' work? If not, install the driver again.")
    if not driver.gpus:
        return Row(_AREA, name, Verdict.WARNING, f"{text}; it shows no GPU.", _unhide(facts))
    return Row(_AREA, name, Verdict.FINE, f"{text}.")


def _driver_error(facts: Facts, driver: DriverFacts, text: str) -> Row:
    name = "CUDA driver"
    if driver.code == _STUB:
        finding = "What is found is the library for linking alone (a stub), not a driver."
        return Row(_AREA, name, Verdict.WARNING, finding, "Take the stubs folder out of LD_LIBRARY_PATH.")
    finding = f"{text}; it cannot be used: {driver.error} (CUDA error {driver.code})."
    if driver.code == _NO_DEVICE and (facts.hidden is not None or not facts.nvidia_card):
        return Row(_AREA, name, Verdict.WARNING, finding, _unhide(facts))
    remedy = "Does 'nvidia-smi' work? After an update of the driver, restart; else install it again."
    return Row(_AREA, name, Verdict.BROKEN, finding, remedy)


def _unhide(facts: Facts) -> str:
    if facts.hidden is not None:
        return f"CUDA_VISIBLE_DEVICES is '{facts.hidden}': unset it if a GPU should be used."
    return "If a GPU should be there: does 'nvidia-smi' show it? A container has to be given it."


def _gpu(gpu: GpuFacts) -> Row:
    memory = f", {gib(gpu.memory)}" if gpu.memory else ""
    finding = f"{gpu.name}, compute capability {dotted(gpu.capability)}{memory}."
    return Row(_AREA, f"cuda:{gpu.index}", Verdict.FINE, finding)


def _kernel(facts: Facts) -> list[Row]:
    name = "decode kernel"
    if facts.kernel_file:
        return [Row(_AREA, name, Verdict.BROKEN, facts.kernel_file, "Reinstall rtmo-deploy.")]
    begins = f"PTX for compute capability {dotted(KERNEL_BEGINS)} and later"
    if not facts.gpus:
        return [Row(_AREA, name, Verdict.FINE, f"{begins}; there is no GPU here to try it on.")]
    return [_kernel_on(facts, gpu, begins) for gpu in facts.gpus]


def _kernel_on(facts: Facts, gpu: GpuFacts, begins: str) -> Row:
    name = f"decode kernel, cuda:{gpu.index}"
    remedy = "Use --decode fixed, which needs no plugin."
    driver = facts.driver.cuda if facts.driver else None
    if gpu.kernel:
        return Row(_AREA, name, Verdict.FINE, f"{begins}; the driver compiled it for this GPU.")
    if gpu.capability < KERNEL_BEGINS:
        finding = f"{begins}; this GPU has {dotted(gpu.capability)}."
        return Row(_AREA, name, Verdict.WARNING, finding, remedy)
    if driver is not None and driver < KERNEL_CUDA:
        finding = f"{begins}, made with CUDA {dotted(KERNEL_CUDA)}; the driver takes CUDA up to {dotted(driver)}."
        return Row(_AREA, name, Verdict.WARNING, finding, f"Update NVIDIA's driver to 530 or later, or: {remedy}")
    if gpu.kernel is None:
        why = gpu.kernel_why or "it was not tried"
        return Row(_AREA, name, Verdict.FINE, f"{begins}, which this GPU is; not compiled here: {why}.")
    return Row(_AREA, name, Verdict.WARNING, f"The driver did not compile it: {gpu.kernel_why}", remedy)


def _torch(facts: Facts) -> list[Row]:
    name, torch = "PyTorch on the GPU", facts.torch
    if torch is None or torch.version is None:
        return []
    if torch.cuda is None and torch.hip is None:
        if not facts.gpus:
            return []
        finding = "It is a CPU build: checkpoints, and the reference of bench, run on the CPU alone."
        return [Row(_AREA, name, Verdict.WARNING, finding, f"Install a build for CUDA: {_TORCH_BUILDS}")]
    if torch.computes:
        return [Row(_AREA, name, Verdict.FINE, "It computed something there.")]
    if torch.trouble is not None:
        return [troubled(_AREA, name, torch.trouble, f"Install a build for your driver and GPU: {_TORCH_BUILDS}")]
    if not torch.available and not facts.gpus:
        return [Row(_AREA, name, Verdict.ABSENT, "It is a build for GPUs, and there is none; it runs on the CPU.")]
    finding = f"It cannot use the GPU: {(torch.why or 'it did not say why').rstrip('.')}."
    remedy = f"Install a build for your driver and GPU: {_TORCH_BUILDS}"
    return [Row(_AREA, name, Verdict.BROKEN, finding, remedy)]


def _trt(facts: Facts, name: str, trt: TrtFacts | None, package: str, extra: str) -> Row:
    again = f"In a fresh environment: {install_line(extra)}"
    if trt is None:
        shells = [one for one in facts.shells if one == package or one.startswith(f"{package}-cu")]
        if shells:
            finding = f"pip's record of {shells[0]} is there, and its files are gone."
            return Row(_AREA, name, Verdict.BROKEN, finding, f"pip install --force-reinstall {shells[0]}")
        finding = "Not installed."
        if package == "tensorrt" and "tensorrt-stubs" in facts.distributions:
            finding = "Not installed; tensorrt-stubs holds nothing but types."
        if package == "tensorrt" and not facts.gpus:
            finding += " It builds and runs on a GPU of NVIDIA alone."
        return Row(_AREA, name, Verdict.ABSENT, finding, install_line(extra))
    if trt.trouble is not None:
        return troubled(_AREA, name, trt.trouble, again)
    without = ""
    if not facts.gpus:
        without = (
            " It builds engines here, and runs none: there is no GPU." if extra == "trt-rtx" else " No GPU for it."
        )
    return Row(_AREA, name, Verdict.FINE, f"{trt.version}.{without}")


def _bindings(facts: Facts) -> list[Row]:
    name, bindings = "cuda-bindings", facts.bindings
    if bindings is None:
        if facts.tensorrt is None and facts.tensorrt_rtx is None:
            return []
        extra = "trt" if facts.tensorrt is not None else "trt-rtx"
        finding = "Not installed; engines cannot be run without it, and TensorRT builds none."
        return [Row(_AREA, name, Verdict.WARNING, finding, install_line(extra))]
    version = facts.distributions.get(name, "unknown version")
    again = "pip install --force-reinstall cuda-bindings"
    if bindings.trouble is not None:
        return [troubled(_AREA, name, bindings.trouble, again)]
    if bindings.gpu:
        return [Row(_AREA, name, Verdict.FINE, f"{version}; it finds the GPU.")]
    if not facts.gpus:
        return [Row(_AREA, name, Verdict.FINE, f"{version}; there is no GPU for it here.")]
    finding = f"{version}; it finds no GPU where the driver shows one: {bindings.why}"
    return [Row(_AREA, name, Verdict.BROKEN, finding, "Take one for the driver's CUDA, or update the driver.")]
