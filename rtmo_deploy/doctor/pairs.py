"""Known bad pairs: two things that work, each by itself, and not together.

Each rule in :data:`PAIRS` gives the bad pairs by name, from the facts alone. What was tried and worked is not bad.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rtmo_deploy.doctor.facts import Verdict
from rtmo_deploy.doctor.requirements import install_line, release_of
from rtmo_deploy.packages import ONNXRUNTIMES, OPENCVS
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, gpu_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rtmo_deploy.doctor.facts import Capability, Facts

#: Verdict, finding and remedy by the name of the pair.
Pairs = dict[str, tuple[Verdict, str, str]]

_CUDA_PROVIDER = "CUDAExecutionProvider"
#: Oldest driver for a CUDA (NVIDIA, CUDA Compatibility, minor version compatibility).
_DRIVERS = {11: "450", 12: "525", 13: "580"}
#: CUDA 13 begins at this compute capability (its release notes).
_CUDA_13_BEGINS = (7, 5)
#: Where to choose a build of PyTorch.
TORCH_BUILDS = "https://pytorch.org/get-started/locally"


def dotted(version: tuple[int, ...]) -> str:
    """(9, 0) -> ``9.0``."""
    return ".".join(str(part) for part in version)


def _bad(*, broken: bool) -> Verdict:
    return Verdict.BROKEN if broken else Verdict.WARNING


def _two_onnxruntimes(facts: Facts) -> Pairs:
    extra = "gpu" if facts.gpus and "onnxruntime-gpu" in facts.distributions else "cpu"
    return _twice(facts, "ONNX Runtime", ONNXRUNTIMES, install_line(extra), broken=True)


def _two_opencvs(facts: Facts) -> Pairs:
    return _twice(facts, "OpenCV", OPENCVS, "pip install 'opencv-python-headless>=4.10,<5'", broken=False)


def _twice(facts: Facts, name: str, names: tuple[str, ...], install: str, *, broken: bool) -> Pairs:
    found = [one for one in names if one in facts.distributions]
    if len(found) < 2:
        return {}
    finding = f"{' and '.join(found)} share one module: what was installed last has overwritten the other."
    return {f"{name}, twice": (_bad(broken=broken), finding, f"pip uninstall -y {' '.join(found)} && {install}")}


def _tensorrt_and_gpu(facts: Facts) -> Pairs:
    pairs: Pairs = {}
    for title, name, installed in (
        ("TensorRT", "tensorrt", facts.tensorrt),
        ("TensorRT-RTX", "tensorrt-rtx", facts.tensorrt_rtx),
    ):
        if installed is None or installed.version is None:
            continue
        variant = TRT_VARIANTS[name]
        problems = [gpu_problem(variant, installed.version, gpu.name, dotted(gpu.capability)) for gpu in facts.gpus]
        # TensorRT that fits one GPU of several is not broken, nor is one that builds for other machines.
        verdict = _bad(broken=all(problems) and not variant.builds_without_gpu)
        for gpu, problem in zip(facts.gpus, problems, strict=True):
            if problem is not None:
                pairs[f"{title} and cuda:{gpu.index}"] = (verdict, problem.finding, problem.remedy)
    return pairs


def cuda_majors(facts: Facts) -> dict[str, int]:
    """The CUDA that each piece of software was built for, by its name; what does not tell is left out."""
    trts = [int(name[-2:]) for name in facts.distributions if re.fullmatch(r"tensorrt-cu[0-9]{2}", name, re.ASCII)]
    found = {
        "PyTorch": _major(facts.torch.cuda) if facts.torch is not None else None,
        "ONNX Runtime": _onnxruntime_cuda(facts),
        "TensorRT": min(trts) if trts and facts.tensorrt is not None else None,
        "cuda-bindings": _major(facts.distributions.get("cuda-bindings")) if facts.bindings is not None else None,
    }
    return {name: major for name, major in found.items() if major is not None}


def _major(version: str | None) -> int | None:
    return next(iter(release_of(version)), None)


def _onnxruntime_cuda(facts: Facts) -> int | None:
    """By what the package tells; before 1.21 by the table in ONNX Runtime's documentation of its CUDA provider."""
    ort = facts.onnxruntime
    if ort is None or facts.provider(_CUDA_PROVIDER) is None:
        return None
    release = release_of(ort.version)
    if release_of(ort.cuda) or not release or release >= (1, 21):
        return _major(ort.cuda)
    return 12 if release >= (1, 19) else 11


def _works(facts: Facts, name: str) -> bool:
    """It was tried out on a GPU, and worked."""
    provider = facts.provider(_CUDA_PROVIDER)
    tried = {
        "PyTorch": facts.torch is not None and facts.torch.computes,
        "ONNX Runtime": provider is not None and provider.usable,
        "cuda-bindings": facts.bindings is not None and facts.bindings.gpu,
    }
    return bool(tried.get(name))


def _cuda_and_driver(facts: Facts) -> Pairs:
    driver = facts.driver.cuda if facts.driver is not None else None
    if driver is None or not facts.gpus:
        return {}
    other = {
        "PyTorch": f"install a PyTorch for CUDA {driver[0]}: {TORCH_BUILDS}",
        "ONNX Runtime": f"install an onnxruntime-gpu that was built for CUDA {driver[0]}.",
        "TensorRT": f"in a fresh environment: pip install tensorrt-cu{driver[0]}",
        "cuda-bindings": f"pip install 'cuda-bindings<{driver[0] + 1}'",
    }
    pairs: Pairs = {}
    for name, major in cuda_majors(facts).items():
        if major > driver[0] and not _works(facts, name):
            finding = f"{name} is for CUDA {major}, and the driver takes CUDA up to {dotted(driver)}."
            newer = (
                f"Update NVIDIA's driver to {_DRIVERS[major]} or later" if major in _DRIVERS else "Update the driver"
            )
            pairs[f"{name} and the driver"] = (Verdict.BROKEN, finding, f"{newer}, or {other[name]}")
    return pairs


def _cuda_13_and_gpu(facts: Facts) -> Pairs:
    old = [gpu for gpu in facts.gpus if gpu.capability < _CUDA_13_BEGINS]
    remedies = {"PyTorch": f"a PyTorch for CUDA 12: {TORCH_BUILDS}", "ONNX Runtime": "an onnxruntime-gpu for CUDA 12."}
    pairs: Pairs = {}
    for name, major in cuda_majors(facts).items():
        if old and major >= 13 and name in remedies and not _works(facts, name):
            finding = (
                f"{name} is for CUDA {major}, which begins at compute capability {dotted(_CUDA_13_BEGINS)}; "
                f"{old[0].name} has {dotted(old[0].capability)}."
            )
            verdict = _bad(broken=len(old) == len(facts.gpus))
            remedy = f"In a fresh environment, install {remedies[name]}"
            pairs[f"{name} and cuda:{old[0].index}"] = (verdict, finding, remedy)
    return pairs


def _torch_and_gpu(facts: Facts) -> Pairs:
    torch = facts.torch
    if torch is None or not torch.archs or torch.cuda is None:
        return {}
    lost = [gpu for gpu in facts.gpus if not has_code_for(torch.archs, gpu.capability)]
    verdict = _bad(broken=len(lost) == len(facts.gpus) and not torch.computes)
    remedy = f"Install a PyTorch that has; for a V100, builds for CUDA 12.6 do: {TORCH_BUILDS}"
    pairs: Pairs = {}
    for gpu in lost:
        name, archs = f"{gpu.name} ({dotted(gpu.capability)})", " ".join(torch.archs)
        finding = f"PyTorch {torch.version} has no code for {name}: {archs}."
        pairs[f"PyTorch's code and cuda:{gpu.index}"] = (verdict, finding, remedy)
    return pairs


def has_code_for(archs: Iterable[str], capability: Capability) -> bool:
    """Whether code for some architectures, as PyTorch lists them, runs on a GPU.

    ``sm_86`` runs on the same major number from its minor one on, ``sm_90a`` on 9.0 alone, ``compute_86`` (PTX) on
    everything from 8.6 on (CUDA Programming Guide, application compatibility).
    """
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_([0-9]+)([0-9])([a-z]?)", arch)
        if found is None:
            continue
        code = (int(found[2]), int(found[3]))
        same_major = found[1] == "compute" or code[0] == capability[0]
        if code == capability or (not found[4] and same_major and code <= capability):
            return True
    return False


def _onnxruntime_and_libraries(facts: Facts) -> Pairs:
    provider, wanted = facts.provider(_CUDA_PROVIDER), _onnxruntime_cuda(facts)
    brought = _libraries(facts)
    if provider is None or provider.usable or wanted is None or not facts.gpus:
        return {}
    if not brought or wanted in brought.values():
        return {}
    told = " and ".join(f"{name} brings CUDA {major}" for name, major in brought.items())
    finding = f"ONNX Runtime is for CUDA {wanted}; {told}, and its CUDA provider did not run."
    remedy = (
        f"Install an onnxruntime-gpu for CUDA {max(brought.values())}, or the libraries that it was built for: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    return {"ONNX Runtime and CUDA": (Verdict.BROKEN, finding, remedy)}


def _libraries(facts: Facts) -> dict[str, int]:
    """The CUDA whose libraries pip has installed, by what brought them."""
    brought = {"PyTorch": _major(facts.torch.cuda) if facts.torch is not None else None}
    for name, version in facts.distributions.items():
        if re.fullmatch(r"nvidia-cublas-cu[0-9]{2}", name):
            brought[name] = int(name[-2:])
        elif name == "nvidia-cublas":  # from CUDA 13 on, the name has no number
            brought[name] = _major(version)
    return {name: major for name, major in brought.items() if major is not None}


def _cudnns(facts: Facts) -> Pairs:
    torch, wanted = facts.torch, _onnxruntime_cudnn(facts)
    if torch is None or not torch.cudnn or wanted is None:
        return {}
    # 8902 is 8.9.2, 90100 is 9.1.0
    brought = torch.cudnn // 10_000 or torch.cudnn // 1000
    if brought == wanted:
        return {}
    finding = (
        f"PyTorch brings cuDNN {brought} and ONNX Runtime was built with cuDNN {wanted}: in one process the CUDA "
        "provider finds the wrong one, or none."
    )
    newer = "onnxruntime-gpu" if brought > wanted else "torch"
    verdict = _bad(broken=not _works(facts, "ONNX Runtime") and bool(facts.gpus))
    return {
        "cuDNN, twice": (verdict, finding, f"Have both for cuDNN {max(brought, wanted)}: pip install --upgrade {newer}")
    }


def _onnxruntime_cudnn(facts: Facts) -> int | None:
    """By the table in ONNX Runtime's documentation: 8 up to 1.18.0, and in 1.18 for CUDA 11; 9 after it."""
    release = release_of(facts.onnxruntime.version) if facts.onnxruntime is not None else ()
    if not release or facts.provider(_CUDA_PROVIDER) is None:
        return None
    return 9 if release >= (1, 19) else 8


PAIRS: tuple[Callable[[Facts], Pairs], ...] = (
    _two_onnxruntimes,
    _two_opencvs,
    _tensorrt_and_gpu,
    _cuda_and_driver,
    _cuda_13_and_gpu,
    _torch_and_gpu,
    _onnxruntime_and_libraries,
    _cudnns,
)
