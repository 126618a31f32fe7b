"""``rtmo-deploy predict``: poses in images, videos and live streams."""

from __future__ import annotations

import logging
import os
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from rtmo_deploy.cli.console import log_as_notes, print_error, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model, newest_model
from rtmo_deploy.cli.interrupt import Interrupts
from rtmo_deploy.cli.options import (
    AnyModelArgument,
    ForceOption,
    IgnoreCfgOption,
    JsonOption,
    MaxPixelsOption,
    OpenOptions,
    options_of,
)
from rtmo_deploy.cli.predict_ray import EngineOptions, predict_ray, require_applying
from rtmo_deploy.cli.progress import status
from rtmo_deploy.cli.streams import drop_stdout
from rtmo_deploy.cli.tally import Tally
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.option import option
from rtmo_deploy.outputs import require_free
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rtmo_deploy.media.frame import Frame
    from rtmo_deploy.runtime.estimator import RTMO
    from rtmo_deploy.runtime.sinks import Outputs

#: Who is drawn unless asked otherwise: at a model's own threshold of 0.1, built for measuring AP, many are nobody.
DRAW_THR = 0.5
_RESULTS = ("jsonl", "csv", "coco", "parquet")


@dataclass(frozen=True)
class PredictOptions(EngineOptions):
    """What is done with the frames."""

    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto is a GPU if the runtime can use one.")
    score_thr: float | None = option(
        None, "Leave out detections with a score not above this.", min=0, max=1, show_default=False
    )
    max_people: int | None = option(None, "Keep only the best so many of each frame.", min=1, metavar="N")
    draw_thr: float | None = option(
        None,
        "Draw detections with a score above this; results hold the others too. [default: 0.5, or --score-thr]",
        min=0,
        max=1,
        show_default=False,
    )
    kpt_thr: float = option(0.3, "Draw keypoints with a score of at least this.", min=0, max=1)
    recursive: bool = option(False, "Look into folders in folders.")
    batch: int = option(8, "Most frames in one run of the network.", min=1)
    stride: int = option(1, "Take every n-th frame of videos and streams.", min=1)
    policy: Literal["all", "newest"] = option(
        "all", "Where a live source is faster than the network: let it wait, or skip to its newest frame."
    )
    track: bool = option(False, "Give people ids that last over the frames of a video or stream.")
    smooth: bool = option(False, "Smooth the keypoints of tracked people over time; implies --track.")
    reduce_jpeg: bool = option(
        False, "Decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is enough: faster, results differ slightly."
    )
    hwaccel: str | None = option(None, "Hardware that decodes videos. [default: none]", metavar="auto|cuda|...")
    vis_out_dir: Path | None = option(None, "Folder for the images and videos with the poses drawn in.", metavar="DIR")
    save_video: Path | None = option(
        None, "The video with the poses drawn in; a folder for several.", metavar="FILE|DIR"
    )
    crops: Path | None = option(None, "Folder for the cut-out people.", metavar="DIR")
    jsonl: Path | None = option(None, "JSON lines, one a frame; - is stdout.", metavar="FILE")
    csv: Path | None = option(None, "CSV, one row a person; - is stdout.", metavar="FILE")
    coco: Path | None = option(None, "Annotations and results in COCO's format.", metavar="FILE")
    parquet: Path | None = option(None, "As --csv, as Parquet; with --engine ray a folder.", metavar="FILE|DIR")
    show: bool = option(False, "Show the drawn frames in a window.")

    def outputs(self) -> Outputs:
        """What is to be made of the frames."""
        from rtmo_deploy.runtime.sinks import Outputs

        results = {kind: path for kind in _RESULTS if (path := getattr(self, kind)) is not None}
        draw_thr = self.draw_thr if self.draw_thr is not None else self.score_thr
        files = {"vis_out_dir": self.vis_out_dir, "save_video": self.save_video, "crops": self.crops}
        return Outputs(
            **files,
            results=results,
            show=self.show,
            draw_thr=DRAW_THR if draw_thr is None else draw_thr,
            keypoint_thr=self.kpt_thr,
        )


@options_of(PredictOptions)
def predict(
    *,
    model: AnyModelArgument = None,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Images, videos, folders, globs, camera numbers, rtsp:// and http:// addresses, .txt lists of these, "
            "or - for a list on stdin.",
            show_default=False,
        ),
    ] = None,
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The model; then all arguments are sources.")
    ] = None,
    options: PredictOptions,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Detect people and keypoints in images, videos and live streams.

    What cannot be read is reported; the rest still gets done.
    """
    from rtmo_deploy.media.sources import find_sources

    model, sources = _split(named, [word for word in (model, *(sources or ())) if word is not None])
    outputs = options.outputs()
    require_applying(options)
    if options.engine == "ray":
        predict_ray(model, sources, options, outputs.draw_thr, force=force, as_json=as_json)
        return
    _require_one_stdout(outputs, as_json=as_json)
    found, failures = find_sources(sources, recursive=options.recursive)
    drawn = outputs.drawn(found) if found else {}
    lists = [word for word in sources if os.path.isfile(word)]  # noqa: PTH113 - False for a name that no file can have
    inputs = [*lists, *(source.name for source in found)]
    require_free(outputs.files(drawn), files_of(model, *inputs), force=force)
    path = find_model(model, "predict", opening=options)
    if not found:
        _refuse_all(path, failures, as_json=as_json)
    if (options.track or options.smooth) and all(source.kind == "image" for source in found):
        stderr().print("Note: people are followed through videos and streams, and there are only images.")
    from rtmo_deploy.runtime.estimator import RTMO
    from rtmo_deploy.runtime.sinks import frames_in, open_sinks
    from rtmo_deploy.runtime.stream import stream

    tally = Tally(found, outputs.draw_thr, total=frames_in(found, stride=options.stride), keep=as_json)
    level = logging.WARNING if options.hwaccel is None else logging.INFO  # which decoder is used
    with (
        status("opening the model") as progress,
        log_as_notes("rtmo_deploy.media", level),
        Interrupts() as interrupts,
    ):
        opening = {name: getattr(options, name) for name in OpenOptions.__dataclass_fields__}
        told = options.device == "auto" or options.precision is not None
        with log_as_notes("rtmo_deploy", logging.INFO if told else logging.WARNING):
            estimator = RTMO(path, reduce=options.reduce_jpeg, **opening)
        names = ("stride", "policy", "batch", "hwaccel", "track", "smooth", "score_thr", "max_people")
        how: dict[str, Any] = {name: getattr(options, name) for name in names} | {"fit_hw": estimator.fit_hw}
        frames = stream(estimator, found, on_event=tally.event, **how)  # refused before any output is opened
        skeleton = estimator.artifact.skeleton
        if skeleton.guessed:
            stderr().print(f"Note: the keypoints are {skeleton.label}.", soft_wrap=True)
        with open_sinks(outputs, found, skeleton, stride=options.stride) as write:

            def take(frame: Frame) -> bool:
                go_on = write(frame)
                tally.add(frame, drawn.get(frame.source, []))
                return go_on

            _consume(frames, take, interrupts, lambda frame: progress(tally.count(frame)))
            interrupts.hold()  # while files are finished
    failures += tally.failures
    broken = tally.broken()
    if as_json:
        print_json(
            "predict",
            model=str(estimator.artifact.path),
            backend=estimator.backend.name,
            device=estimator.backend.device,
            skeleton=skeleton.to_dict(),
            **tally.document(),
            failed=_listed([*failures, *broken]),
        )
    elif not {Path("-")} & set(outputs.results.values()):
        print_table(tally.table())
    tally.print_summary(_why_nobody(estimator, options.score_thr), failed=len(failures))
    for failure in [*failures, *broken]:
        print_error(failure)
    if interrupts.number:
        raise typer.Exit(128 + interrupts.number)
    if failures or broken:
        raise typer.Exit(InputDataError.exit_code)


def _consume(
    frames: Generator[Frame], take: Callable[[Frame], bool], interrupts: Interrupts, done: Callable[[Frame], None]
) -> None:
    """Take each frame, until there are no more, one is the last, or a signal comes."""
    try:
        with closing(frames):
            for frame in frames:
                with interrupts.held():
                    go_on = take(frame)
                done(frame)
                if not go_on:
                    return
    except KeyboardInterrupt:
        stderr().print("Interrupted: what was done so far is kept.")
    except BrokenPipeError:
        drop_stdout()
        stderr().print("Nobody reads stdout any more: what was done so far is kept.")


def _split(model: str | None, words: list[str]) -> tuple[str, list[str]]:
    """The model and the sources; without a model among them, the newest that was made here."""
    if model is None and words and _names_model(words[0]):
        model, words = words[0], words[1:]
    if not words:
        raise UsageError("There is nothing to find people in.", remedy="Name images, folders, videos or addresses.")
    if model is not None:
        return model, words
    from rtmo_deploy.cli.workspace import Workspace

    if not Workspace().entries():
        if words[1:]:
            return words[0], words[1:]  # whose reader says what it is
        raise UsageError(
            f"'{words[0]}' is not a model, and none was made in this directory.",
            remedy="Name one first, as in 'rtmo-deploy predict rtmo-s photo.jpg'; 'rtmo-deploy models' lists some.",
        )
    return str(newest_model()), words


def _names_model(word: str) -> bool:
    """Whether a word is a model's name, file, archive or address, and no source."""
    from rtmo_deploy.address import is_remote, local_path
    from rtmo_deploy.file_kind import MODEL, kind_of_suffix, likely_kind
    from rtmo_deploy.zoo.archive import is_archive
    from rtmo_deploy.zoo.records import is_known

    if re.match("hf://|[^#]*#sha256=", word, re.IGNORECASE):
        return True
    file = Path(re.split("[?#]", word)[0]) if is_remote(word) else local_path(word, InputDataError)
    if is_known(word) and not os.path.isfile(file):  # noqa: PTH113 - False for a name that no file can have
        return True
    return is_archive(file) or file.suffix.lower() == ".zip" or kind_of_suffix(file, likely_kind(file)) in MODEL.kinds


def _require_one_stdout(outputs: Outputs, *, as_json: bool) -> None:
    kinds = [kind for kind, path in outputs.results.items() if path == Path("-")]
    if wrong := set(kinds) - {"jsonl", "csv"}:
        raise UsageError("It cannot be written to stdout.", remedy="Name a file.", where=f"--{wrong.pop()}")
    if len(kinds) + as_json > 1:
        raise UsageError("Two results cannot both be stdout.", remedy="Name a file for one of them.")


def _refuse_all(model: Path, failures: list[InputDataError], *, as_json: bool) -> NoReturn:
    if as_json:
        print_json("predict", model=str(model), images=[], videos=[], frames=[], failed=_listed(failures))
    for failure in failures[:-1]:
        print_error(failure)
    raise failures[-1]


def _listed(failures: list[InputDataError]) -> list[dict[str, Any]]:
    return [{"path": failure.where, "error": str(failure)} for failure in failures]


def _why_nobody(estimator: RTMO, score_thr: float | None) -> str:
    threshold = estimator.artifact.decode.score_thr if score_thr is None else score_thr
    return "the model is untrained" if estimator.artifact.untrained else f"no score is above {threshold:g}"
