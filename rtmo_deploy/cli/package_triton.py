"""``rtmo-deploy package triton``: a model repository for NVIDIA Triton."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_facts, print_json
from rtmo_deploy.cli.options import ForceOption, InputSizeOption, JsonOption, MaxPixelsOption, options_of
from rtmo_deploy.cli.package_arguments import FolderArgument, model_and_folder
from rtmo_deploy.cli.progress import status
from rtmo_deploy.file_kind import EXPORTED
from rtmo_deploy.package.triton.options import TritonOptions

if TYPE_CHECKING:
    from rtmo_deploy.package.triton import TritonRepository


@options_of(TritonOptions, imgsz=InputSizeOption)
def triton(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="An ONNX model, an OpenVINO model (.xml) or a TensorRT engine. [default: the newest that was made in "
            "this directory]",
        ),
    ] = None,
    folder: FolderArgument = None,
    *,
    options: TritonOptions,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model repository for NVIDIA Triton: the network, its pre- and postprocessing, and a pipeline of them.

    The pipeline takes image files or pixels and finds what 'predict' finds. DIR/README.md says how to run it.
    """
    path, target = model_and_folder(model, folder, "package triton", EXPORTED)
    with status("writing"):
        from rtmo_deploy.package.triton import write_triton

        made = write_triton(path, target, options, force=force)
    if as_json:
        print_json("package triton", **made.to_dict())
    else:
        _print(made)


def _print(made: TritonRepository) -> None:
    plan = made.plan
    batches = f"up to {plan.max_batch}, preferred {', '.join(map(str, plan.preferred))}" if plan.max_batch else "none"
    print_facts(
        {
            "folder": str(made.folder),
            "network": f"{plan.artifact.path.name}, {plan.artifact.precision}, Triton's {plan.backend} backend",
            "device": "cpu" if plan.gpu is None else f"cuda:{plan.gpu}",
            "input": f"{plan.height}x{plan.width}",
            "batches": batches,
            "models": "rtmo_pipeline (image in, people out), rtmo_preprocess, rtmo, rtmo_postprocess",
            "run": f"tritonserver --model-repository {shlex.quote(str(made.folder))}; see README.md there",
        }
    )
