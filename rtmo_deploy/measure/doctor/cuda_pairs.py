"""Known bad pairs of CUDA: what was built for one with a driver, a GPU or libraries for another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.parts import release_of
from rtmo_deploy.measure.doctor.words import bad_pair, dotted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.doctor.facts import Facts
    from rtmo_deploy.measure.doctor.parts import Capability
    from rtmo_deploy.measure.doctor.report import Row

_CUDA_PROVIDER = "CUDAExecutionProvider"
#: Oldest driver for a CUDA (NVIDIA, CUDA Compatibility, minor version compatibility).
_DRIVERS = {11: "450", 12: "525", 13: "580"}
#: CUDA 13 begins at this compute capability (its release notes).
_CUDA_13_BEGINS = (7, 5)
_TORCH_BUILDS = "https://pytorch.org/get-started/locally"


def cuda_majors(facts: Facts) -> dict[str, int]:
    """The CUDA that each piece of software was built for, by its name; what does not tell is left out."""
    found: dict[str, int] = {}
    if facts.torch is not None and release_of(facts.torch.cuda):
        found["PyTorch"] = release_of(facts.torch.cuda)[0]
    ort = _onnxruntime_cuda(facts)
    if ort is not None:
        found["ONNX Runtime"] = ort
    if facts.tensorrt is not None:
        majors = [int(name.removeprefix("tensorrt-cu")) for name in facts.distributions if _is_cuda_trt(name)]
        if majors:
            found["TensorRT"] = min(majors)
    if facts.bindings is not None and release_of(facts.distributions.get("cuda-bindings")):
        found["cuda-bindings"] = release_of(facts.distributions["cuda-bindings"])[0]
    return found


def _is_cuda_trt(name: str) -> bool:
    return re.fullmatch(r"tensorrt-cu[0-9]{2}", name) is not None


def _onnxruntime_cuda(facts: Facts) -> int | None:
    """By what the package tells; before 1.21 by the table in ONNX Runtime's documentation of its CUDA provider."""
    ort = facts.onnxruntime
    if ort is None or facts.provider(_CUDA_PROVIDER) is None:
        return None
    if release_of(ort.cuda):
        return release_of(ort.cuda)[0]
    release = release_of(ort.version)
    if not release or release >= (1, 21):
        return None
    return 12 if release >= (1, 19) else 11


def _works(facts: Facts, name: str) -> bool:
    """It was tried out on a GPU, and worked."""
    provider = facts.provider(_CUDA_PROVIDER)
    return bool(
        {
            "PyTorch": facts.torch is not None and facts.torch.computes,
            "ONNX Runtime": provider is not None and provider.usable,
            "cuda-bindings": facts.bindings is not None and facts.bindings.gpu,
        }.get(name)
    )


def _cuda_and_driver(facts: Facts) -> list[Row]:
    driver = facts.driver.cuda if facts.driver is not None else None
    if driver is None or not facts.gpus:
        return []
    other = {
        "PyTorch": f"install a PyTorch for CUDA {driver[0]}: {_TORCH_BUILDS}",
        "ONNX Runtime": f"install an onnxruntime-gpu that was built for CUDA {driver[0]}.",
        "TensorRT": f"in a fresh environment: pip install tensorrt-cu{driver[0]}",
        "cuda-bindings": f"pip install 'cuda-bindings<{driver[0] + 1}'",
    }
    rows = []
    for name, major in cuda_majors(facts).items():
        if major <= driver[0] or _works(facts, name):
            continue
        finding = f"{name} is for CUDA {major}, and the driver takes CUDA up to {dotted(driver)}."
        newer = f"Update NVIDIA's driver to {_DRIVERS[major]} or later" if major in _DRIVERS else "Update the driver"
        rows.append(bad_pair(f"{name} and the driver", finding, f"{newer}, or {other[name]}"))
    return rows


def _cuda_13_and_gpu(facts: Facts) -> list[Row]:
    old = [gpu for gpu in facts.gpus if gpu.capability < _CUDA_13_BEGINS]
    rows = []
    for name, major in cuda_majors(facts).items():
        if not old or major < 13 or name not in {"PyTorch", "ONNX Runtime"} or _works(facts, name):
            continue
        finding = (
            f"{name} is for CUDA {major}, which begins at compute capability {dotted(_CUDA_13_BEGINS)}; "
            f"{old[0].name} has {dotted(old[0].capability)}."
        )
        remedy = (
            f"In a fresh environment, install {'a PyTorch' if name == 'PyTorch' else 'an onnxruntime-gpu'} for CUDA 12"
        )
        remedy += f": {_TORCH_BUILDS}" if name == "PyTorch" else "."
        rows.append(bad_pair(f"{name} and cuda:{old[0].index}", finding, remedy, broken=len(old) == len(facts.gpus)))
    return rows


def _torch_and_gpu(facts: Facts) -> list[Row]:
    torch = facts.torch
    if torch is None or not torch.archs or torch.cuda is None:
        return []
    lost = [gpu for gpu in facts.gpus if not has_code_for(torch.archs, gpu.capability)]
    broken = len(lost) == len(facts.gpus) and not torch.computes
    remedy = f"Install a PyTorch that has; for a V100, builds for CUDA 12.6 do: {_TORCH_BUILDS}"
    return [
        bad_pair(
            f"PyTorch's code and cuda:{gpu.index}",
            f"PyTorch {torch.version} has no code for {gpu.name} ({dotted(gpu.capability)}): {' '.join(torch.archs)}.",
            remedy,
            broken=broken,
        )
        for gpu in lost
    ]


def has_code_for(archs: tuple[str, ...], capability: Capability) -> bool:
    """Whether code for some architectures runs on a GPU.

    ``sm_86`` runs on the same major number from its minor one on, ``sm_90a`` on 9.0 alone, ``compute_86`` (PTX) on
    everything from 8.6 on (CUDA Programming Guide, application compatibility).

    Args:
        archs: As PyTorch lists them.
        capability: Of the GPU.
    """
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_([0-9]+)([0-9])([a-z]?)", arch)
        if found is None:
            continue
        kind, code, special = found[1], (int(found[2]), int(found[3])), found[4]
        if special:
            fits = code == capability
        elif kind == "sm":
            fits = code[0] == capability[0] and code[1] <= capability[1]
        else:
            fits = code <= capability
        if fits:
            return True
    return False


def _onnxruntime_and_libraries(facts: Facts) -> list[Row]:
    provider, wanted = facts.provider(_CUDA_PROVIDER), _onnxruntime_cuda(facts)
    if provider is None or provider.usable or wanted is None or not facts.gpus:
        return []
    brought = _libraries(facts)
    if not brought or wanted in brought.values():
        return []
    told = " and ".join(f"{name} brings CUDA {major}" for name, major in brought.items())
    finding = f"ONNX Runtime is for CUDA {wanted}; {told}, and its CUDA provider did not run."
    remedy = (
        f"Install an onnxruntime-gpu for CUDA {max(brought.values())}, or the libraries that it was built for: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    return [bad_pair("ONNX Runtime and CUDA", finding, remedy)]


def _libraries(facts: Facts) -> dict[str, int]:
    """The CUDA whose libraries pip has installed, by what brought them."""
    brought: dict[str, int] = {}
    if facts.torch is not None and release_of(facts.torch.cuda):
        brought["PyTorch"] = release_of(facts.torch.cuda)[0]
    for name, version in facts.distributions.items():
        found = re.fullmatch(r"nvidia-cublas-cu([0-9]{2})", name)
        if found is not None:
            brought[name] = int(found[1])
        elif name == "nvidia-cublas" and release_of(version):  # from CUDA 13 on, the name has no number
            brought[name] = release_of(version)[0]
    return brought


def _cudnns(facts: Facts) -> list[Row]:
    torch, wanted = facts.torch, _onnxruntime_cudnn(facts)
    if torch is None or not torch.cudnn or wanted is None:
        return []
    # 8902 is 8.9.2, 90100 is 9.1.0
    brought = torch.cudnn // 10_000 or torch.cudnn // 1000
    if brought == wanted:
        return []
    finding = (
        f"PyTorch brings cuDNN {brought} and ONNX Runtime was built with cuDNN {wanted}: in one process the CUDA "
        "provider finds the wrong one, or none."
    )
    newer = "onnxruntime-gpu" if brought > wanted else "torch"
    remedy = f"Have both for cuDNN {max(brought, wanted)}: pip install --upgrade {newer}"
    return [bad_pair("cuDNN, twice", finding, remedy, broken=not _works(facts, "ONNX Runtime") and bool(facts.gpus))]


def _onnxruntime_cudnn(facts: Facts) -> int | None:
    """By the table in ONNX Runtime's documentation: 8 up to 1.18.0, and in 1.18 for CUDA 11; 9 after it."""
    release = release_of(facts.onnxruntime.version) if facts.onnxruntime is not None else ()
    if not release or facts.provider(_CUDA_PROVIDER) is None:
        return None
    return 9 if release >= (1, 19) else 8


CUDA_RULES: tuple[Callable[[Facts], list[Row]], ...] = (
    _cuda_and_driver,
    _cuda_13_and_gpu,
    _torch_and_gpu,
    _onnxruntime_and_libraries,
    _cudnns,
)
