"""``rtmo-deploy calibrate``: measure a model on images, for ``rtmo-deploy quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rtmo_deploy.cli.console import print_facts, print_json, stderr
from rtmo_deploy.cli.given import beside, find_model, require_data
from rtmo_deploy.cli.options import ForceOption, JsonOption, MaxPixelsOption, ThreadsOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import ONNX
from rtmo_deploy.outputs import require_free, require_suffix
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.convert.quantize import Calibration


TargetName = Literal["tensorrt", "openvino", "onnxruntime"]
MethodName = Literal["mse", "percentile", "minmax", "entropy"]
METHODS = (
    "How ranges are chosen. mse: least squared error. percentile: 99.99 % of the values. minmax: all of them. "
    "entropy: least information lost."
)
IMAGES = "Images. [default: the set's own; of a folder, 256]"


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="The float32 model.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of images; with --set, of that set's images.")
    ] = None,
    set_name: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="A named set: synthetic, coco-train2017, ...")
    ] = None,
    ann: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Annotation file, for a set that is chosen from one.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help=IMAGES)] = None,
    method: Annotated[MethodName, typer.Option(help=METHODS)] = "mse",
    target: Annotated[TargetName | None, typer.Option(help="Runtime, as for quantize.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. [default: MODEL.<set>-<method>.calibration.json, beside]"),
    ] = None,
    threads: ThreadsOption = None,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the ranges of a model's tensors on images. Images that cannot be read are skipped, and named."""
    if images is None and set_name is None:
        raise UsageError("There are no images to measure on.", remedy="Give --images DIR, or --set NAME.")
    if set_name is None and ann is not None:
        raise UsageError("--ann belongs to a named set.", remedy="Give --set coco-train2017 with it.")
    require_suffix(output, ".json")
    file = find_model(model, "calibrate", ONNX)
    require_data("calibrate", ann=[ann], images=[images])
    name = set_name or (images and images.name) or "folder"
    path = output or beside(model, file).with_suffix(f".{name}-{method}.calibration.json")
    require_free([path], files_of(file, model, ann, images), force=force)
    with status("reading the model") as progress:
        from rtmo_deploy.convert.quantize import Method, open_source
        from rtmo_deploy.convert.quantize import calibrate as measure
        from rtmo_deploy.data.calibration import folder_images, open_set

        if set_name is not None:
            chosen = open_set(set_name, count, annotations=ann, images=images)
        else:
            assert images is not None
            chosen = folder_images(images, count)
        made = measure(open_source(file, target), chosen, method=Method(method), threads=threads, progress=progress)
        made.save(path)
    report_skipped(made)
    _show(file, path, made, as_json=as_json)


def report_skipped(made: Calibration) -> None:
    """Name on stderr the images that could not be read."""
    for name, reason in made.skipped:
        stderr().print(f"Skipped: {name}: {reason}")


def _show(model: Path, path: Path, made: Calibration, *, as_json: bool) -> None:
    worst = sorted(made.noise_db.items(), key=lambda item: item[1])[:5]
    if as_json:
        print_json(
            "calibrate",
            model=str(model),
            model_sha256=made.source.model_sha256,
            path=str(path),
            pictures=dict(made.source.pictures),
            input_hw=list(made.source.input_hw),
            method=made.source.method.value,
            used=made.used,
            skipped=made.skipped_dicts(),
            target=made.source.target.value,
            tensors=len(made.ranges),
            worst_layers=[{"layer": layer, "snr_db": ratio} for layer, ratio in worst],
        )
        return
    facts = {
        "file": str(path),
        "model": f"{model} (SHA-256 {made.source.model_sha256[:12]}...)",
        "images": f"{made.used} of '{made.source.pictures['name']}' used, {len(made.skipped)} skipped",
        "method": made.source.method.value,
        "for": made.source.target.value,
        "tensors": str(len(made.ranges)),
        "noisiest layers": "; ".join(f"{layer} {ratio:.1f} dB" for layer, ratio in worst),
    }
    print_facts(facts)
