"""``rtmo-deploy eval``: average precision on annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rtmo_deploy.cli.given import find_model, require_data
from rtmo_deploy.cli.options import (
    BackendOption,
    DeviceOption,
    ForceOption,
    IgnoreCfgOption,
    InputSizeOption,
    MaxPixelsOption,
    PrecisionOption,
    ThreadsOption,
    TrustOption,
)
from rtmo_deploy.errors import InputDataError, SetupError, UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.data.findings import CocoReport
    from rtmo_deploy.measure.accuracy import AccuracyReport, Evaluation, Published
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator


def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A checkpoint, an exported model, or a published one's name.")
    ] = None,
    ann: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Annotations in COCO's keypoint format.", show_default=False)
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the annotated images.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge this results file instead of a model.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="coco|crowdpose", help="Evaluation protocol. [default: by the keypoints]")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the detections, as a results file in COCO's format.")
    ] = None,
    score_thr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Detections with a score not above this do not count. [default: 0.1; file: none]"
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X...]", help="OKS sigma, one for all keypoints or one each. [default: the keypoints' own]"
        ),
    ] = None,
    skeleton: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What the keypoints of model and annotations are: coco-17, crowdpose-14, aic-14, ap10k-17 or a JSON "
            "file. [default: as the annotations name them]",
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Category to use, where several have different keypoints.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = None,
    imgsz: InputSizeOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    trust: TrustOption = False,
    journal_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to keep what is done so far. [default: beside --save, or the cache]"),
    ] = None,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Measure average precision. A run that was stopped goes on where it was when it is called again."""
    if ann is None:
        raise UsageError("There are no annotations to judge by.", remedy="Give --ann FILE.")
    if (model is None) == (predictions is None):
        raise UsageError("Either a model is judged or --predictions are.", remedy="Give one of them.")
    rules = _Rules(ann, dataset, _sigmas(sigma), category, max_images, _skeleton(skeleton))
    if predictions is not None:
        if save is not None:
            raise UsageError("The predictions are a file already.", remedy="Leave --save away.")
        require_data("eval", ann=[ann, predictions])
        report = _judge_file(predictions, rules, score_thr)
        facts: dict[str, Any] = {"predictions": str(predictions), "score_thr": score_thr}
        _show(str(predictions), ann, report, None, facts, as_json=as_json)
        return
    if images is None:
        raise UsageError("A model needs the images themselves.", remedy="Give --images DIR.")
    from rtmo_deploy.cli.progress import status

    require_free([save], files_of(model, ann, images, skeleton), force=force)
    require_data("eval", ann=[ann], images=[images])
    path = find_model(str(model), "eval", device=device, backend=backend, precision=precision)
    threshold = 0.1 if score_thr is None else score_thr
    with status("reading the annotations"):
        data = _read(rules, images)
    journal = _journal(save, journal_dir)
    from rtmo_deploy.measure.accuracy import published_figures, with_score_threshold
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact

    with status("opening the model"):
        artifact = with_score_threshold(read_artifact(path, trust=trust), threshold)
        opened = open_backend(artifact, device, backend=backend, threads=threads, precision=precision)
        estimator = PoseEstimator(opened, input_hw=imgsz)
    done = _run(estimator, data, rules, threshold, batch, save, journal)
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


class _Rules(NamedTuple):
    ann: Path
    protocol: str | None
    sigmas: float | list[float] | None
    category: str | None
    max_images: int | None
    skeleton: Skeleton | None


def _skeleton(text: str | None) -> Skeleton | None:
    from rtmo_deploy.files import UnreadableError
    from rtmo_deploy.plain import read_json
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


def _sigmas(text: str | None) -> float | list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"'{text}' is no list of sigmas.", remedy="Give numbers with commas between them.", where="--sigma"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _read(rules: _Rules, images: Path) -> CocoKeypoints:
    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.measure.accuracy import choose_protocol, choose_sigmas

    data = CocoKeypoints(
        rules.ann, images, skeleton=rules.skeleton, category=rules.category, max_images=rules.max_images
    )
    _print_warnings(data.report)
    choose_protocol(rules.protocol, data.skeleton, data.ground_truth())
    if rules.sigmas is not None:
        choose_sigmas(rules.sigmas, data.skeleton)
    return data


def _print_warnings(report: CocoReport) -> None:
    from rtmo_deploy.cli.console import stderr

    for finding in report.of("warning"):
        stderr().print(f"Note: {report.file}: {finding}")


def _judge_file(predictions: Path, rules: _Rules, score_thr: float | None) -> AccuracyReport:
    import numpy as np

    from rtmo_deploy.data.coco import read_ground_truth
    from rtmo_deploy.measure.accuracy import judge, load_results

    truth, skeleton, found = read_ground_truth(rules.ann, skeleton=rules.skeleton, category=rules.category)
    _print_warnings(found)
    every = truth.image_ids.tolist()
    truth = truth.select(np.arange(truth.num_images)[: rules.max_images])
    detections = load_results(predictions, truth, len(skeleton), known=every)
    if score_thr is not None:
        detections = detections.select(detections.scores > score_thr)
    return judge(truth, detections, skeleton, protocol=rules.protocol, sigmas=rules.sigmas)


def _run(
    estimator: PoseEstimator,
    data: CocoKeypoints,
    rules: _Rules,
    score_thr: float,
    batch: int,
    save: Path | None,
    journal: Path,
) -> Evaluation:
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.measure.accuracy import evaluate_model, save_results
    from rtmo_deploy.progress import Count

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
            protocol=rules.protocol,
            sigmas=rules.sigmas,
            told=rules.skeleton is not None,
            score_thr=score_thr,
            batch=batch,
            journal=journal,
            progress=advance,
            finished=None if save is None else lambda found: save_results(save, found, data.ground_truth()),
        )


def _journal(save: Path | None, folder: Path | None) -> Path:
    """The journal's file, or the folder where it gets a name."""
    if folder is None and save is not None:
        return save.with_name(f".{save.name}.journal")
    if folder is None:
        import platformdirs

        folder = platformdirs.user_cache_path("rtmo-deploy", appauthor=False) / "eval"
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
    from rtmo_deploy.cli.console import facts_table, print_json, print_table, stderr

    if published is not None and published.protocol != report.protocol:
        published = None
    if as_json:
        print_json("eval", **facts, annotations=str(ann), **plain(report), published=plain(published))
        return
    from rich.table import Table

    counts = {"images": report.images, "people": report.people, "found": report.detections}
    print_table(facts_table({"judged": what, "by": str(ann), **{name: str(count) for name, count in counts.items()}}))
    table = Table()
    table.add_column(f"{report.protocol} protocol")
    table.add_column("measured", justify="right")
    if published is not None:
        table.add_column(f"{published.model}, published, {published.dataset}", justify="right")
    for name, value in report.metrics.items():
        cells = [_figure(value)]
        if published is not None:
            cells.append(_figure(published.metrics.get(name)))
        table.add_row(name, *cells)
    print_table(table)
    same = len(set(report.sigmas)) == 1
    sigmas = f"{report.sigmas[0]:g} for all" if same else ", ".join(f"{sigma:g}" for sigma in report.sigmas)
    print_table(facts_table({"sigmas from": report.sigmas_from, "sigmas": sigmas}))
    taken = [f"taken for {published.model} by {published.known_by}."] if published and published.known_by else []
    for note in (*taken, *report.notes):
        stderr().print(f"Note: {note}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
