"""``rtmo-deploy predict``: poses in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rtmo_deploy.cli.console import print_error, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, JsonOption, MaxPixelsOption, OpenOptions, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.outputs import require_free
from rtmo_deploy.progress import Count
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime import PoseEstimator

#: Who is drawn unless asked otherwise: at a model's own threshold of 0.1, built for measuring AP, many are nobody.
DRAW_THR = 0.5


@options_of(OpenOptions)
def predict(
    *,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, an ONNX model, or a published model's name.")
    ],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, folders, globs.")],
    vis_out_dir: Annotated[
        Path | None, typer.Option(help="Folder for copies of the images with the poses drawn in.")
    ] = None,
    options: OpenOptions,
    score_thr: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default=False, help="Leave out detections with a score not above this."),
    ] = None,
    draw_thr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="Draw detections with a score above this; results hold the others too. [default: 0.5, or --score-thr]",
        ),
    ] = None,
    kpt_thr: Annotated[float, typer.Option(min=0, max=1, help="Draw keypoints with a score of at least this.")] = 0.3,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into folders in folders.")] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Detect people and keypoints in images. An image that cannot be read is reported; the others still get done."""
    files, failures = _find(sources, recursive=recursive)
    names = _target_names(files)
    if vis_out_dir is not None:
        require_free([vis_out_dir / name for name in names.values()], files_of(model, *files), force=force)
    path = find_model(model, "predict", opening=options)
    if not files:
        _refuse_all(path, failures, as_json=as_json)
    from rtmo_deploy.runtime.estimator import PoseEstimator

    with status("opening the model") as progress:
        estimator = PoseEstimator.open(path, **vars(options))
        _require_above_own(score_thr, estimator)
        if estimator.artifact.skeleton.guessed:
            stderr().print(f"Note: the keypoints are {estimator.artifact.skeleton.label}.", soft_wrap=True)
        if draw_thr is None:
            draw_thr = DRAW_THR if score_thr is None else score_thr
        results: list[dict[str, Any]] = []
        for number, file in enumerate(files, 1):
            progress(Count("detecting", number, len(files), file.name))
            try:
                target = vis_out_dir and vis_out_dir / names[file]
                result = _one(estimator, file, target, score_thr, draw_thr, kpt_thr)
            except InputDataError as error:
                failures.append(error)
            else:
                if not as_json:  # the table needs no more; thousands of images would fill the memory
                    result["people"] = [{"score": person["score"]} for person in result["people"]]
                results.append(result)
    if as_json:
        print_json(
            "predict",
            model=str(path),
            backend=estimator.backend.name,
            device=estimator.backend.device,
            skeleton=estimator.artifact.skeleton.to_dict(),
            images=results,
            failed=_listed(failures),
        )
    else:
        _print(results, draw_thr)
    _print_count(results, score_thr, draw_thr, estimator)
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(InputDataError.exit_code)


def _refuse_all(model: Path, failures: list[InputDataError], *, as_json: bool) -> NoReturn:
    if as_json:
        print_json("predict", model=str(model), images=[], failed=_listed(failures))
    for failure in failures[:-1]:
        print_error(failure)
    raise failures[-1]


def _listed(failures: list[InputDataError]) -> list[dict[str, Any]]:
    return [{"path": failure.where, "error": str(failure)} for failure in failures]


def _find(sources: list[str], *, recursive: bool) -> tuple[list[Path], list[InputDataError]]:
    """The files that are meant; a source that means none does not stop the others."""
    from rtmo_deploy.data.images import find_images, require_image

    files: dict[Path, None] = {}
    failures: list[InputDataError] = []
    for source in sources:
        try:
            require_image(source)
            files.update(dict.fromkeys(find_images([source], recursive=recursive)))
        except InputDataError as error:
            failures.append(error)
    return list(files), failures


def _target_names(files: list[Path]) -> dict[Path, str]:
    """A name for each drawn image; images of the same name in different folders do not overwrite each other."""
    from rtmo_deploy.runtime.draw import WRITABLE_SUFFIXES

    names: dict[Path, str] = {}
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for file in files:
        suffix = file.suffix if file.suffix.lower() in WRITABLE_SUFFIXES else f"{file.suffix}.png"
        name = first = f"{file.stem}{suffix}"
        while name.lower() in taken:
            copies[first] = copies.get(first, 1) + 1
            name = f"{file.stem}_{copies[first]}{suffix}"
        taken.add(name.lower())
        names[file] = name
    return names


def _require_above_own(score_thr: float | None, estimator: PoseEstimator) -> None:
    """Refuse a threshold below the model's own: who is below that has been thrown away already."""
    own = estimator.artifact.decode.score_thr
    if score_thr is not None and score_thr < own:
        raise UsageError(
            f"--score-thr {score_thr:g} is below the model's own threshold, {own:g}: it finds nobody below that.",
            remedy="Give a higher one, or export the model with another --score-thr.",
        )


def _one(
    estimator: PoseEstimator, file: Path, target: Path | None, score_thr: float | None, draw_thr: float, kpt_thr: float
) -> dict[str, Any]:
    from rtmo_deploy.data.images import read_image
    from rtmo_deploy.runtime.draw import draw_poses, write_image

    image = read_image(file)
    poses: Poses = estimator(image)
    if score_thr is not None:
        poses = poses[poses.scores > score_thr]
    if target is not None:
        write_image(target, draw_poses(image, poses[poses.scores > draw_thr], keypoint_thr=kpt_thr))
    return {
        "path": str(file),
        "width": image.shape[1],
        "height": image.shape[0],
        "drawn": None if target is None else str(target),
        "people": poses.to_dict(),
    }


def _above(results: list[dict[str, Any]], score: float) -> int:
    return sum(person["score"] > score for result in results for person in result["people"])


def _print_count(
    results: list[dict[str, Any]], score_thr: float | None, draw_thr: float, estimator: PoseEstimator
) -> None:
    """Say on stderr how many people there are in all, and, where there are none, why that may be."""
    if not results:
        return
    people = sum(len(result["people"]) for result in results)
    images = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    if people:
        stderr().print(f"{people} people in {images}, {_above(results, draw_thr)} with a score above {draw_thr:g}.")
        return
    artifact = estimator.artifact
    threshold = artifact.decode.score_thr if score_thr is None else score_thr
    reason = "the model is untrained" if artifact.untrained else f"no score is above {threshold:g}"
    stderr().print(f"0 people in {images}: {reason}.")


def _print(results: list[dict[str, Any]], draw_thr: float) -> None:
    drawn = any(result["drawn"] for result in results)
    rows = []
    for result in results:
        people = result["people"]
        best = f"{people[0]['score']:.3f}" if people else "-"
        counts = str(len(people)), str(_above([result], draw_thr))
        row = (result["path"], f"{result['width']}x{result['height']}", *counts, best)
        rows.append((*row, result["drawn"] or "-") if drawn else row)
    headings = ("image", "size", "people", f"above {draw_thr:g}", "best score", *(["drawn"] if drawn else []))
    print_table(Table("", headings, rows, numbers=False))
