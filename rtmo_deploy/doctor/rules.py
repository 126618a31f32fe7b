"""The rules of the doctor; a new one is a function from the facts to (verdict, finding, remedy), named in ``RULES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rtmo_deploy.doctor.facts import Report, Row, Verdict
from rtmo_deploy.doctor.pairs import PAIRS, TORCH_BUILDS, dotted
from rtmo_deploy.doctor.probes import COMPILED
from rtmo_deploy.doctor.requirements import (
    EXTRAS,
    NVIDIA_EXTRAS,
    TESTED_PYTHON,
    bounds_of,
    install_line,
    mend,
    requirements,
    shortfall,
)
from rtmo_deploy.files import human_size
from rtmo_deploy.machine import described_cpu
from rtmo_deploy.packages import ONNXRUNTIMES

if TYPE_CHECKING:
    from rtmo_deploy.doctor.facts import Facts, Folder, Gpu, Software, Trouble

#: Verdict, finding and remedy; a row that is fine, or that nothing can be done about, has no remedy.
Told = tuple[Verdict, str] | tuple[Verdict, str, str]
#: What a rule says: of its one thing, or of several by their names; None where there is nothing to say.
Rule = Callable[["Facts"], Told | Mapping[str, Told | None] | None]

FINE, WARNING, BROKEN, ABSENT = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN, Verdict.ABSENT

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: Compute capability that the shipped PTX is for, and the CUDA whose drivers can compile it.
KERNEL_BEGINS, KERNEL_CUDA = (7, 0), (12, 1)
_PTX = f"PTX for compute capability {dotted(KERNEL_BEGINS)} and later"
#: CUDA's numbers of errors: a driver library for linking alone; no GPU.
_STUB, _NO_DEVICE = 34, 100
#: Bytes free below which a reader is warned, and below which nothing useful can be written.
SCARCE, FULL = 2 * 2**30, 50 * 2**20
#: What becomes of INT8 models where sums are lossy.
_LOSSY = {
    "ONNX Runtime": "ONNX Runtime computes INT8 models in float32 here.",
    "OpenVINO": "OpenVINO is not given INT8 models here, unless their weights have 7 bits.",
}
#: Two extras that exclude each other, and what the other one installs.
_RIVALS = {"cpu": ("gpu", "onnxruntime-gpu"), "gpu": ("cpu", "onnxruntime")}


def judge(facts: Facts) -> Report:
    """Judge a machine, this one or a made-up one, by nothing but its facts."""
    rows = []
    for area, name, rule in RULES:
        told = rule(facts)
        named = told if isinstance(told, Mapping) else {name: told}
        rows += [Row(area, one, *what) for one, what in named.items() if what is not None]
    return Report(tuple(rows), facts)


def _troubled(trouble: Trouble, remedy: str) -> Told:
    """Of what could not be probed to the end: not known if it was slow, else broken."""
    more_time = "The machine may be busy; give it more time: rtmo-deploy doctor --timeout 300"
    return (WARNING, trouble.text, more_time) if trouble.kind == "slow" else (BROKEN, trouble.text, remedy)


def _shell(facts: Facts, package: str) -> Told | None:
    """Of a package, or its build for one CUDA, that pip has recorded and whose module is gone."""
    shell = next((one for one in facts.shells if one == package or one.startswith(f"{package}-cu")), None)
    if shell is None:
        return None
    finding = f"pip's record of {shell} is there, and its files are gone."
    return BROKEN, finding, f"pip install --force-reinstall {shell}"


def _afresh(extra: str) -> str:
    return f"In a fresh environment: {install_line(extra)}"


def _python(facts: Facts) -> Told:
    oldest, newest = TESTED_PYTHON
    python, version = facts.python, facts.python["version"]
    text = f"{python['implementation']} {dotted(version)}, {python['system']} {python['machine']}."
    wanted = f"Use a 64-bit Python {dotted(oldest)} to {dotted(newest)}."
    if version[:2] < oldest:
        return BROKEN, f"{text} It begins at {dotted(oldest)}.", wanted
    if python["bits"] < 64:
        return BROKEN, f"{text} It is a 32-bit one, and PyTorch has none for that.", wanted
    if version[:2] > newest:
        finding = f"{text} The newest that the tests run on is {dotted(newest)}."
        return WARNING, finding, f"If something fails, try Python {dotted(newest)}."
    return FINE, text


def _package(facts: Facts) -> Told:
    version, recorded, folder = (facts.package[key] for key in ("version", "recorded", "folder"))
    if recorded is None:
        return FINE, f"{version}, not installed by pip; it runs from {folder}"
    if recorded != version:
        return WARNING, f"The files in {folder} are {version}; pip's record says {recorded}.", "Install it again."
    return FINE, f"{version} in {folder}"


def _required(facts: Facts) -> Told:
    wanted = {one.name: f"{one.name}{bounds_of(one)}" for one in requirements()}
    missing, outside = shortfall(requirements(), facts.distributions)
    # Other packagers than pip's have other names for them; what can be imported is there. PyTorch has its own row.
    good = set() if facts.imports_trouble else {name for name in COMPILED if COMPILED[name] not in facts.imports}
    missing = [package for package in missing if package not in {"torch", *good}]
    if facts.imports:
        told = "; ".join(f"{module} cannot be imported ({why})" for module, why in facts.imports.items())
        lost = [wanted[name] for name, module in COMPILED.items() if module in facts.imports and name in wanted]
        again = " ".join(f"'{line}'" for line in lost) or "rtmo-deploy"
        return BROKEN, f"{told}.", f"pip install --force-reinstall {again}"
    if missing:
        lines = " ".join(f"'{wanted[package]}'" for package in missing)
        return BROKEN, f"Not installed: {', '.join(missing)}.", f"pip install {lines}"
    if facts.imports_trouble is not None:
        return _troubled(facts.imports_trouble, "Make a fresh environment and install rtmo-deploy there.")
    if outside:
        finding = f"Not the versions this release was made for: {'; '.join(outside)}."
        return WARNING, finding, mend(requirements(), (), outside)
    return FINE, f"All {len(wanted)} are there; those with compiled code can be imported."


def _torch(facts: Facts) -> Told:
    torch = facts.torch
    line = next((f"torch{bounds_of(one)}" for one in requirements() if one.name == "torch"), "torch")
    again = f"pip install --force-reinstall '{line}'"
    if torch is None:
        return _shell(facts, "torch") or (BROKEN, "Not installed; all commands that read checkpoints need it.", again)
    if torch.trouble is not None and torch.version is None:
        return _troubled(torch.trouble, again)
    build = f"for CUDA {torch.cuda}" if torch.cuda else f"for ROCm {torch.hip}" if torch.hip else "a CPU build"
    return FINE, f"{torch.version}, {build}."


def _onnxruntime(facts: Facts) -> Told:
    ort = facts.onnxruntime
    if ort is None:
        shells = [one for one in facts.shells if one in ONNXRUNTIMES]
        if shells:
            finding = (
                f"pip's record of {' and '.join(shells)} is there, and the module is gone: that happens when one of "
                "two packages that share it is removed."
            )
            return BROKEN, finding, f"pip install --force-reinstall {shells[0]}"
        extra = "gpu" if facts.gpus else "cpu"
        return ABSENT, "Not installed; exporting verifies with it, and ONNX models run in it.", install_line(extra)
    if ort.trouble is not None:
        return _troubled(ort.trouble, _afresh("cpu"))
    return FINE, f"{ort.version}{f', for CUDA {ort.cuda}' if ort.cuda else ''}."


def _tried(provider: Software, remedy: str) -> Told:
    if provider.usable:
        return FINE, "A small network ran on it."
    if provider.trouble is not None:
        return _troubled(provider.trouble, remedy)
    return BROKEN, f"It is listed and does not run: {_why(provider)}.", remedy


def _why(found: Software) -> str:
    why = found.why or (found.trouble.text if found.trouble else "it did not say why")
    return why.rstrip(".")


def _cpu_provider(facts: Facts) -> Told | None:
    provider = facts.provider(_CPU)
    return None if facts.onnxruntime is None or provider is None else _tried(provider, _afresh("cpu"))


def _cuda_provider(facts: Facts) -> Told | None:
    provider, ort = facts.provider(_CUDA), facts.onnxruntime
    if ort is None:
        return None
    if provider is None:
        if not facts.gpus or ort.trouble is not None:
            return None
        finding = "There is a GPU, and this ONNX Runtime has no CUDA provider: --device cuda:0 is refused."
        return ABSENT, finding, _afresh("gpu")
    if not provider.usable and not facts.gpus:
        return ABSENT, "It is listed, and there is no GPU for it here; the CPU provider is used."
    return _tried(provider, "Bring the CUDA and cuDNN that it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _other_providers(facts: Facts) -> Told | None:
    others = [one for one in facts.providers if one.name not in {_CPU, _CUDA}]
    if facts.onnxruntime is None or not others:
        return None

    def told(one: Software) -> str:
        if one.usable is None and one.trouble is None:
            return "not tried"
        return "runs" if one.usable else f"does not run ({_why(one)})"

    ends = "; ".join(f"{one.name.removesuffix('ExecutionProvider')}: {told(one)}" for one in others)
    return FINE, f"{ends}. rtmo-deploy uses CPU and CUDA alone."


def _openvino(facts: Facts) -> Told:
    openvino, again = facts.openvino, "pip install --force-reinstall openvino"
    if openvino is None:
        return _shell(facts, "openvino") or (ABSENT, "Not installed.", install_line("openvino"))
    if openvino.trouble is not None:
        return _troubled(openvino.trouble, again)
    if not openvino.devices:
        return BROKEN, f"{openvino.version} finds no device, not even the CPU.", again
    return FINE, f"{openvino.version}. {'; '.join(f'{name}: {full}' for name, full in openvino.devices.items())}."


def _driver(facts: Facts) -> Told:
    driver = facts.driver
    if driver is None:
        if facts.nvidia_card:
            remedy = "Install NVIDIA's driver; a container needs to be given the GPU (docker run --gpus all)."
            return WARNING, "There is an NVIDIA graphics card, and no CUDA driver for it.", remedy
        return ABSENT, "None, and no NVIDIA GPU: everything runs on the CPU."
    text = f"CUDA up to {dotted(driver.cuda)}" if driver.cuda else "CUDA version not known"
    if driver.version:
        text = f"{driver.version}, {text}"
    unhide = "If a GPU should be there: does 'nvidia-smi' show it? A container has to be given it."
    if facts.hidden is not None:
        unhide = f"CUDA_VISIBLE_DEVICES is '{facts.hidden}': unset it if a GPU should be used."
    if driver.error and driver.code == _STUB:
        finding = "What is found is the library for linking alone (a stub), not a driver."
        return WARNING, finding, "Take the stubs folder out of LD_LIBRARY_PATH."
    if driver.error:
        finding = f"{text}; it cannot be used: {driver.error} (CUDA error {driver.code})."
        if driver.code == _NO_DEVICE and (facts.hidden is not None or not facts.nvidia_card):
            return WARNING, finding, unhide
        return BROKEN, finding, "Does 'nvidia-smi' work? After an update of the driver, restart; else install it again."
    if driver.trouble is not None:
        return _troubled(driver.trouble, "Does 'nvidia-smi' work? If not, install the driver again.")
    if not driver.gpus:
        return WARNING, f"{text}; it shows no GPU.", unhide
    return FINE, f"{text}."


def _gpus(facts: Facts) -> Mapping[str, Told]:
    sizes = {gpu.index: f", {human_size(gpu.memory)}" if gpu.memory else "" for gpu in facts.gpus}
    return {
        f"cuda:{gpu.index}": (FINE, f"{gpu.name}, compute capability {dotted(gpu.capability)}{sizes[gpu.index]}.")
        for gpu in facts.gpus
    }


def _kernel(facts: Facts) -> Told | Mapping[str, Told]:
    if facts.kernel_file:
        return BROKEN, facts.kernel_file, "Reinstall rtmo-deploy."
    if not facts.gpus:
        return FINE, f"{_PTX}; there is no GPU here to try it on."
    return {f"decode kernel, cuda:{gpu.index}": _kernel_on(facts, gpu) for gpu in facts.gpus}


def _kernel_on(facts: Facts, gpu: Gpu) -> Told:
    remedy = "Use --decode fixed, which needs no plugin."
    cuda = facts.driver.cuda if facts.driver else None
    if gpu.kernel:
        return FINE, f"{_PTX}; the driver compiled it for this GPU."
    if gpu.capability < KERNEL_BEGINS:
        return WARNING, f"{_PTX}; this GPU has {dotted(gpu.capability)}.", remedy
    if cuda is not None and cuda < KERNEL_CUDA:
        finding = f"{_PTX}, made with CUDA {dotted(KERNEL_CUDA)}; the driver takes CUDA up to {dotted(cuda)}."
        return WARNING, finding, f"Update NVIDIA's driver to 530 or later, or: {remedy}"
    if gpu.kernel is None:
        why = gpu.kernel_why or "it was not tried"
        return FINE, f"{_PTX}, which this GPU is; not compiled here: {why}."
    return WARNING, f"The driver did not compile it: {gpu.kernel_why}", remedy


def _torch_on_gpu(facts: Facts) -> Told | None:
    torch = facts.torch
    if torch is None or torch.version is None:
        return None
    if torch.cuda is None and torch.hip is None:
        finding = "It is a CPU build: checkpoints, and the reference of bench, run on the CPU alone."
        return (WARNING, finding, f"Install a build for CUDA: {TORCH_BUILDS}") if facts.gpus else None
    if torch.computes:
        return FINE, "It computed something there."
    remedy = f"Install a build for your driver and GPU: {TORCH_BUILDS}"
    if torch.trouble is not None:
        return _troubled(torch.trouble, remedy)
    if not torch.available and not facts.gpus:
        return ABSENT, "It is a build for GPUs, and there is none; it runs on the CPU."
    return BROKEN, f"It cannot use the GPU: {_why(torch)}.", remedy


def _tensorrt(facts: Facts) -> Told:
    stubs = "; tensorrt-stubs holds nothing but types" if "tensorrt-stubs" in facts.distributions else ""
    alone = "" if facts.gpus else " It builds and runs on an NVIDIA GPU alone."
    return _trt(facts, facts.tensorrt, "trt", f"Not installed{stubs}.{alone}", " No GPU for it.")


def _tensorrt_rtx(facts: Facts) -> Told:
    without = " It builds engines here, and runs none: there is no GPU."
    return _trt(facts, facts.tensorrt_rtx, "trt-rtx", "Not installed.", without)


def _trt(facts: Facts, trt: Software | None, extra: str, absent: str, without_gpu: str) -> Told:
    if trt is None:
        return _shell(facts, extra.replace("trt", "tensorrt", 1)) or (ABSENT, absent, install_line(extra))
    if trt.trouble is not None:
        return _troubled(trt.trouble, _afresh(extra))
    return FINE, f"{trt.version}.{'' if facts.gpus else without_gpu}"


def _bindings(facts: Facts) -> Told | None:
    bindings = facts.bindings
    if bindings is None:
        if facts.tensorrt is None and facts.tensorrt_rtx is None:
            return None
        finding = "Not installed; engines cannot be run without it, and TensorRT builds none."
        return WARNING, finding, install_line("trt" if facts.tensorrt is not None else "trt-rtx")
    version = facts.distributions.get("cuda-bindings", "unknown version")
    if bindings.trouble is not None:
        return _troubled(bindings.trouble, "pip install --force-reinstall cuda-bindings")
    if bindings.gpu:
        return FINE, f"{version}; it finds the GPU."
    if not facts.gpus:
        return FINE, f"{version}; there is no GPU for it here."
    finding = f"{version}; it finds no GPU where the driver shows one: {bindings.why}"
    return BROKEN, finding, "Take one for the driver's CUDA, or update the driver."


def _pairs(facts: Facts) -> Mapping[str, Told]:
    found = {name: told for pair in PAIRS for name, told in pair(facts).items()}
    return found or {"known bad pairs": (FINE, f"None of the {len(PAIRS)} kinds was found.")}


def _processor(facts: Facts) -> Told:
    cpu = facts.cpu
    if cpu.trouble is not None and cpu.cores is None:
        return _troubled(cpu.trouble, "Nothing else depends on it; bench would not know the machine.")
    text = f"{described_cpu(cpu.name, cpu.cores, cpu.cores_total, cpu.memory)}."
    if cpu.quota is not None and cpu.cores is not None and cpu.quota < cpu.cores:
        finding = f"{text} A container's limit gives it the time of {cpu.quota:g}: more threads than that stall."
        return WARNING, finding, f"Use --threads {max(1, int(cpu.quota))}."
    return FINE, text


def _load(facts: Facts) -> Told:
    cpu = facts.cpu
    if cpu.notes:
        return WARNING, " ".join(cpu.notes), "Measure when it is quiet: bench gives no ratios on a busy machine."
    if cpu.trouble is not None:
        return _troubled(cpu.trouble, "Times of bench may be longer than they could be.")
    return FINE, "Nothing was seen that makes times longer."


def _int8(facts: Facts) -> Told:
    """Only what was tried is said: a CPU's flags do not tell what a library makes of them."""
    runtimes = {"ONNX Runtime": facts.onnxruntime, "OpenVINO": facts.openvino}
    tried = {name: runtime.saturates for name, runtime in runtimes.items() if runtime is not None}
    lossy = [name for name, saturates in tried.items() if saturates]
    exact = [name for name, saturates in tried.items() if saturates is False]
    if lossy:
        finding = (
            f"Measured in {' and '.join(lossy)}: they lose what does not fit in 16 bits, as on CPUs without VNNI. "
            + " ".join(_LOSSY[runtime] for runtime in lossy)
            + (f" Nothing is lost in {exact[0]}." if exact else "")
        )
        return (
            WARNING,
            finding,
            "Run INT8 on a CPU with VNNI, or on a GPU; here float32 is as fast. See docs/explanation/cpu.md.",
        )
    if exact:
        return FINE, f"Nothing is lost (measured in {' and '.join(exact)})."
    return ABSENT, "Not measured: neither ONNX Runtime nor OpenVINO could be tried."


def _folder(folder: Folder, remedy: str) -> Told:
    if folder.trouble is not None and folder.writable is None:
        return _troubled(folder.trouble, remedy)
    free = "" if folder.free is None else f", {human_size(folder.free)} free"
    size = "" if folder.size is None else f", {human_size(folder.size)} in it" if folder.size else ", empty"
    text = f"{folder.path}{size}{free}"
    if not folder.writable:
        return WARNING, f"{text}. It cannot be written to: {folder.why or 'no reason was given'}.", remedy
    if folder.free is not None and folder.free < SCARCE:
        remedy = f"Free some space. {remedy}"
        if folder.free < FULL:
            return BROKEN, f"{text}. The disk is full.", remedy
        return WARNING, f"{text}. A release with engines and calibration takes more than that.", remedy
    return FINE, f"{text}{'' if folder.exists else '; it is made when it is needed'}"


def _cache(facts: Facts) -> Told:
    if facts.cache_setting:
        return BROKEN, facts.cache_setting, "Correct or unset that variable; downloads are refused."
    return _folder(facts.cache, "Set RTMO_DEPLOY_CACHE to another folder.")


def _extra(facts: Facts, extra: str) -> Told:
    missing, outside = shortfall(requirements(extra), facts.distributions)
    purpose = f"For {EXTRAS[extra]}"
    if outside and not missing:
        finding = f"{purpose}. Not the versions that it asks for: {'; '.join(outside)}."
        return WARNING, finding, install_line(extra)
    if not missing:
        return FINE, f"{purpose}."
    other, package = _RIVALS.get(extra, ("", ""))
    if package in facts.distributions and extra == "cpu":
        return ABSENT, f"{purpose}; not needed, [{other}] is there and holds the same."
    useless = "; of no use without an NVIDIA GPU" if extra in NVIDIA_EXTRAS and not facts.gpus else ""
    line = install_line(extra)
    if package in facts.distributions and package not in missing:
        line = f"In a fresh environment, without {package}: {line}"
    return ABSENT, f"{purpose}{useless}. Not installed: {', '.join(missing)}.", line


#: Every rule, in the order of the report: area, name of the row (empty where the rule names its rows), rule.
RULES: tuple[tuple[str, str, Rule], ...] = (
    ("software", "Python", _python),
    ("software", "rtmo-deploy", _package),
    ("software", "required packages", _required),
    ("software", "PyTorch", _torch),
    ("software", "ONNX Runtime", _onnxruntime),
    ("software", "ONNX Runtime, CPU", _cpu_provider),
    ("software", "ONNX Runtime, CUDA", _cuda_provider),
    ("software", "ONNX Runtime, others", _other_providers),
    ("software", "OpenVINO", _openvino),
    ("gpu", "CUDA driver", _driver),
    ("gpu", "", _gpus),
    ("gpu", "decode kernel", _kernel),
    ("gpu", "PyTorch on the GPU", _torch_on_gpu),
    ("gpu", "TensorRT", _tensorrt),
    ("gpu", "TensorRT-RTX", _tensorrt_rtx),
    ("gpu", "cuda-bindings", _bindings),
    ("pairs", "", _pairs),
    ("machine", "processor", _processor),
    ("machine", "load", _load),
    ("machine", "8-bit sums", _int8),
    ("machine", "working directory", lambda facts: _folder(facts.working, "Work in another folder.")),
    ("machine", "cache", _cache),
    ("extras", "", lambda facts: {f"[{extra}]": _extra(facts, extra) for extra in EXTRAS}),
)
