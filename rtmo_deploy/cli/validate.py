"""``rtmo-deploy validate``: is an ONNX model well formed? Needs nothing but the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["validate"]


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX model, whoever made it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Check an ONNX model: the ONNX checker, strict shape inference, and runs in ONNX Runtime."""
    from rich.table import Table

    from rtmo_deploy.cli.console import print_json, print_table, status
    from rtmo_deploy.errors import ArtifactError
    from rtmo_deploy.measure import validate_onnx

    with status("validating"):
        report = validate_onnx(file)
    if as_json:
        print_json("validate", path=str(file), **report.to_dict())
    else:
        table = Table(title=str(file))
        for heading in ("check", "result", "finding"):
            table.add_column(heading, overflow="fold")
        for check in report.checks:
            style = None if check.ok else "bold red"
            table.add_row(check.name, "ok" if check.ok else "failed", check.detail, style=style)
        print_table(table)
    failed = next((check for check in report.checks if not check.ok), None)
    if failed is not None:
        raise ArtifactError(f"It does not pass {failed.name}: {failed.detail}", remedy="Export it again.", where=file)
