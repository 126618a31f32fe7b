"""Rules for what runs on a CPU: Python, this project, what it requires, and the runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.measure.doctor.packages import (
    ONNXRUNTIMES,
    REQUIRED,
    TESTED_PYTHON,
    install_line,
    shortfall,
)
from rtmo_deploy.measure.doctor.report import Row, Verdict
from rtmo_deploy.measure.doctor.words import dotted, troubled

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts
    from rtmo_deploy.measure.doctor.parts import OrtFacts, ProviderFacts

_AREA = "software"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: Import names of required packages of which it is tried whether they can be imported.
_MODULES = {
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


def software_rows(facts: Facts) -> list[Row]:
    """The rows of this area."""
    return [
        _python(facts),
        _package(facts),
        _required(facts),
        _torch(facts),
        *_onnxruntime(facts),
        _openvino(facts),
    ]


def _python(facts: Facts) -> Row:
    python = facts.python
    oldest, newest = TESTED_PYTHON
    text = f"{python.implementation} {'.'.join(map(str, python.version))}, {python.system} {python.machine}."
    release = python.version[:2]
    wanted = f"Use a 64-bit Python {dotted(oldest)} to {dotted(newest)}."
    if release < oldest:
        return Row(_AREA, "Python", Verdict.BROKEN, f"{text} It begins at {dotted(oldest)}.", wanted)
    if python.bits < 64:
        finding = f"{text} It is a 32-bit one, and PyTorch has none for that."
        return Row(_AREA, "Python", Verdict.BROKEN, finding, wanted)
    if release > newest:
        finding = f"{text} The newest that the tests run on is {dotted(newest)}."
        return Row(_AREA, "Python", Verdict.WARNING, finding, f"If something fails, try Python {dotted(newest)}.")
    return Row(_AREA, "Python", Verdict.FINE, text)


def _package(facts: Facts) -> Row:
    package = facts.package
    if package.recorded is None:
        finding = f"{package.version}, not installed by pip; it runs from {package.folder}"
        return Row(_AREA, "rtmo-deploy", Verdict.FINE, finding)
    if package.recorded != package.version:
        finding = f"The files in {package.folder} are {package.version}; pip's record says {package.recorded}."
        return Row(_AREA, "rtmo-deploy", Verdict.WARNING, finding, "Install it again.")
    return Row(_AREA, "rtmo-deploy", Verdict.FINE, f"{package.version} in {package.folder}")


def _required(facts: Facts) -> Row:
    name = "required packages"
    gap = shortfall(REQUIRED, facts.distributions)
    # Other packagers than pip's have other names for them; what can be imported is there.
    missing = [
        package
        for package in gap.missing
        if facts.imports_trouble or package not in _MODULES or _MODULES[package] in facts.imports
    ]
    # PyTorch has a row of its own.
    missing = [package for package in missing if package != "torch"]
    if facts.imports:
        told = "; ".join(f"{module} cannot be imported ({why})" for module, why in facts.imports.items())
        lost = [package for package, module in _MODULES.items() if module in facts.imports]
        again = " ".join(f"'{line}'" for line in REQUIRED if any(line.startswith(f"{one}>") for one in lost))
        remedy = f"pip install --force-reinstall {again or 'rtmo-deploy'}"
        return Row(_AREA, name, Verdict.BROKEN, f"{told}.", remedy)
    if missing:
        lines = " ".join(f"'{line}'" for line in REQUIRED if any(line.startswith(f"{one}>") for one in missing))
        return Row(_AREA, name, Verdict.BROKEN, f"Not installed: {', '.join(missing)}.", f"pip install {lines}")
    if facts.imports_trouble is not None:
        return troubled(_AREA, name, facts.imports_trouble, "Make a fresh environment and install rtmo-deploy there.")
    if gap.outside:
        finding = f"Not the versions this release was made for: {'; '.join(gap.outside)}."
        return Row(_AREA, name, Verdict.WARNING, finding, "pip install --upgrade rtmo-deploy")
    return Row(_AREA, name, Verdict.FINE, f"All {len(REQUIRED)} are there; those of machine code can be imported.")


def _torch(facts: Facts) -> Row:
    torch = facts.torch
    wanted = next(line for line in REQUIRED if line.startswith("torch>"))
    if torch is None:
        finding = "Not installed; all commands that read checkpoints need it."
        if "torch" in facts.shells:
            finding = "pip's record of it is there, and its files are gone."
        return Row(_AREA, "PyTorch", Verdict.BROKEN, finding, f"pip install --force-reinstall '{wanted}'")
    if torch.trouble is not None and torch.version is None:
        return troubled(_AREA, "PyTorch", torch.trouble, f"pip install --force-reinstall '{wanted}'")
    build = f"for CUDA {torch.cuda}" if torch.cuda else f"for ROCm {torch.hip}" if torch.hip else "a CPU build"
    return Row(_AREA, "PyTorch", Verdict.FINE, f"{torch.version}, {build}.")


def _onnxruntime(facts: Facts) -> list[Row]:
    name, ort = "ONNX Runtime", facts.onnxruntime
    if ort is None:
        shells = [one for one in facts.shells if one in ONNXRUNTIMES]
        if shells:
            finding = (
                f"pip's record of {' and '.join(shells)} is there, and the module is gone: that happens when one of "
                "two packages that share it is removed."
            )
            return [Row(_AREA, name, Verdict.BROKEN, finding, f"pip install --force-reinstall {shells[0]}")]
        extra = "gpu" if facts.gpus else "cpu"
        finding = "Not installed; exporting verifies with it, and ONNX models run in it."
        return [Row(_AREA, name, Verdict.ABSENT, finding, install_line(extra))]
    rows = []
    if ort.trouble is not None:
        rows.append(troubled(_AREA, name, ort.trouble, f"In a fresh environment: {install_line('cpu')}"))
    else:
        rows.append(Row(_AREA, name, Verdict.FINE, f"{ort.version}{f', for CUDA {ort.cuda}' if ort.cuda else ''}."))
    cpu = facts.provider(_CPU)
    if cpu is not None:
        rows.append(_cpu_provider(cpu))
    rows += _cuda_provider(facts, ort)
    others = [one for one in facts.providers if one.name not in {_CPU, _CUDA}]
    if others:
        told = "; ".join(f"{one.name.removesuffix('ExecutionProvider')}: {_tried(one)}" for one in others)
        finding = f"{told}. rtmo-deploy uses CPU and CUDA alone."
        rows.append(Row(_AREA, "ONNX Runtime, others", Verdict.FINE, finding))
    return rows


def _cpu_provider(provider: ProviderFacts) -> Row:
    name = "ONNX Runtime, CPU"
    if provider.usable:
        return Row(_AREA, name, Verdict.FINE, "A small network ran on it.")
    remedy = f"In a fresh environment: {install_line('cpu')}"
    if provider.trouble is not None:
        return troubled(_AREA, name, provider.trouble, remedy)
    return Row(_AREA, name, Verdict.BROKEN, f"It is listed and does not run: {_why(provider)}.", remedy)


def _cuda_provider(facts: Facts, ort: OrtFacts) -> list[Row]:
    name, provider = "ONNX Runtime, CUDA", facts.provider(_CUDA)
    if provider is None:
        if not facts.gpus or ort.trouble is not None:
            return []
        finding = "There is a GPU, and this ONNX Runtime has no CUDA provider: --device cuda:0 is refused."
        return [Row(_AREA, name, Verdict.ABSENT, finding, f"In a fresh environment: {install_line('gpu')}")]
    if provider.usable:
        return [Row(_AREA, name, Verdict.FINE, "A small network ran on it.")]
    if not facts.gpus:
        finding = "It is listed, and there is no GPU for it here; the CPU provider is used."
        return [Row(_AREA, name, Verdict.ABSENT, finding)]
    remedy = "Bring the CUDA and cuDNN that it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if provider.trouble is not None:
        return [troubled(_AREA, name, provider.trouble, remedy)]
    return [Row(_AREA, name, Verdict.BROKEN, f"It is listed and does not run: {_why(provider)}.", remedy)]


def _tried(provider: ProviderFacts) -> str:
    if provider.usable is None and provider.trouble is None:
        return "not tried"
    return "runs" if provider.usable else f"does not run ({_why(provider)})"


def _why(provider: ProviderFacts) -> str:
    why = provider.why or (provider.trouble.text if provider.trouble else "it did not say why")
    return why.rstrip(".")


def _openvino(facts: Facts) -> Row:
    name, openvino = "OpenVINO", facts.openvino
    again = "pip install --force-reinstall openvino"
    if openvino is None:
        if "openvino" in facts.shells:
            return Row(_AREA, name, Verdict.BROKEN, "pip's record of it is there, and its files are gone.", again)
        return Row(_AREA, name, Verdict.ABSENT, "Not installed.", install_line("openvino"))
    if openvino.trouble is not None:
        return troubled(_AREA, name, openvino.trouble, again)
    if not openvino.devices:
        return Row(_AREA, name, Verdict.BROKEN, f"{openvino.version} finds no device, not even the CPU.", again)
    devices = "; ".join(f"{short}: {full}" for short, full in openvino.devices.items())
    return Row(_AREA, name, Verdict.FINE, f"{openvino.version}. {devices}.")
