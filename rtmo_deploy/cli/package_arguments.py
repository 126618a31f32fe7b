"""Arguments and output that the commands of ``rtmo-deploy package`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.address import is_address
from rtmo_deploy.cli.console import print_facts, print_json
from rtmo_deploy.cli.given import find_model, newest_model
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind, Wanted

if TYPE_CHECKING:
    from rtmo_deploy.package.source_folder import SourceFolder

#: What is packaged as source code.
RUNNABLE = Wanted(
    "an ONNX model or a TensorRT engine",
    frozenset({Kind.ONNX, Kind.ENGINE}),
    ArtifactError,
    "Make one with: rtmo-deploy export CKPT --decode fixed",
)
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="An ONNX model or a TensorRT engine. [default: the newest that was made in this directory]",
    ),
]
FolderArgument = Annotated[
    Path | None, typer.Argument(metavar="DIR", show_default=False, help="Folder to write; always the last argument.")
]


def model_and_folder(model: str | None, folder: Path | None, by: str, wanted: Wanted = RUNNABLE) -> tuple[Path, Path]:
    """The model's file and the folder to write; with one argument it is the folder, and the model the newest made."""
    if model is None or (folder is None and (is_address(model) or Path(model).is_file())):
        raise UsageError(
            "The folder to write is missing.", remedy=f"Name it after the model: rtmo-deploy {by} MODEL DIR"
        )
    if folder is not None:
        return find_model(model, by, wanted), folder
    return newest_model(wanted.kinds), Path(model)


def print_made(command: str, made: SourceFolder, more: dict[str, str], as_json: bool) -> None:
    """Print what was written."""
    if as_json:
        print_json(command, **made.to_dict())
        return
    artifact = made.artifact
    facts = {
        "folder": f"{made.path} ({len(made.files)} files, {made.size})",
        "model": f"{artifact.path.name}: {artifact.architecture}, {artifact.skeleton.label}, {artifact.precision}",
        "runtime": made.runtime,
    }
    print_facts(facts | more)
