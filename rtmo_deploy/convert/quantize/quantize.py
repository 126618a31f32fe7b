"""Makes an INT8 model of a float32 model and a calibration, and judges it before it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.artifact import Artifact, read_companion, refuse_companion, write_companion
from rtmo_deploy.convert.quantize.insert import insert
from rtmo_deploy.convert.quantize.placement import place
from rtmo_deploy.convert.quantize.search import SearchResult, search
from rtmo_deploy.convert.quantize.source_model import blocks_of
from rtmo_deploy.convert.step import derived, write_metadata
from rtmo_deploy.errors import ArtifactError, UsageError, refuse_path
from rtmo_deploy.files import write_whole
from rtmo_deploy.measure import validate_model

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection

    import onnx

    from rtmo_deploy.convert.quantize.judge import Judge, Verdict
    from rtmo_deploy.convert.quantize.record import Calibration
    from rtmo_deploy.convert.quantize.source_model import MacCount, SourceModel

#: Largest loss of AP that is a budget. A larger number was meant as points of 100, and would bound nothing.
LARGEST_DROP: Final = 0.2


@dataclass(frozen=True)
class QuantizeResult:
    """What a quantisation made."""

    artifact: Artifact | None  #: The file and what it knows of itself; None if the budget was missed.
    macs: MacCount  #: Multiply-accumulates of the network and of the graph.
    int8_macs: int  #: Those that are 8-bit.
    layers: int  #: Number of convolutions that are 8-bit.
    pairs: int  #: Q/DQ pairs on activations.
    kept: tuple[str, ...]  #: Names of the blocks that stay in FP32.
    calibration: Calibration
    baseline: Verdict | None  #: The float32 model on the judge's images; None if nobody judged.
    verdict: Verdict | None  #: The quantised one.
    judged_in: str | None  #: The judge's runtime, and how it computes 8 bits; None if nobody judged.
    native: bool | None  #: Whether it computes them as the target does on a CPU with VNNI.
    search: SearchResult | None  #: How the budget was searched for; None if there was none.
    size: int = 0  #: Bytes of the file, 0 if there is none.

    @property
    def of_network(self) -> float:
        """Share of the network's multiply-accumulates that is 8-bit, 0 to 1."""
        return self.int8_macs / self.macs.network if self.macs.network else 0.0

    @property
    def of_graph(self) -> float:
        """Share of the graph's, decoding included."""
        return self.int8_macs / self.macs.graph if self.macs.graph else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all but the artifact."""
        source = self.calibration.source
        return {
            "target": source.target.value,
            "calibration": {
                "pictures": dict(source.pictures),
                "method": source.method.value,
                "used": self.calibration.used,
                "skipped": self.calibration.skipped_dicts(),
            },
            "macs": {
                "int8": self.int8_macs,
                "network": self.macs.network,
                "graph": self.macs.graph,
                "int8_of_network": self.of_network,
                "int8_of_graph": self.of_graph,
            },
            "layers": self.layers,
            "qdq_pairs": self.pairs,
            "kept_in_float32": list(self.kept),
            "fp32": None if self.baseline is None else {"ap": self.baseline.ap},
            "int8": None if self.verdict is None else self.verdict.to_dict(),
            "judged_in": self.judged_in,
            "native": self.native,
            "search": None if self.search is None else self.search.to_dict(self.macs.network),
        }


def require_budget(max_ap_drop: float | None) -> None:
    """Raise a UsageError for a loss of AP that is no budget, outside 0 to :data:`LARGEST_DROP`."""
    if max_ap_drop is not None and not 0 <= max_ap_drop <= LARGEST_DROP:
        raise UsageError(
            f"An AP budget of {max_ap_drop:g} is outside 0 to {LARGEST_DROP:g}.",
            remedy="AP runs from 0 to 1: one point of 100 is 0.01.",
        )


def build(
    source: SourceModel, calibration: Calibration, layers: Collection[int], *, bias_correction: bool
) -> onnx.ModelProto:
    """The model with these convolutions in 8 bits."""
    calibration.require_model(source.sha256, source.placement.target, source.path)
    placement = place(source.view, layers, of=source.placement)
    missing = sorted(placement.edges.keys() - calibration.ranges.keys())
    if missing:
        raise ArtifactError(
            f"The calibration has no range for {len(missing)} tensors of it, {missing[0]} for one.",
            remedy="Make it again with 'rtmo-deploy calibrate'.",
            where=source.path,
        )
    shifts = {name: np.array(values, np.float32) for name, values in calibration.shifts.items()}
    return insert(source.model, placement, calibration.ranges, shifts if bias_correction else None)


def quantize_onnx(
    source: SourceModel,
    calibration: Calibration,
    output: str | os.PathLike[str],
    *,
    max_ap_drop: float | None = None,
    bias_correction: bool = True,
    judge: Judge | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizeResult:
    """Quantise a model, judge it, and write it if it may lose what it loses.

    A ``raw`` graph's companion is float32 and goes with it unchanged: it is copied where the output is in another
    folder.

    Args:
        source: The float32 model.
        calibration: What was measured on it.
        output: Where to write.
        max_ap_drop: AP that may be lost, 0 to :data:`LARGEST_DROP`; None for no bound and no search.
        bias_correction: Take the mean shift that 8 bits cause in each layer back.
        judge: Judges it; needed for a budget.
        progress: Told of each step.

    Raises:
        ArtifactError: The calibration is of another model; the companion is missing or another file; or the quantised
            graph is not well formed.
        UsageError: The output is the model itself; another model's companion lies where its own goes; the budget is
            none; or a budget is given, and no average precision to lose.
        SetupError: The file cannot be written.
    """
    refuse_path(source, "open_source(path)")
    refuse_path(calibration, "Calibration.load(path)")
    output = Path(output)
    require_budget(max_ap_drop)
    if output.resolve() == source.path.resolve():
        raise UsageError("The output would replace the float32 model.", remedy="Give another -o.", where=output)
    if max_ap_drop is not None and judge is None:
        raise UsageError("A budget needs somebody to judge.", remedy="Leave --no-judge away.")
    companion = read_companion(source.artifact)
    refuse_companion(source.artifact, output)
    blocks = blocks_of(source.view, source.placement.layers, source.macs)

    def model_of(names: Collection[str]) -> tuple[onnx.ModelProto, list[int]]:
        """The model with these blocks in 8 bits, and the positions of their convolutions."""
        layers = [at for block in blocks if block.name in names for at in block.layers]
        return build(source, calibration, layers, bias_correction=bias_correction), layers

    names: tuple[str, ...] = tuple(block.name for block in blocks)
    found, verdict = None, None
    if judge is not None and max_ap_drop is not None:
        found = search(
            blocks, lambda chosen: judge(model_of(chosen)[0]), judge.baseline.ap, max_ap_drop, progress=progress
        )
        names, verdict = found.chosen.blocks, found.chosen.verdict
    model, layers = model_of(names)
    if judge is not None and verdict is None:
        verdict = judge(model, progress=progress)
    result = QuantizeResult(
        artifact=None,
        macs=source.macs,
        int8_macs=source.macs.of(layers),
        layers=len(layers),
        pairs=sum(node.op_type == "QuantizeLinear" for node in model.graph.node),
        kept=tuple(block.name for block in blocks if block.name not in names),
        calibration=calibration,
        baseline=None if judge is None else judge.baseline,
        verdict=verdict,
        judged_in=None if judge is None else judge.how,
        native=None if judge is None else judge.native,
        search=found,
    )
    if found is not None and not found.met:
        return result
    artifact = _finish(source, model, output, result, progress)
    progress("writing")
    write_companion(source.artifact, companion, output)
    content = model.SerializeToString()
    write_whole(output, content)
    return replace(result, artifact=artifact, size=len(content))


def _finish(
    source: SourceModel,
    model: onnx.ModelProto,
    output: Path,
    result: QuantizeResult,
    progress: Callable[[str], None],
) -> Artifact:
    """Validate a quantised model and write into it what it is."""
    progress("validating")
    report = validate_model(model, output)
    for check in report.checks:
        if not check.ok:
            raise ArtifactError(
                f"The quantised model does not pass {check.name}: {check.detail}",
                remedy="Nothing was written. Check the float32 model with 'rtmo-deploy validate'; calibrate it again.",
                where=output,
            )
    packages = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")
    artifact = derived(source.artifact, output, *packages, precision="int8", target=source.placement.target)
    artifact = replace(artifact, verified={"validation": report.to_dict(), "quantization": result.to_dict()})
    write_metadata(model, artifact)
    return artifact
