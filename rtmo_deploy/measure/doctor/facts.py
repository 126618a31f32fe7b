"""What was found on a machine, as plain data: all that the rules of the doctor see.

Nothing here looks at a machine; :mod:`rtmo_deploy.measure.doctor.collecting` does. None means that it is not known, or,
for a whole piece of software, that it is not installed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.doctor.parts import CpuFacts, FolderFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.measure.doctor.parts import (
        BindingsFacts,
        DriverFacts,
        GpuFacts,
        OpenvinoFacts,
        OrtFacts,
        PackageFacts,
        ProviderFacts,
        PythonFacts,
        TorchFacts,
        Trouble,
        TrtFacts,
    )


@dataclass(frozen=True)
class Facts:
    """A machine and what is installed on it.

    Attributes:
        distributions: Version by normalised name (``onnxruntime-gpu``) of what pip has installed.
        imports: What required packages of machine code said when they could not be imported, by import name.
        imports_trouble: Importing them did not come to an end.
        kernel_file: What is wrong with the shipped decode kernel; empty if nothing.
        cache_setting: What is wrong with a variable that governs downloads; empty if nothing.
        shells: Runtimes of which pip's record is there and the module is not, by name of the distribution.
        driver: None where there is no CUDA driver.
        nvidia_card: The PCI bus shows a graphics card of NVIDIA; None where it cannot be asked.
        hidden: Value of ``CUDA_VISIBLE_DEVICES``; None if it is not set.
        seconds: What the look took.
    """

    python: PythonFacts
    package: PackageFacts
    distributions: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str] = field(default_factory=dict)
    imports_trouble: Trouble | None = None
    kernel_file: str = ""
    cache_setting: str = ""
    shells: tuple[str, ...] = ()
    torch: TorchFacts | None = None
    onnxruntime: OrtFacts | None = None
    providers: tuple[ProviderFacts, ...] = ()
    openvino: OpenvinoFacts | None = None
    tensorrt: TrtFacts | None = None
    tensorrt_rtx: TrtFacts | None = None
    driver: DriverFacts | None = None
    nvidia_card: bool | None = None
    hidden: str | None = None
    bindings: BindingsFacts | None = None
    cpu: CpuFacts = field(default_factory=CpuFacts)
    working: FolderFacts = field(default_factory=FolderFacts)
    cache: FolderFacts = field(default_factory=FolderFacts)
    seconds: float = 0.0

    @property
    def gpus(self) -> tuple[GpuFacts, ...]:
        """The GPUs that the driver shows."""
        return self.driver.gpus if self.driver is not None else ()

    def provider(self, name: str) -> ProviderFacts | None:
        """An execution provider that is listed."""
        return next((found for found in self.providers if found.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        result: dict[str, Any] = _plain(asdict(self))
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, dict | MappingProxyType):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
