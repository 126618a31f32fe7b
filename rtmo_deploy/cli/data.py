"""``rtmo-deploy data``: data sets to train, calibrate and measure with."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rtmo_deploy.cli.options import MaxPixelsOption
from rtmo_deploy.errors import InputDataError, UsageError

__all__ = ["data_app"]

data_app = typer.Typer(
    help="Make data sets to train, calibrate and measure with.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

#: A line of progress is written at every so many pictures.
_STEP = 200
_GENERATOR = "rtmo-deploy data synth"


class _Format(StrEnum):
    JPG = "jpg"
    PNG = "png"


@data_app.callback()
def _data() -> None:
    pass


@data_app.command()
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write: images/ and annotations.json.")],
    images: Annotated[int, typer.Option(min=1, metavar="N", help="How many pictures.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same one gives the same pictures.")] = 0,
    people: Annotated[
        str, typer.Option(metavar="LOW-HIGH", help="How many people in a picture, drawn evenly; up to 60.")
    ] = "0-12",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of every picture; without it, sizes as photographs have.")
    ] = None,
    file_format: Annotated[_Format, typer.Option("--format", help="jpg has quality 95; png loses nothing.")] = (
        _Format.JPG
    ),
    force: Annotated[bool, typer.Option("--force", help="Write into OUT even if there is something in it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Draw pictures of made-up people with exact COCO keypoints, boxes and visibility."""
    numbers = _numbers(people, r"(\d+)(?:-(\d+))?", "--people", "Write it like 0-12, or 3 for exactly three.")
    hw = None if size is None else _numbers(size, r"(\d+)x(\d+)", "--size", "Write height x width, like 480x640.")
    _check_folder(out, force=force)

    from rtmo_deploy.cli.console import facts_table, print_json, print_table, status
    from rtmo_deploy.data.coco_writer import write_dataset
    from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople

    options = SyntheticOptions(size=hw, people=numbers)
    dataset = SyntheticPeople(images, seed=seed, options=options)
    recipe = {
        "generator": _GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "images": images,
        "format": str(file_format),
        "options": options.to_dict(),
    }
    with status(f"drawing {images} pictures") as say:

        def progress(done: int) -> None:
            if done % _STEP == 0:
                say(f"drawing pictures: {done} of {images}")

        info = {"description": "Synthetic people", "domain": "synthetic", "recipe": recipe}
        written = write_dataset(out, dataset, suffix=f".{file_format}", info=info, progress=progress)
    if as_json:
        print_json(
            "data synth",
            path=str(out),
            annotations=str(written.path),
            images=written.images,
            people=written.people,
            keypoints=written.keypoints,
            recipe=recipe,
        )
        return
    facts = {
        "images": f"{written.images} in {out / 'images'}",
        "annotations": str(written.path),
        "people": str(written.people),
        "keypoints": f"{written.keypoints} labelled",
        "seed": f"{seed} (generator version {GENERATOR_VERSION})",
    }
    print_table(facts_table(facts))


@data_app.command()
def check(
    ann: Annotated[Path, typer.Option("--ann", metavar="FILE", help="Annotations in COCO's format.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the pictures. [default: do not look at pictures]")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Category that is meant, where there are several.")] = None,
    read_images: Annotated[bool, typer.Option("--read-images", help="Decode every picture too.")] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say everything that is wrong or odd in a data set, by file and id; exit 3 if it cannot be used."""
    from rtmo_deploy.cli.console import print_json, status, stdout
    from rtmo_deploy.data.coco import check_coco

    with status(f"checking {ann}") as say:
        report = check_coco(
            ann,
            images,
            category=category,
            read_images=read_images,
            progress=lambda done, total: say(f"reading pictures: {done} of {total}") if done % _STEP == 0 else None,
        )
    if as_json:
        print_json("data check", **report.to_dict())
    else:
        for finding in report.findings:
            stdout().print(str(finding), highlight=False, markup=False, soft_wrap=True)
        if not report.findings:
            stdout().print("nothing found", highlight=False)
        pairs = ", ".join(" / ".join(pair) for pair in report.flip_pairs) or "none"
        for what, names in (("left and right", pairs), ("unpaired", ", ".join(report.unpaired) or "none")):
            stdout().print(f"{what}: {names}", highlight=False, markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(InputDataError.exit_code)


def _numbers(text: str, pattern: str, option: str, remedy: str) -> tuple[int, int]:
    """Two numbers out of an option; a single one counts twice."""
    found = re.fullmatch(pattern, text.strip(), flags=re.ASCII | re.IGNORECASE)
    if found is None:
        raise UsageError(f"'{text}' is not understood.", remedy=remedy, where=option)
    first, second = found[1], found[2] or found[1]
    return int(first), int(second)


def _check_folder(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError("This is not a folder.", remedy="Name a folder that is new or empty.", where=folder)
    if not force and folder.is_dir() and next(folder.iterdir(), None) is not None:
        raise UsageError(
            "The folder is not empty.",
            remedy="Choose another one, or write into it with --force; files of the same names are then replaced.",
            where=folder,
        )
    annotations = folder / "annotations.json"
    ours = False
    if annotations.is_file():
        with annotations.open("rb") as stream:
            ours = f'"{_GENERATOR}"'.encode() in stream.read(4096)
    if not ours and (annotations.exists() or any((folder / "images").glob("0*.*"))):
        raise UsageError(
            "It holds images or annotations that data synth did not write; --force does not replace them.",
            remedy="Choose another folder, or remove them.",
            where=folder,
        )
