"""Steps that measure: thin calls into the floors below. Facts that they find are JSON values."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count
from rtmo_deploy.release.make import dataset_of
from rtmo_deploy.release.record import Job, NotHereError, Outcome

if TYPE_CHECKING:
    from rtmo_deploy.measure.agreement.compare import ImageSource
    from rtmo_deploy.measure.agreement.report import AgreementReport
    from rtmo_deploy.release.record import StepRecord

#: Quality of the images in the report, and the longest side they have there, pixels.
JPEG_QUALITY = 80
LONGEST_SIDE = 480


def accuracy(job: Job) -> Outcome:
    """AP, 0 to 1; and which usual mistake would explain a low one."""
    from rtmo_deploy.measure.accuracy import evaluate_model, with_score_threshold
    from rtmo_deploy.measure.agreement.causes import explain_evaluation
    from rtmo_deploy.runtime.backends import open_backend
    from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact

    options = job.options
    device = _usable_device(job.inputs["model"], options["device"])
    artifact = with_score_threshold(read_artifact(job.model()), options["score_thr"])
    estimator = PoseEstimator(open_backend(artifact, device))
    dataset = dataset_of(job.inputs["data"])
    found = evaluate_model(
        estimator,
        dataset,
        score_thr=options["score_thr"],
        batch=options["batch"],
        progress=lambda done, total: job.progress(Count("evaluating", done, total)),
    )
    report = plain(found.report)
    causes = explain_evaluation(
        estimator, dataset, found.detections, score_thr=options["score_thr"], progress=job.progress
    )
    return Outcome((), plain({"ap": report["metrics"]["AP"], "device": device, "causes": causes, **report}))


def parity(job: Job) -> Outcome:
    """Do two models find the same people; with images of both."""
    from dataclasses import replace

    from rtmo_deploy.measure.agreement.compare import ImageSource, Side, compare_models
    from rtmo_deploy.measure.bounds import bounds_for

    options = job.options
    devices = [_usable_device(job.inputs[role], at) for role, at in zip("ab", options["devices"], strict=True)]
    sides = []
    for role, device in zip("ab", devices, strict=True):
        job.progress(f"opening {role}")
        sides.append(Side.open(job.model(role), device=device))
    bounds = bounds_for(sides[0].artifact.precision, sides[1].artifact.precision)
    bounds = replace(bounds, **options["bounds"])
    if "images" in job.files:
        source = ImageSource.in_folder(job.files["images"])
    else:
        source = ImageSource.synthetic(options["synthetic"])
    report = compare_models(sides[0], sides[1], source, layers="if unexplained", bounds=bounds, progress=job.progress)
    shown = _draw(report, source, job, options["pictures"])
    facts = report.to_dict()
    if report.layers is not None:  # its many layers are for `parity --layers`; the cause names the first that parts
        facts["layers"] = {**facts["layers"], "layers": []}
    for side in ("a", "b"):
        facts[side].pop("path", None)
    names = tuple(name for entry in shown for name in entry["files"])
    return Outcome(names, plain({**facts, "shown": shown}), hidden=names)


def _draw(report: AgreementReport, source: ImageSource, job: Job, count: int) -> list[dict[str, Any]]:
    """The first model's people, the second's and the differences, on the worst images with people; JPEG files."""
    from rtmo_deploy.measure.agreement.gallery import drawn_comparisons, jpeg, magnification
    from rtmo_deploy.measure.bounds import WORKING_SCORE

    seen = [at for at in report.worst() if any((people.scores > WORKING_SCORE).any() for people in report.found[at])]
    worst = (seen or report.worst())[:count]
    times = magnification([report.images[index] for index in worst], report.input_hw)
    shown = []
    drawings = drawn_comparisons(report, source, worst, times, job.progress)
    for number, (image, drawn) in enumerate(drawings, 1):
        names = [f"{number:03d}-{side}.jpg" for side in "abd"]
        for name, panel in zip(names, drawn, strict=True):
            (job.folder / name).write_bytes(jpeg(panel, JPEG_QUALITY, LONGEST_SIDE))
        shown.append({"name": image.name, "magnified": times, "files": names})
    return shown


def latency(job: Job) -> Outcome:
    """A benchmark of the contenders, each entry with the name that the recipe gives it."""
    import json
    from pathlib import Path

    from rtmo_deploy.measure.bench.options import BenchOptions, Protocol
    from rtmo_deploy.measure.bench.run import run_bench
    from rtmo_deploy.release.recipe import SOURCE

    options = job.options
    _require_device(options["device"])
    models = {name: job.model(name) for name in options["contenders"]}
    asked = BenchOptions(
        models=tuple(models.values()),
        device=options["device"],
        batches=tuple(options["batch"]),
        threads=(options["threads"],),
        people=tuple(options["people"]),
        protocol=Protocol(options["protocol"]),
        seconds=options["duration"],
        reference=models.get(SOURCE),
        no_reference=SOURCE not in models,
    )
    facts = run_bench(asked, progress=job.progress).to_dict()
    names = {str(path): name for name, path in models.items()}
    for entry in facts["entries"]:
        entry["artifact"] = names.get(entry["contender"]["model"], entry["contender"]["label"])
        entry["contender"]["model"] = Path(entry["contender"]["model"]).name
    facts["busy"] = any(entry["interference"]["busy"] for entry in facts["entries"])
    facts = plain(facts)
    file = f"{options['name']}.json"
    (job.folder / file).write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Outcome((file,), facts)


def _usable_device(made: StepRecord, device: str) -> str:
    """The device that is meant: an engine runs on a GPU, whatever the others run on."""
    if made.facts.get("kind") == "engine" and device == "cpu":
        device = "cuda:0"
    _require_device(device)
    return device


def _require_device(device: str) -> None:
    if device == "cpu":
        return
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return
    raise NotHereError(
        f"'{device}' was asked for, and there is no usable GPU here.", remedy="Run it where there is one."
    )
