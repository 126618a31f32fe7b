"""From the models that were named to the contenders, the reference among them. Nothing is run here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.options import Contender, unique_labels
from rtmo_deploy.runtime.backends import BACKENDS, parse_device
from rtmo_deploy.runtime.estimator import is_checkpoint, read_artifact
from rtmo_deploy.runtime.model_files import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.options import BenchOptions


@dataclass(frozen=True)
class Plan:
    """Who takes part: the contenders without batch size and threads, the reference first."""

    contenders: tuple[Contender, ...]
    batches: tuple[int, ...]
    notes: tuple[str, ...]

    def of(self, batch: int, threads: int | None) -> list[Contender]:
        """The contenders with one batch size and one number of threads."""
        return [replace(contender, batch=batch, threads=threads) for contender in self.contenders]


def plan_contenders(options: BenchOptions) -> Plan:
    """Read what the models know of themselves (checkpoints aside, which their workers read), and find the reference."""
    parse_device(options.device)
    exported: dict[Path, Artifact] = {}
    checkpoints: list[Path] = []
    for path in options.models:
        if is_checkpoint(path):
            checkpoints.append(path)
        else:
            exported[path] = read_artifact(path)
    base = Contender("", "", device=options.device, input_hw=options.input_hw, spinning=options.spinning)
    first, notes = next(iter(exported.values()), None), list[str]()
    contenders = [
        replace(base, label=f"{path.name} ({name})", model=str(path), backend=name)
        for path, artifact in exported.items()
        for name in _backends(options, path, artifact)
    ]
    if first is not None:  # so that PyTorch does the same work
        thresholds = (first.decode.score_thr, first.decode.nms_thr)
        base = replace(base, thresholds=thresholds, placement=first.input.placement)
    contenders = _pytorch(options, checkpoints, exported.values(), base, notes) + contenders
    if options.input_hw is None and first is not None:
        size = (first.input.height, first.input.width)
        contenders = [replace(one, input_hw=size) for one in contenders]
    _require_used(options, contenders)
    labels = unique_labels([one.label for one in contenders])
    named = [replace(one, label=label) for one, label in zip(contenders, labels, strict=True)]
    named[0] = replace(named[0], reference=len(named) > 1)
    fixed = None if first is None else first.input.batch
    return Plan(tuple(named), options.batches or (fixed or 1,), tuple(notes))


def _pytorch(
    options: BenchOptions, checkpoints: list[Path], exported: Iterable[Artifact], base: Contender, notes: list[str]
) -> list[Contender]:
    """Checkpoints that were named, and the reference if it is none of them."""
    if options.reference is not None:
        if options.reference not in checkpoints:
            checkpoints = [options.reference, *checkpoints]
    elif not checkpoints and not options.no_reference:
        found = next(filter(None, map(find_checkpoint, exported)), None)
        checkpoints = [] if found is None else [found]
        if found is None:
            notes.append(
                "PyTorch is not among them: the checkpoint that the model was made from is neither beside it nor among "
                "the downloaded ones (--reference FILE names it)."
            )
    made = []
    for path in checkpoints:
        if not is_checkpoint(path):
            raise UsageError(f"{path.name} is no checkpoint.", remedy="--reference takes a .pth or .safetensors file.")
        if not path.is_file():
            read_artifact(path)  # says that it is not there
        one = replace(base, label=f"PyTorch ({path.name})", model=str(path), backend="torch")
        made.append(one)
        if options.compiled:
            made.append(replace(one, label=f"PyTorch compiled ({path.name})", compiled=True))
    return made


def _backends(options: BenchOptions, path: Path, artifact: Artifact) -> list[str]:
    fitting = [record.name for record in BACKENDS if artifact.kind in record.kinds]
    if not fitting:
        raise UsageError(
            f"There is no runtime for a model of kind {artifact.kind}.", remedy="Measure another.", where=path
        )
    return [name for name in options.backends if name in fitting] if options.backends else fitting[:1]


def _require_used(options: BenchOptions, contenders: list[Contender]) -> None:
    used = {contender.backend for contender in contenders}
    idle = [name for name in options.backends if name not in used]
    if idle:
        known = "; ".join(f"{record.name} runs {', '.join(record.kinds)}" for record in BACKENDS)
        raise UsageError(f"No model here runs with '{idle[0]}'.", remedy=f"There are: {known}.", where="--backend")
