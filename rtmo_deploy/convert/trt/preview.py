"""What ``build-trt`` would do, without doing any of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.trt.chain import target_cast
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.convert.trt.plan import build_notes, check_plugin_choice, default_output, plan_build, settle_flavour
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.trt.options import BuildOptions


@dataclass(frozen=True)
class Preview:
    """A build that was not begun.

    Attributes:
        steps: What would be done, in order.
        backend: What would build.
        precision: What the engine would be.
        profiles: Sizes it would take.
        output: The engine's file.
        problems: Why this machine cannot; empty if it can.
        notes: What the reader should know.
    """

    steps: tuple[str, ...]
    backend: str
    precision: str
    profiles: tuple[str, ...]
    output: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "steps": list(self.steps),
            "backend": self.backend,
            "precision": self.precision,
            "profiles": list(self.profiles),
            "output": str(self.output),
            "possible": not self.problems,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def preview(
    source: Path,
    artifact: Artifact,
    output: Path | None,
    options: BuildOptions,
    decode: DecodeMode | None,
    *,
    around: str | None = None,
) -> Preview:
    """Check as much of a build as can be checked before anything is made.

    Args:
        source: A checkpoint or an ONNX model.
        artifact: What it is.
        output: The engine's file; named after what it is, if not given.
        options: What is asked for.
        decode: Where people shall be made.
        around: With ``int8``, what the rest of the network shall be.

    Raises:
        ArtifactError: The model cannot be built.
        UsageError: An option does not apply.
    """
    quantising = options.precision == "int8" and artifact.precision == "fp32"
    casting = target_cast(artifact.precision, options.precision, around)
    if quantising and artifact.decode.mode is DecodeMode.PLUGIN:
        raise ArtifactError(
            "A model with the plugin in it cannot be quantised: no runtime on the CPU could judge it.",
            remedy="Give the model with --decode fixed; --decode plugin puts the plugin in afterwards.",
            where=source,
        )
    steps = []
    if artifact.kind is Kind.CHECKPOINT:
        steps.append(f"export --decode {DecodeMode.RAW if decode is DecodeMode.RAW else DecodeMode.FIXED}")
    if quantising:
        steps.append("quantise to int8 and judge it")
    if casting:
        steps.append(f"cast {'the rest ' if options.precision == 'int8' else ''}to {casting}")
    if decode is DecodeMode.PLUGIN and artifact.decode.mode is not DecodeMode.PLUGIN:
        steps.append("put the decode plugin in")
    if artifact.kind is Kind.CHECKPOINT:
        flavour, problems = settle_flavour(options)
        check_plugin_choice(flavour, decode, source)
        precision = _made(options.precision or "fp32", casting)
        profiles = make_profiles(options, artifact.input)
        notes = build_notes(flavour, options)
        target = output or default_output(source, precision, flavour)
    else:
        plan = plan_build(source, output, replace(options, precision=None) if casting or quantising else options)
        flavour, problems, profiles, notes = plan.flavour, plan.problems, plan.profiles, plan.notes
        check_plugin_choice(flavour, decode, source)
        precision = _made(options.precision or plan.precision, casting) if casting or quantising else plan.precision
        target = output or default_output(source, precision, flavour)
    steps.append(f"build with {flavour.name}, audit, write")
    return Preview(tuple(steps), flavour.name, precision, tuple(map(str, profiles)), target, problems, notes)


def _made(precision: str, casting: str | None) -> str:
    return f"int8+{casting}" if precision == "int8" and casting else precision
