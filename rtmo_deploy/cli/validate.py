"""``rtmo-deploy validate``: is an exported model well formed? Needs nothing but the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_json, print_result, print_table, stderr
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import JsonOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import EXPORTED, FORMATS, Format, likely_kind
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from rtmo_deploy.measure import ValidationReport


def validate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An ONNX model, whoever made it; an OpenVINO model (.xml); or a TensorRT engine (.engine, .plan).",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check an exported model: its structure, its parts against what it says of itself, and runs.

    An OpenVINO model's weights and an engine's bytes are compared with their SHA-256; an engine is loaded only if they
    match, in a process of its own. What this machine cannot check is reported as "not checked".
    """
    path = find_model(file, "validate", EXPORTED)
    known = FORMATS[likely_kind(path)]
    with status("validating"):
        report: ValidationReport = Format.load(known.validator)(path)
    if as_json:
        print_json("validate", path=str(path), **report.to_dict())
    else:
        rows = [(check.name, check.result, check.detail) for check in report.checks]
        print_table(Table(str(path), ("check", "result", "finding"), rows, numbers=False))
    failed = next((check for check in report.checks if check.failed), None)
    if failed is not None:
        detail = failed.detail.rstrip(".")
        raise ArtifactError(f"It does not pass {failed.name}: {detail}.", remedy=known.remedy, where=path)
    skipped = [check.name for check in report.checks if check.ok is None]
    if not as_json:
        left_out = f", {len(skipped)} not checked here" if skipped else ""
        passed = len(report.checks) - len(skipped)
        print_result(f"passed: {passed} checks{left_out}", "yellow" if skipped else "green")
    if skipped:
        stderr().print(f"Note: not checked here: {', '.join(skipped)}.")
