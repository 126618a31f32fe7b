"""A float32 model and a calibration become an INT8 model, judged before it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.artifact import Artifact, Parent, made_with, read_companion, refuse_companion, write_companion
from rtmo_deploy.convert.metadata import write_metadata
from rtmo_deploy.convert.quantize.blocks import Block, blocks_of
from rtmo_deploy.convert.quantize.insert import count_pairs, insert
from rtmo_deploy.convert.quantize.placement import place
from rtmo_deploy.convert.quantize.search import SearchResult, search
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure import ValidationReport, validate_model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    import onnx

    from rtmo_deploy.convert.quantize.judge import Judge, Verdict
    from rtmo_deploy.convert.quantize.macs import Share
    from rtmo_deploy.convert.quantize.record import Calibration
    from rtmo_deploy.convert.quantize.source_model import SourceModel

#: Largest loss of AP that is a budget. A larger number was meant as points of 100, and would bound nothing.
LARGEST_DROP: Final = 0.2


@dataclass(frozen=True)
class QuantizeOptions:
    """A quantisation.

    Attributes:
        max_ap_drop: AP that may be lost, 0 to :data:`LARGEST_DROP`; None for no bound and no search.
        bias_correction: Take the mean shift that 8 bits cause in each layer back.
    """

    max_ap_drop: float | None = None
    bias_correction: bool = True

    def __post_init__(self) -> None:
        if self.max_ap_drop is not None and not 0 <= self.max_ap_drop <= LARGEST_DROP:
            raise UsageError(
                f"An AP budget of {self.max_ap_drop:g} is outside 0 to {LARGEST_DROP:g}.",
                remedy="AP runs from 0 to 1: one point of 100 is 0.01.",
            )


@dataclass(frozen=True)
class QuantizeResult:
    """What a quantisation made.

    Attributes:
        artifact: The file and what it knows of itself; None if the budget could not be met, and nothing was written.
        share: How much of the network is 8-bit.
        layers: Number of convolutions that are.
        pairs: Q/DQ pairs on activations.
        kept: Names of the blocks that were given back.
        calibration: What was measured.
        baseline: The float32 model on the judge's pictures; None if nobody judged.
        verdict: The quantised one.
        search: How the budget was searched for; None if there was none.
        size: Bytes of the file, 0 if there is none.
    """

    artifact: Artifact | None
    share: Share
    layers: int
    pairs: int
    kept: tuple[str, ...]
    calibration: Calibration
    baseline: Verdict | None
    verdict: Verdict | None
    search: SearchResult | None
    size: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all but the artifact."""
        source = self.calibration.source
        return {
            "calibration": {
                "pictures": dict(source.pictures),
                "method": source.method.value,
                "used": self.calibration.used,
                "skipped": [{"name": name, "reason": reason} for name, reason in self.calibration.skipped],
            },
            "macs": {
                "int8": self.share.int8,
                "network": self.share.network,
                "graph": self.share.graph,
                "int8_of_network": self.share.of_network,
                "int8_of_graph": self.share.of_graph,
            },
            "layers": self.layers,
            "qdq_pairs": self.pairs,
            "kept_in_float32": list(self.kept),
            "fp32": None if self.baseline is None else {"ap": self.baseline.ap},
            "int8": None if self.verdict is None else self.verdict.to_dict(),
            "search": None if self.search is None else self._search_dict(self.search),
        }

    def _search_dict(self, found: SearchResult) -> dict[str, Any]:
        return {
            "met": found.met,
            "frontier": [
                point.to_dict() | {"int8_of_network": point.macs / self.share.network} for point in found.frontier
            ],
            "costs": [dict(vars(cost)) for cost in found.costs],
        }


def build(
    source: SourceModel, calibration: Calibration, layers: Collection[int], *, bias_correction: bool = True
) -> onnx.ModelProto:
    """The model with these convolutions in 8 bits.

    Raises:
        ArtifactError: The calibration is of another model.
    """
    calibration.require_model(source.sha256, source.path)
    placement = place(source.view, layers, of=source.placement)
    missing = sorted(placement.edges.keys() - calibration.thresholds.keys())
    if missing:
        raise ArtifactError(
            f"The calibration has no range for {len(missing)} tensors of it, {missing[0]} for one.",
            remedy="Make it again with 'rtmo-deploy calibrate'.",
            where=source.path,
        )
    shifts = {name: np.array(values, np.float32) for name, values in calibration.shifts.items()}
    return insert(source.model, placement, calibration.thresholds, shifts if bias_correction else None)


def quantize_onnx(
    source: SourceModel,
    calibration: Calibration,
    output: Path,
    options: QuantizeOptions | None = None,
    *,
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
        options: What is asked for.
        judge: Judges it; needed for a budget.
        progress: Told of each step.

    Raises:
        ArtifactError: The calibration is of another model; the companion is missing or another file; or the quantised
            graph is not well formed.
        UsageError: The output is the model itself; another model's companion lies where its own goes; or a budget is
            given, and no average precision to lose.
        SetupError: The file cannot be written.
    """
    options = options or QuantizeOptions()
    if output.resolve() == source.path.resolve():
        raise UsageError("The output would replace the float32 model.", remedy="Give another -o.", where=output)
    if options.max_ap_drop is not None and judge is None:
        raise UsageError("A budget needs somebody to judge.", remedy="Leave --no-judge away.")
    companion = read_companion(source.artifact)
    refuse_companion(source.artifact, output)
    blocks = blocks_of(source.view, source.placement.layers, source.macs)

    def model_of(names: Collection[str]) -> onnx.ModelProto:
        layers = [at for block in blocks if block.name in names for at in block.layers]
        return build(source, calibration, layers, bias_correction=options.bias_correction)

    names = tuple(block.name for block in blocks)
    found, verdict = None, None
    if judge is not None and options.max_ap_drop is not None:
        found = search(
            blocks,
            lambda chosen: judge(model_of(chosen)),
            judge.baseline.ap,
            options.max_ap_drop,
            progress=progress,
        )
        names, verdict = found.chosen.blocks, found.chosen.verdict
    model = model_of(names)
    if judge is not None and verdict is None:
        verdict = judge(model, progress=progress)
    result = _result(source, calibration, blocks, names, model, judge, verdict, found)
    if found is not None and not found.met:
        return result
    progress("validating")
    validation = validate_model(model, output)
    _require_valid(validation, output)
    artifact = _describe(source.artifact, source.sha256, output, result, validation)
    write_metadata(model, artifact)
    progress("writing")
    _write(source, output, model, companion)
    return replace(result, artifact=artifact, size=output.stat().st_size)


def _result(
    source: SourceModel,
    calibration: Calibration,
    blocks: Collection[Block],
    names: Collection[str],
    model: onnx.ModelProto,
    judge: Judge | None,
    verdict: Verdict | None,
    found: SearchResult | None,
) -> QuantizeResult:
    layers = [at for block in blocks if block.name in names for at in block.layers]
    return QuantizeResult(
        artifact=None,
        share=source.macs.share(layers),
        layers=len(layers),
        pairs=count_pairs(model),
        kept=tuple(block.name for block in blocks if block.name not in names),
        calibration=calibration,
        baseline=None if judge is None else judge.baseline,
        verdict=verdict,
        search=found,
        size=0,
    )


def _require_valid(report: ValidationReport, output: Path) -> None:
    for check in report.checks:
        if not check.ok:
            raise ArtifactError(
                f"The quantised model does not pass {check.name}: {check.detail}",
                remedy="Nothing was written. Check the float32 model with 'rtmo-deploy validate'; calibrate it again.",
                where=output,
            )


def _describe(
    artifact: Artifact, sha256: str, output: Path, result: QuantizeResult, validation: ValidationReport
) -> Artifact:
    return replace(
        artifact,
        path=output,
        precision="int8",
        parents=(Parent(artifact.path.name, sha256),),
        versions=made_with("numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
        verified={"validation": validation.to_dict(), "quantization": result.to_dict()},
    )


def _write(source: SourceModel, output: Path, model: onnx.ModelProto, companion: bytes | None) -> None:
    write_companion(source.artifact, companion, output)
    content = model.SerializeToString()
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)
