"""``rtmo-deploy package cpp``: a C++ program that runs a model."""

from __future__ import annotations

from rtmo_deploy.cli.options import ForceOption, JsonOption
from rtmo_deploy.cli.package_arguments import FolderArgument, ModelArgument, model_and_folder, print_made
from rtmo_deploy.cli.progress import status


def cpp(
    model: ModelArgument = None,
    folder: FolderArgument = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a C++ program that finds people with a model, and the model.

    The folder is a CMake project. With an ONNX model it uses ONNX Runtime, with an engine TensorRT. It letterboxes,
    decodes and prints as 'predict --jsonl' does.
    """
    path, target = model_and_folder(model, folder, "package cpp")
    with status("writing"):
        from rtmo_deploy.package.cpp import package_cpp

        made = package_cpp(path, target, force=force)
    print_made(
        "package cpp", made, {"build": f"cmake -S {target} -B {target / 'build'}; see {target / 'README.md'}"}, as_json
    )
