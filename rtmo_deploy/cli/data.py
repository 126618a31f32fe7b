"""``rtmo-deploy data``: data sets to train, calibrate and measure with."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_result, stdout
from rtmo_deploy.cli.given import require_data
from rtmo_deploy.cli.help import HelpCommand
from rtmo_deploy.cli.options import SIZE, JsonOption, MaxPixelsOption, Size, parse_size
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.plain import counted
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtmo_deploy.data.findings import CocoReport

data_app = typer.Typer(
    help="Make data sets to train, calibrate and measure with.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_GENERATOR = "rtmo-deploy data synth"


class _Video(StrEnum):
    CROSS = "cross"
    MEET = "meet"
    HIDE = "hide"
    LEAVE = "leave"
    CROWD = "crowd"
    ALL = "all"


#: Options of synth that make images, and those that make videos.
_OF_IMAGES = {"images", "people", "file_format"}
_OF_VIDEOS = {"fps", "seconds", "variable_fps"}


class _Format(StrEnum):
    JPG = "jpg"
    PNG = "png"


@data_app.callback()
def _data() -> None:
    pass


@data_app.command(cls=HelpCommand, short_help="Generate synthetic images with annotations.")
def synth(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write: images/ and annotations.json.")],
    images: Annotated[int, typer.Option(min=1, metavar="N", help="How many images.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same one gives the same images.")] = 0,
    people: Annotated[
        str, typer.Option(metavar="LOW-HIGH", help="How many people in an image, chosen evenly; up to 60.")
    ] = "0-12",
    size: Annotated[
        Size | None,
        typer.Option(parser=parse_size, metavar=SIZE, help="Size of every image. [default: sizes as photographs have]"),
    ] = None,
    file_format: Annotated[_Format, typer.Option("--format", help="jpg has quality 95; png loses nothing.")] = (
        _Format.JPG
    ),
    video: Annotated[
        _Video | None,
        typer.Option(
            metavar="SCENE",
            help="Write OUT/SCENE/ with video.mp4, annotations.json and gt.txt instead: people who cross, meet, hide, "
            "leave and come back, or a crowd of 3 to 10, each with an id; 'all' writes all five.",
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second of a video.")] = 30.0,
    seconds: Annotated[float, typer.Option(help="Length of a video.")] = 6.0,
    variable_fps: Annotated[
        bool, typer.Option("--variable-fps", help="Leave out a third of a video's frames, at random.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into OUT even if there is something in it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate synthetic images of people with exact COCO keypoints, boxes and visibility, or videos with ids."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name in (_OF_VIDEOS if video is None else _OF_IMAGES):
            needs = "needs --video" if video is None else "does not apply to --video"
            raise UsageError(f"{parameter.opts[-1]} {needs}.", remedy="Leave it away, or see --help.")
    if video is not None:
        scenes = [scene for scene in _Video if scene is not _Video.ALL] if video is _Video.ALL else [video]
        how = {"seed": seed, "fps": fps, "seconds": seconds, "variable": variable_fps}
        _synth_videos(out, scenes, how if size is None else {**how, "size": size}, force=force, as_json=as_json)
        return
    numbers = _range(people)
    _check_folder(out, force=force)

    from rtmo_deploy.data.coco_writer import write_dataset
    from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople

    options = SyntheticOptions(size=size, people=numbers)
    dataset = SyntheticPeople(images, seed=seed, options=options)
    recipe = {
        "generator": _GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "images": images,
        "format": str(file_format),
        "options": options.to_dict(),
    }
    with status() as say:
        info = {"description": "Synthetic people", "domain": "synthetic", "recipe": recipe}
        written = write_dataset(
            out,
            dataset,
            suffix=f".{file_format}",
            info=info,
            progress=lambda done: say(Count("writing synthetic images", done, images)),
        )
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
    print_facts(facts)


def _synth_videos(out: Path, scenes: Sequence[_Video], how: dict[str, Any], *, force: bool, as_json: bool) -> None:
    for scene in scenes:
        _check_folder(out / scene, force=force)
    from rtmo_deploy.data.synthetic.video import SyntheticVideo
    from rtmo_deploy.media.synthetic import write_video

    rows: list[dict[str, Any]] = []
    with status() as say:
        for scene in scenes:
            video = SyntheticVideo(scene, **how)
            progress = partial(_say_frames, say, f"writing {scene}", len(video))
            written = write_video(out / scene, video, info={"generator": _GENERATOR}, progress=progress)
            facts = {"path": str(out / scene), "annotations": str(written.path)}
            rows.append({"scene": str(scene), **facts, "frames": written.images, "people": written.people})
    if as_json:
        print_json("data synth", videos=rows, **how)
    else:
        print_facts({row["scene"]: f"{row['frames']} frames in {row['path']}" for row in rows})


def _say_frames(say: Callable[[Count], None], what: str, total: int, done: int) -> None:
    say(Count(what, done, total))


@data_app.command(cls=HelpCommand, short_help="Check an annotation file and its images.")
def check(
    ann: Annotated[Path, typer.Option("--ann", metavar="FILE", help="Annotations in COCO's format.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images. [default: do not look at images]")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Category to use, where there are several.")] = None,
    read_images: Annotated[bool, typer.Option("--read-images", help="Decode every image too.")] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Report everything that is wrong or unusual in a data set, by file and id; exit 3 if it cannot be used."""
    require_data("data check", ann=[ann], images=[images])
    from rtmo_deploy.data.coco import check_coco

    with status(f"checking {ann}") as say:
        report = check_coco(
            ann,
            images,
            category=category,
            read_images=read_images,
            progress=lambda done, total: say(Count("reading images", done, total)),
        )
    if as_json:
        print_json("data check", **report.to_dict())
    else:
        for finding in report.findings:
            stdout().print(f"{finding.severity}: ", style=_STYLES[finding.severity], end="")
            stdout().print(str(finding))
        pairs = ", ".join(" / ".join(pair) for pair in report.flip_pairs) or "none"
        print_facts({"left and right": pairs, "unpaired": ", ".join(report.unpaired) or "none"})
        print_result(_summary(report), "red" if report.of("error") else "yellow" if report.of("warning") else "green")
    if not report.ok:
        raise typer.Exit(InputDataError.exit_code)


def _summary(report: CocoReport) -> str:
    """Such as '4 images, 13 people, no problems'."""
    counts = [(len(report.of(severity)), severity) for severity in ("error", "warning")]
    problems = ", ".join(counted(number, what) for number, what in counts if number) or "no problems"
    people = f"{report.people} {'person' if report.people == 1 else 'people'}"
    return f"{counted(report.images, 'image')}, {people}, {problems}"


def _range(people: str) -> tuple[int, int]:
    """``0-12`` -> (0, 12), ``3`` -> (3, 3)."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", people.strip(), flags=re.ASCII)
    if found is None:
        remedy = "Write it like 0-12, or 3 for exactly three."
        raise UsageError(f"'{people}' is not understood.", remedy=remedy, where="--people")
    return int(found[1]), int(found[2] or found[1])


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
