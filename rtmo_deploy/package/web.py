"""Writes a folder that runs a model in a browser: ONNX files, configs as Transformers.js reads them, and a page."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx

from rtmo_deploy import web
from rtmo_deploy.convert.export import export_onnx
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_folder, write_whole
from rtmo_deploy.package.runtime_web import PACKAGE, VERSION, read_runtime
from rtmo_deploy.runtime.draw import drawn_colours
from rtmo_deploy.web.pages import asset

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.precision import CastResult
    from rtmo_deploy.convert.step import ExportResult
    from rtmo_deploy.model import LoadedCheckpoint

MODEL: Final = "onnx/model.onnx"
HALF: Final = "onnx/model_fp16.onnx"
CONFIG: Final = "config.json"
#: Everything at the top of such a folder; one with anything else in it is never replaced.
_TOP: Final = {CONFIG, "preprocessor_config.json", "onnx", "runtime", "index.html", "serve.py"}
#: How far a keypoint on WebGPU may lie from the CPU's, input pixels, and a score; FP16's own bounds fit in.
_AGREE: Final = {"agree_px": 4.0, "agree_score": 0.05}


@dataclass(frozen=True)
class WebExport:
    """What an export for browsers made."""

    folder: Path
    files: tuple[Path, ...]  #: All of it, relative to the folder.
    size: int  #: Bytes of all files.
    export: ExportResult  #: Of the float32 model; its paths are those in the folder.
    half: CastResult | None  #: Of the FP16 model, None without.
    seconds: float  #: Time taken.


def web_options(options: ExportOptions, *, asked: Collection[str] = ()) -> ExportOptions:
    """The options of a model for browsers: ``fixed`` decode, one size, one image at a time.

    Args:
        options: What was asked for.
        asked: Names of those that were given and not left at their defaults.

    Raises:
        UsageError: One of them asks for something else.
    """
    refusals = {
        "decode": ("decode" in asked and options.decode != "fixed", "--decode fixed"),
        "batch": (options.batch not in (None, 1), "one image at a time"),
        "letterbox": (options.letterbox != "center", "--letterbox center, which its page does"),
        "min_rows": (options.min_rows is not None, "a fixed number of rows"),
    }
    for name, (refused, taken) in refusals.items():
        if refused:
            raise UsageError(
                f"--{name.replace('_', '-')} {getattr(options, name)} does not apply to --format web, which writes "
                f"{taken}.",
                remedy="Leave it away.",
            )
    return replace(options, decode="fixed", static=True, batch=1)


def require_free_folder(folder: Path, *, force: bool) -> None:
    """Check, before any work, that a folder may be written.

    Raises:
        UsageError: Something is there that is not to be replaced.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise UsageError("A file has this name.", remedy="Name a folder with -o.", where=folder)
    there = {path.name for path in folder.iterdir()}
    if there - _TOP:
        raise UsageError(
            f"The folder holds other files, such as {min(there - _TOP)}.",
            remedy="Name another folder with -o: this one is replaced as a whole.",
            where=folder,
        )
    if there and not force:
        raise UsageError(
            "The folder exists already.", remedy="Choose another name, or replace it with --force.", where=folder
        )


def export_web(
    checkpoint: LoadedCheckpoint,
    folder: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    fp16: bool = False,
    page: bool = True,
    ort: str | os.PathLike[str] | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> WebExport:
    """Export a checkpoint into a folder that runs in a browser, whole or not at all.

    The folder has ``onnx/model.onnx``, ``config.json`` and ``preprocessor_config.json`` as Transformers.js looks for
    them; and ``index.html``, ``runtime/`` and ``serve.py``, with which it works without a network.

    Args:
        checkpoint: The loaded checkpoint.
        folder: What to write.
        options: As :func:`web_options` gives them.
        fp16: Also write ``onnx/model_fp16.onnx``, which the page takes on a GPU with ``shader-f16``.
        page: Write the page and its runtime.
        ort: Where ONNX Runtime Web is, see :func:`rtmo_deploy.package.runtime_web.read_runtime`.
        verify: Compare the models with PyTorch (needs ONNX Runtime).
        force: Replace such a folder that exists.
        progress: Told of each step.

    Raises:
        UsageError: The folder is not free, or the runtime is another one.
        ParityError: The model does not compute what PyTorch computes. Nothing is written.
        SetupError: The runtime cannot be had, or the folder cannot be written.
    """
    started = time.monotonic()
    folder = Path(folder)
    options = web_options(options or ExportOptions())
    require_free_folder(folder, force=force)
    scripts = read_runtime(ort, progress=progress) if page else {}
    with atomic_folder(folder) as made:
        result = export_onnx(checkpoint, made / MODEL, options, verify=verify, progress=progress, rewrite=align_groups)
        half = None
        if fp16:
            from rtmo_deploy.convert.precision import cast_onnx

            half = cast_onnx(made / MODEL, made / HALF, "fp16", verify=verify, progress=progress)
        progress("writing")
        artifact = result.artifact
        texts = {CONFIG: _json(_config(artifact)), "preprocessor_config.json": _json(_preprocessor(artifact))}
        if page:
            title = checkpoint.variant.name if checkpoint.variant else f"{artifact.architecture} poses"
            texts |= {
                "index.html": web.page("web", _setup(artifact, title, fp16=fp16), title=title),
                "serve.py": asset("serve.py.txt"),
            }
        contents = {name: text.encode() for name, text in texts.items()}
        for name, content in (contents | {f"runtime/{name}": content for name, content in scripts.items()}).items():
            write_whole(made / name, content)
        files = tuple(sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file()))
        size = sum((made / path).stat().st_size for path in files)
    return WebExport(
        folder=folder,
        files=files,
        size=size,
        export=replace(result, artifact=replace(artifact, path=folder / MODEL), files=(folder / MODEL,)),
        half=half and replace(half, artifact=replace(half.artifact, path=folder / HALF), source=folder / MODEL),
        seconds=time.monotonic() - started,
    )


def align_groups(model: onnx.ModelProto) -> None:
    """Join groups of convolutions, in place, that ONNX Runtime's WebGPU kernel would mix up.

    It computes as many output channels at once, 4 or 2, as divide their number, and takes the first one's group for
    all of them: wrong where the channels of a group are not a multiple of that. Joined groups have zeros for the
    inputs of the others, so the results are the same.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        group = next((one for one in node.attribute if node.op_type == "Conv" and one.name == "group"), None)
        if group is None or group.i == 1:
            continue
        tensor = weights[node.input[1]]
        kernel = onnx.numpy_helper.to_array(tensor)
        outputs, inputs = kernel.shape[0] // group.i, kernel.shape[1]
        at_once = math.gcd(kernel.shape[0], 4)
        if outputs < 4 or outputs % at_once == 0:
            continue
        joined = at_once // math.gcd(at_once, outputs)
        joined = joined if group.i % joined == 0 else group.i
        wide = np.zeros((kernel.shape[0], inputs * joined, *kernel.shape[2:]), kernel.dtype)
        for index in range(kernel.shape[0]):
            start = index // outputs % joined * inputs
            wide[index, start : start + inputs] = kernel[index]
        # Another node may have the same weights in other groups.
        tensor = onnx.numpy_helper.from_array(wide, f"{tensor.name}.joined.{group.i // joined}")
        node.input[1], group.i = tensor.name, group.i // joined
        if tensor.name not in weights:
            weights[tensor.name] = tensor
            model.graph.initializer.append(tensor)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [one for one in model.graph.initializer if one.name not in used]:
        model.graph.initializer.remove(tensor)


def _config(artifact: Artifact) -> dict[str, Any]:
    return {
        "model_type": "rtmo",
        "architectures": ["RTMO"],
        "id2label": dict(enumerate(artifact.skeleton.keypoints)),
        "num_labels": len(artifact.skeleton),
        "edges": artifact.skeleton.edges,
        "decode": {"score_thr": artifact.decode.score_thr, "nms_thr": artifact.decode.nms_thr},
        "rtmo_deploy": artifact.to_dict() | {"verified": None},
    }


def _preprocessor(artifact: Artifact) -> dict[str, Any]:
    """What Transformers.js makes of an image: its longest side fitted, at the top left, padded black, BGR, 0 to 255."""
    size = {"width": artifact.input.width, "height": artifact.input.height}
    return {
        "image_processor_type": "ImageFeatureExtractor",  # the base class
        "do_resize": True,
        "size": {"longest_edge": min(size.values())},
        "resample": 2,
        "do_rescale": False,
        "do_normalize": False,
        "do_pad": True,
        "pad_size": size,
        "do_flip_channel_order": True,
    }


def _setup(artifact: Artifact, name: str, *, fp16: bool) -> dict[str, Any]:
    """What the page is told of its model."""
    keypoints, edges = drawn_colours(artifact.skeleton)
    return {
        "name": name,
        "input_hw": [artifact.input.height, artifact.input.width],
        "skeleton": artifact.skeleton.to_dict() | {"keypoint_colours": keypoints, "edge_colours": edges},
        "score_thr": artifact.decode.score_thr,
        "files": {"fp32": MODEL, "fp16": HALF if fp16 else None},
        "runtime": f"{PACKAGE} {VERSION}",
        "note": artifact.note,
        **_AGREE,
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
