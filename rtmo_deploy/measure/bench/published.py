"""The published latencies, to stand beside measured ones; never divided by them across hardware."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.zoo import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What upstream's page says, and what it does not.
CONDITIONS = "one V100, ONNX Runtime, batch 1; what is inside the number was never stated"


@dataclass(frozen=True)
class PublishedLatency:
    """A published figure and whether it can be compared with a measured one.

    Attributes:
        model: Whose figure it is: the published checkpoint, or its architecture.
        latency_ms: The figure.
        conditions: What it was measured under, as far as anybody knows.
        same_hardware: Whether the measurement was on a V100 too.
        differences: What else is not the same.
    """

    model: str
    latency_ms: float
    conditions: str
    same_hardware: bool
    differences: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether measured and published figure may be set against each other."""
        return self.same_hardware and not self.differences

    def verdict(self) -> str:
        """One sentence for the reader."""
        if self.comparable:
            return "the same hardware"
        parts = [] if self.same_hardware else ["other hardware"]
        return f"not comparable: {'; '.join((*parts, *self.differences))}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "differences": list(self.differences), "comparable": self.comparable}


def published_latency(
    artifact: Mapping[str, Any], facts: Mapping[str, Any], device_name: str | None
) -> PublishedLatency | None:
    """The published figure for a model, or None where there is none.

    Args:
        artifact: What the file knows of itself, JSON-ready.
        facts: Runtime and input size that it was measured with.
        device_name: Name of the GPU; None on a CPU.
    """
    own = VARIANTS.get(artifact["variant"] or "")
    alike = [v for v in VARIANTS.values() if v.architecture.name == artifact["architecture"] and v.latency_v100_ms]
    variant = own if own is not None and own.latency_v100_ms else next(iter(alike), None)
    if variant is None or variant.latency_v100_ms is None or len(artifact["skeleton"]["keypoints"]) != 17:
        return None
    differences = []
    if tuple(facts["input_hw"]) != variant.input_hw:
        differences.append(f"the input is {facts['input_hw'][0]}x{facts['input_hw'][1]}")
    if facts["backend"] != "onnxruntime":
        differences.append(f"the runtime is {facts['backend']}")
    if artifact["precision"] != "fp32":
        differences.append(f"the precision is {artifact['precision']}")
    if artifact["kind"] == "onnx" and artifact["decode"]["mode"] == "raw":
        differences.append("a raw graph has no suppression inside")
    return PublishedLatency(
        variant.name if variant is own else variant.architecture.name,
        variant.latency_v100_ms,
        CONDITIONS,
        device_name is not None and "V100" in device_name,
        tuple(differences),
    )
