"""``rtmo-deploy parity``: do two models find the same people, and if not, from which layer on?"""

from __future__ import annotations

import glob
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import (
    SIZE,
    DeviceOption,
    ForceOption,
    IgnoreCfgOption,
    JsonOption,
    MaxPixelsOption,
    OpenOptions,
    Size,
    ThreadsOption,
    parse_input_size,
)
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import InputDataError, ParityError, UsageError
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import shorten
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.measure.agreement import AgreementReport, LayerReport

#: Images that the table lists.
LISTED = 5


def parity(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: any model file, or a published model's name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to compare with it.")],
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of images, one image, or a pattern.")
    ] = None,
    synthetic: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Generate this many synthetic images. [default: 16]")
    ] = None,
    imgsz: Annotated[
        Size | None,
        typer.Option(
            parser=parse_input_size, metavar=SIZE, help="Size of the network input. [default: one that both take]"
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time, where a model leaves the choice.")] = 4,
    backend_a: Annotated[str | None, typer.Option(help="Runtime of A. [default: what fits the file]")] = None,
    backend_b: Annotated[str | None, typer.Option(help="Runtime of B. [default: what fits the file]")] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Find the first layer where they differ, on the worst image.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write images of both, and a page that lists them.")
    ] = None,
    bound_px: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="Worst keypoint and box, network pixels. [default: by precision]"),
    ] = None,
    bound_score: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="Worst score difference of a detection. [default: by precision]"),
    ] = None,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Run two models on the same tensors and compare their detections.

    Exit 6 if a bound is not met, 3 if no people were compared.

    The bounds follow from the precisions, as in a release's parity gate; the whole rule is printed.
    """
    if images is not None and synthetic is not None:
        raise UsageError("--images and --synthetic exclude each other.", remedy="Give one of them.")
    for name, bound in (("--bound-px", bound_px), ("--bound-score", bound_score)):
        if bound is not None and not math.isfinite(bound):
            raise UsageError(f"{name} {bound} is no bound.", remedy="Give a number of 0 or more.")
    if show is not None and show.exists() and not show.is_dir():
        raise UsageError("This is a file.", remedy="Name a folder for the images.", where=show)
    if show is not None:
        read = [] if images is None else [images, *glob.glob(images, recursive=True)]  # noqa: PTH207
        require_free(
            [show / "index.html", *sorted(show.glob("[0-9][0-9][0-9].png"))], files_of(a, b, *read), force=force
        )
    opened = [OpenOptions(device, backend, threads=threads) for backend in (backend_a, backend_b)]
    paths = [find_model(model, "parity", opening=opening) for model, opening in zip((a, b), opened, strict=True)]
    from rtmo_deploy.measure.agreement import ImageSource, Side, bounds_for, compare_models, write_gallery

    if images is not None:
        compared = ImageSource.in_folder(images)
    else:
        compared = ImageSource.synthetic() if synthetic is None else ImageSource.synthetic(synthetic)
    with status("opening the first model") as progress:
        one = Side.open(paths[0], device=device, backend=backend_a, threads=threads)
        progress("opening the second model")
        two = Side.open(paths[1], device=device, backend=backend_b, threads=threads)
        bounds = bounds_for(one.artifact.precision, two.artifact.precision)
        report = compare_models(
            one,
            two,
            compared,
            input_hw=imgsz,
            batch=batch,
            layers=layers,
            bounds=bounds.with_overrides(px=bound_px, score=bound_score),
            progress=progress,
        )
        shown = None if show is None else write_gallery(report, compared, show, progress=progress)
    if as_json:
        print_json("parity", **report.to_dict(), page=None if shown is None else str(shown))
    else:
        _print(report, shown)
    for note in (*report.causes, *report.notes):
        stderr().print(f"Note: {note}")
    failures = report.failures()
    if failures:
        listed = shorten(failures, 3, separator="; ")
        raise ParityError(
            f"{report.names[1]} differs from {report.names[0]} by more than a bound: {listed}.",
            remedy=_remedy(report, layers=layers, show=show),
        )
    if report.verdict == "nobody found":
        raise InputDataError(report.told, remedy="Give images in which a trained model finds people.")


def _remedy(report: AgreementReport, *, layers: bool, show: Path | None) -> str:
    if report.causes:
        return report.causes[0]
    if report.layers is not None:
        return report.layers.told()
    wanted = [option for option, given in (("--layers", layers), ("--show DIR", show is not None)) if not given]
    return f"Look closer with {' and '.join(wanted)}, or set other bounds." if wanted else "Or set other bounds."


def _print(report: AgreementReport, shown: Path | None) -> None:
    one, two = report.names
    height, width = report.input_hw
    facts = {
        name: f"{model.path} ({model.kind} {model.precision}, {model.decode}, by {model.backend} on {model.device})"
        for name, model in ((one, report.a), (two, report.b))
    }
    facts["images"] = f"{report.people.images} ({report.source}), network input {height}x{width}"
    facts |= report.figures()
    if shown is not None:
        facts["shown in"] = str(shown)
    facts["verdict"] = report.told
    print_facts(facts)
    _print_rule(report)
    _print_images(report)
    if report.layers is not None:
        _print_layers(report.layers)


def _print_rule(report: AgreementReport) -> None:
    rows = [
        (check.name, check.bound, check.measured, "passed" if check.passed else "failed") for check in report.checks()
    ]
    title, headings = f"Rule for {report.a.precision} and {report.b.precision}", ("what", "bound", "measured", "result")
    if rows:
        print_table(Table(title, headings, rows, report.bounds.why, numbers=False))


def _print_images(report: AgreementReport) -> None:
    rows = []
    for index in report.worst(LISTED):
        image = report.images[index]
        values = image.to_dict()
        counts = (str(values[name]) for name in ("matched", "missed", "extra"))
        distances = (_n(values[name]) for name in ("oks_min", "keypoint_px_max", "box_px_max"))
        if any(image.badness()):
            rows.append((image.name, *counts, *distances))
    headings = ("image", "in both", "missed", "extra", "least OKS", "keypoint px", "box px")
    if rows:
        print_table(Table("Worst images", headings, rows))


def _print_layers(found: LayerReport) -> None:
    shown = [layer for layer in found.layers if layer.weighted or layer is found.first]
    rows = []
    for layer in shown:
        numbers = ["-", "-", layer.why or "-"]
        if layer.error is not None:
            lost = "-" if layer.loss_db is None else f"{layer.loss_db:.1f}"
            numbers = [_n(layer.error.snr_db), lost, _n(layer.error.max_abs)]
        rows.append((layer.name, layer.op, *numbers))
    headings = ("layer", "operator", "dB", "lost dB", "worst difference")
    caption = f"dB: signal over error. Found by {found.by}; --json has every tensor."
    first = next((place for place, layer in enumerate(shown) if layer is found.first), None)
    print_table(Table(found.told(), headings, rows, caption, numbers=False), marked=first)
    if found.losses:
        told = ", ".join(f"{layer.name} ({layer.loss_db or 0:.1f} dB)" for layer in found.losses)
        print_facts({"most is lost in": told})


def _n(value: float | None) -> str:
    """A number in four digits; - where there is none."""
    return "-" if value is None else f"{value:.4g}"
