"""Who takes part: from the models that were named to the contenders, the reference among them. Nothing is run here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.options import Contender, unique_labels
from rtmo_deploy.measure.bench.reference import find_checkpoint
from rtmo_deploy.runtime.backends import BACKENDS, parse_device
from rtmo_deploy.runtime.estimator import is_checkpoint, read_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.options import BenchOptions


@dataclass(frozen=True)
class Plan:
    """Who takes part.

    Attributes:
        contenders: Without batch size and threads; the reference first.
        batches: Batch sizes.
        notes: What the reader should know.
    """

    contenders: tuple[Contender, ...]
    batches: tuple[int, ...]
    notes: tuple[str, ...]

    def of(self, batch: int, threads: int | None) -> list[Contender]:
        """The contenders with one batch size and one number of threads."""
        return [replace(contender, batch=batch, threads=threads) for contender in self.contenders]


def plan_contenders(options: BenchOptions) -> Plan:
    """Read what the models know of themselves (checkpoints aside, which their workers read), and find the reference.

    Raises:
        ModelError: A model cannot be used.
        UsageError: A runtime runs none of the models; or there is no such device.
    """
    parse_device(options.device)
    known: dict[Path, Artifact | None] = {
        path: None if is_checkpoint(path) else read_artifact(path) for path in options.models
    }
    for path, artifact in known.items():
        if artifact is None and not path.is_file():
            read_artifact(path)  # says that it is not there
    first = next((artifact for artifact in known.values() if artifact is not None), None)
    input_hw = options.input_hw
    if input_hw is None and first is not None:
        input_hw = (first.input.height, first.input.width)
    base = Contender("", "", device=options.device, input_hw=input_hw, spinning=options.spinning)
    if first is not None:  # so that PyTorch does the same work
        base = replace(base, thresholds=(first.decode.score_thr, first.decode.nms_thr), placement=first.input.placement)
    notes: list[str] = []
    contenders = _pytorch(options, known, base, notes)
    for path, artifact in known.items():
        if artifact is not None:
            contenders += _exported(options, path, artifact, base)
    _require_used(options, contenders)
    labels = unique_labels([one.label for one in contenders])
    named = [replace(one, label=label) for one, label in zip(contenders, labels, strict=True)]
    named[0] = replace(named[0], reference=len(named) > 1)
    fixed = None if first is None else first.input.batch
    return Plan(tuple(named), options.batches or (fixed or 1,), tuple(notes))


def _pytorch(
    options: BenchOptions, known: dict[Path, Artifact | None], base: Contender, notes: list[str]
) -> list[Contender]:
    """Checkpoints that were named, and the reference if it is none of them."""
    checkpoints = [path for path, artifact in known.items() if artifact is None]
    if not checkpoints and not options.no_reference:
        found = options.reference
        if found is None:
            places = (find_checkpoint(artifact) for artifact in known.values() if artifact is not None)
            found = next((place for place in places if place is not None), None)
        if found is None:
            notes.append(
                "PyTorch is not among them: the checkpoint that the model was made from is neither beside it nor among "
                "the downloaded ones (--reference FILE names it)."
            )
        else:
            checkpoints = [found]
    elif options.reference is not None and options.reference not in checkpoints:
        checkpoints.insert(0, options.reference)
    made = []
    for path in checkpoints:
        if not is_checkpoint(path):
            raise UsageError(f"{path.name} is no checkpoint.", remedy="--reference takes a .pth or .safetensors file.")
        if not path.is_file():
            read_artifact(path)
        one = replace(base, label=f"PyTorch ({path.name})", model=str(path), backend="torch")
        made.append(one)
        if options.compiled:
            made.append(replace(one, label=f"PyTorch compiled ({path.name})", compiled=True))
    return made


def _exported(options: BenchOptions, path: Path, artifact: Artifact, base: Contender) -> list[Contender]:
    fitting = [record.name for record in BACKENDS if artifact.kind in record.kinds]
    if not fitting:
        raise UsageError(
            f"There is no runtime for a model of kind {artifact.kind}.", remedy="Measure another.", where=path
        )
    chosen = [name for name in options.backends if name in fitting] or ([] if options.backends else fitting[:1])
    return [
        replace(base, label=f"{path.name} ({name})", model=str(path), backend=name, thresholds=None, placement=None)
        for name in chosen
    ]


def _require_used(options: BenchOptions, contenders: list[Contender]) -> None:
    used = {contender.backend for contender in contenders}
    idle = [name for name in options.backends if name not in used]
    if idle:
        kinds = {record.name: ", ".join(record.kinds) for record in BACKENDS}
        known = "; ".join(f"{name} runs {what}" for name, what in kinds.items())
        raise UsageError(f"No model here runs with '{idle[0]}'.", remedy=f"There are: {known}.", where="--backend")
