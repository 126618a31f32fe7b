"""``rtmo-deploy package deepstream``: what Gst-nvinfer needs to run a model."""

from __future__ import annotations

from typing import Annotated

import typer

from rtmo_deploy.cli.options import ForceOption, JsonOption
from rtmo_deploy.cli.package_arguments import FolderArgument, ModelArgument, model_and_folder, print_made
from rtmo_deploy.cli.progress import status


def deepstream(
    model: ModelArgument = None,
    folder: FolderArgument = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Frames that nvinfer runs at a time. [default: the model's, or 1]")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write settings, an output parser and examples for NVIDIA DeepStream, and the model.

    The model has outputs of mode 'fixed' and static shapes, as 'export --decode fixed --static' writes it; or is an
    engine of build-trt.
    """
    path, target = model_and_folder(model, folder, "package deepstream")
    with status("writing"):
        from rtmo_deploy.package.deepstream import package_deepstream

        made = package_deepstream(path, target, batch=batch, force=force)
    print_made("package deepstream", made, {"build": f"see {target / 'README.md'}"}, as_json)
