"""The second half of ``rtmo-deploy export --format openvino``: an ONNX model becomes an OpenVINO model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    import typer

    from rtmo_deploy.convert.openvino import OpenvinoResult

#: Options that still mean something where the ONNX model is there already.
_OWN = {"checkpoint", "format_name", "output", "no_verify", "force", "as_json"}


def require_no_onnx_options(context: typer.Context) -> None:
    """Refuse options that shape the ONNX model, where there is one already.

    Raises:
        UsageError: One was given.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _OWN:
            raise UsageError(
                f"{parameter.opts[-1]} does not apply where the ONNX model is there already.",
                remedy="Leave it away, or export the checkpoint.",
            )


def convert(source: Path, output: Path, *, verify: bool, as_json: bool) -> None:
    """Convert, and print what came of it."""
    from rtmo_deploy.cli.console import print_json
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.convert.openvino import convert_openvino

    with status("loading OpenVINO") as progress:
        result = convert_openvino(source, output, verify=verify, progress=progress)
    if as_json:
        print_json(
            "export",
            path=str(result.artifact.path),
            weights=str(result.weights),
            onnx=str(source),
            size=result.size,
            seconds=round(result.seconds, 3),
            artifact=result.artifact.to_dict(),
        )
    else:
        _print(source, result)


def _print(source: Path, result: OpenvinoResult) -> None:
    from rtmo_deploy.cli.console import facts_table, print_table
    from rtmo_deploy.cli.export import print_parity
    from rtmo_deploy.files import human_size

    artifact = result.artifact
    facts = {
        "file": f"{artifact.path}, {result.weights.name} ({human_size(result.size)})",
        "from": str(source),
        "model": f"{artifact.architecture}, {artifact.skeleton.label}, {artifact.precision}",
        "decode": artifact.decode.mode.value,
    }
    if artifact.companion:
        facts["companion"] = f"{artifact.companion.name} (pose vectors to keypoints; stays ONNX)"
    if result.verification is None:
        facts["validation"] = "not verified (--no-verify)"
    else:
        facts["parity"] = f"passed: every bound is met on {len(result.verification.cases)} inputs"
    facts["time"] = f"{result.seconds:.1f} s"
    print_table(facts_table(facts))
    if result.verification is not None:
        print_parity(result.verification)
