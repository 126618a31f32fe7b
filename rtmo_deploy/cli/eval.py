"""``rtmo-deploy eval``: average precision on annotated images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import log_as_notes, print_facts, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model, require_data
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, JsonOption, MaxPixelsOption, OpenOptions, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import InputDataError, SetupError, UsageError
from rtmo_deploy.files import UnreadableError, sha256_of
from rtmo_deploy.option import option
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.progress import Count
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.data.findings import CocoReport
    from rtmo_deploy.measure.accuracy import AccuracyReport, Evaluation, Published
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator


def _parse_sigmas(text: str) -> float | list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"'{text}' is no list of sigmas.", remedy="Give numbers with commas between them.", where="--sigma"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


@dataclass(frozen=True)
class EvalOptions(OpenOptions):
    """What is judged by what."""

    ann: Path | None = option(None, "Annotations in COCO's keypoint format.", metavar="FILE", show_default=False)
    images: Path | None = option(None, "Folder of the annotated images.", metavar="DIR")
    predictions: Path | None = option(None, "Judge this results file instead of a model.", metavar="FILE")
    dataset: str | None = option(None, "Evaluation protocol. [default: by the keypoints]", metavar="coco|crowdpose")
    save: Path | None = option(None, "Write the detections, as a results file in COCO's format.", metavar="FILE")
    score_thr: float | None = option(
        None, "Detections with a score not above this do not count. [default: 0.1; file: none]", min=0, max=1
    )
    sigma: float | list[float] | None = option(
        None,
        "OKS sigma, one for all keypoints or one each. [default: the keypoints' own]",
        metavar="X[,X...]",
        parser=_parse_sigmas,
    )
    skeleton: str | None = option(
        None,
        "What the keypoints of model and annotations are: coco-17, crowdpose-14, aic-14, ap10k-17 or a JSON file. "
        "[default: as the annotations name them]",
        metavar="NAME|FILE",
    )
    category: str | None = option(None, "Category to use, where several have different keypoints.")
    max_images: int | None = option(None, "Only the first so many images.", min=1)
    batch: int = option(8, "Images at a time.", min=1)
    journal_dir: Path | None = option(
        None, "Where to keep what is done so far. [default: beside --save, or the cache]", metavar="DIR"
    )


@options_of(EvalOptions)
def evaluate(
    *,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A checkpoint, an exported model, or a published one's name.")
    ] = None,
    options: EvalOptions,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Measure average precision. A run that was stopped goes on where it was when it is called again."""
    ann, images, save = options.ann, options.images, options.save
    if ann is None:
        raise UsageError("There are no annotations to judge by.", remedy="Give --ann FILE.")
    if (model is None) == (options.predictions is None):
        raise UsageError("Either a model is judged or --predictions are.", remedy="Give one of them.")
    skeleton = _skeleton(options.skeleton)
    if options.predictions is not None:
        if save is not None:
            raise UsageError("The predictions are a file already.", remedy="Leave --save away.")
        require_data("eval", ann=[ann, options.predictions])
        report = _judge_file(options.predictions, ann, options, skeleton)
        facts: dict[str, Any] = {"predictions": str(options.predictions), "score_thr": options.score_thr}
        _show(str(options.predictions), ann, report, None, facts, as_json=as_json)
        return
    if images is None:
        raise UsageError("A model needs the images themselves.", remedy="Give --images DIR.")
    require_free([save], files_of(model, ann, images, options.skeleton), force=force)
    require_data("eval", ann=[ann], images=[images])
    path = find_model(str(model), "eval", opening=options)
    with status("reading the annotations"):
        from rtmo_deploy.data.coco import CocoKeypoints
        from rtmo_deploy.measure.accuracy import choose_protocol, choose_sigmas

        category, first = options.category, options.max_images
        data = CocoKeypoints(ann, images, skeleton=skeleton, category=category, max_images=first)
        _print_warnings(data.report)
        choose_protocol(options.dataset, data.skeleton, data.ground_truth())
        if options.sigma is not None:
            choose_sigmas(options.sigma, data.skeleton)
    journal = _journal(save, options.journal_dir)
    from rtmo_deploy.measure.accuracy import published_figures, with_score_threshold
    from rtmo_deploy.runtime.estimator import PoseEstimator, open_model, read_artifact

    with status("opening the model"):
        threshold = 0.1 if options.score_thr is None else options.score_thr
        artifact = with_score_threshold(read_artifact(path, trust=options.trust), threshold)
        chosen = {name: getattr(options, name) for name in ("backend", "threads", "precision", "input_hw")}
        with log_as_notes("rtmo_deploy", logging.WARNING if options.precision is None else logging.INFO):
            estimator = PoseEstimator(open_model(artifact, options.device, **chosen), input_hw=options.input_hw)
    path = estimator.artifact.path  # of the file that runs
    done = _run(estimator, data, options, threshold, journal)
    facts = {
        "model": str(path),
        "model_sha256": sha256_of(path),
        "backend": estimator.backend.name,
        "device": estimator.backend.device,
        "input_hw": list(estimator.input_hw),
        "score_thr": threshold,
        "saved": None if save is None else str(save),
        "resumed": done.resumed,
    }
    published = published_figures(estimator.artifact, facts["model_sha256"])
    _show(str(path), ann, done.report, published, facts, as_json=as_json)


def _skeleton(text: str | None) -> Skeleton | None:
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.zoo.skeletons import CONVENTIONS

    if text is None or text in CONVENTIONS:
        return CONVENTIONS[text] if text else None
    path = Path(text)
    try:
        return Skeleton.from_dict({"name": path.stem, **read_json(path, max_bytes=1 << 20)})
    except (OSError, UnreadableError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputDataError(
            f"'{text}' is not a known skeleton, nor a JSON file of one ({type(error).__name__}: {error}).",
            remedy=f"Give one of {', '.join(CONVENTIONS)}, or a file with 'keypoints' (names) and, if known, 'sigmas', "
            "'edges' and 'flip_pairs' (indices from 0).",
            where="--skeleton",
        ) from None


def _print_warnings(report: CocoReport) -> None:
    for finding in report.of("warning"):
        stderr().print(f"Note: {report.file}: {finding}")


def _judge_file(predictions: Path, ann: Path, options: EvalOptions, skeleton: Skeleton | None) -> AccuracyReport:
    import numpy as np

    from rtmo_deploy.data.coco import read_ground_truth
    from rtmo_deploy.measure.accuracy import judge, load_results

    truth, skeleton, found = read_ground_truth(ann, skeleton=skeleton, category=options.category)
    _print_warnings(found)
    every = truth.image_ids.tolist()
    truth = truth.select(np.arange(truth.num_images)[: options.max_images])
    detections = load_results(predictions, truth, len(skeleton), known=every)
    if options.score_thr is not None:
        detections = detections.select(detections.scores > options.score_thr)
    return judge(truth, detections, skeleton, protocol=options.dataset, sigmas=options.sigma)


def _run(
    estimator: PoseEstimator, data: CocoKeypoints, options: EvalOptions, score_thr: float, journal: Path
) -> Evaluation:
    from rtmo_deploy.measure.accuracy import evaluate_model, save_results

    save = options.save
    with status() as say:
        started = False

        def advance(done: int, total: int) -> None:
            nonlocal started
            if done and not started:
                stderr().print(f"An earlier run had done {done} of {total} images; going on from there.")
            started = True
            say(Count("evaluating", done, total))

        return evaluate_model(
            estimator,
            data,
            protocol=options.dataset,
            sigmas=options.sigma,
            told=options.skeleton is not None,
            score_thr=score_thr,
            batch=options.batch,
            journal=journal,
            progress=advance,
            finished=None if save is None else lambda found: save_results(save, found, data.ground_truth()),
        )


def _journal(save: Path | None, folder: Path | None) -> Path:
    """The journal's file, or the folder where it gets a name."""
    if folder is None and save is not None:
        return save.with_name(f".{save.name}.journal")
    if folder is None:
        from rtmo_deploy.zoo.cache import cache_dir

        folder = cache_dir("eval")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The folder for the journal cannot be made: {error.strerror}.",
            remedy="Name another with --journal-dir.",
            where=folder,
        ) from error
    return folder


def _show(
    what: str, ann: Path, report: AccuracyReport, published: Published | None, facts: dict[str, Any], *, as_json: bool
) -> None:
    if published is not None and published.protocol != report.protocol:
        published = None
    if as_json:
        print_json("eval", **facts, annotations=str(ann), **plain(report), published=plain(published))
        return
    counts = {"images": report.images, "people": report.people, "found": report.detections}
    print_facts({"judged": what, "by": str(ann), **{name: str(count) for name, count in counts.items()}})
    columns = {"measured": report.metrics}
    if published is not None:
        columns[f"{published.model}, published, {published.dataset}"] = published.metrics
    rows = [(name, *(_figure(column.get(name)) for column in columns.values())) for name in report.metrics]
    print_table(Table("", (f"{report.protocol} protocol", *columns), rows))
    same = len(set(report.sigmas)) == 1
    sigmas = f"{report.sigmas[0]:g} for all" if same else ", ".join(f"{sigma:g}" for sigma in report.sigmas)
    print_facts({"sigmas from": report.sigmas_from, "sigmas": sigmas})
    taken = [f"taken for {published.model} by {published.known_by}."] if published and published.known_by else []
    for note in (*taken, *report.notes):
        stderr().print(f"Note: {note}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
