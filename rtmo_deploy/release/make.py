"""What each step does: thin calls into the floors below that make or measure. Facts are JSON values."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import GateFailedError, InputDataError, UsageError
from rtmo_deploy.files import open_regular, reading, sha256_of
from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count
from rtmo_deploy.release.record import Job, NotHereError, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.measure.agreement.compare import ImageSource
    from rtmo_deploy.measure.agreement.report import AgreementReport
    from rtmo_deploy.release.record import StepRecord


def source(job: Job) -> Outcome:
    """The checkpoint: read, and described."""
    from rtmo_deploy.measure.accuracy import published_figures
    from rtmo_deploy.runtime.estimator import read_artifact

    path = job.files["checkpoint"]
    artifact, digest = read_artifact(path), sha256_of(path)
    published = plain(published_figures(artifact, digest))
    facts = {"name": path.name, "sha256": digest, "size": path.stat().st_size, "published": published}
    return Outcome((), {**facts, **_described(artifact)})


def export(job: Job) -> Outcome:
    """A checkpoint to ONNX, compared with PyTorch."""
    from rtmo_deploy.convert.export import export_onnx
    from rtmo_deploy.convert.options import ExportOptions
    from rtmo_deploy.model import load_checkpoint

    output = job.folder / f"{job.options['file_stem']}.onnx"
    checkpoint = load_checkpoint(job.model())
    result = export_onnx(checkpoint, output, ExportOptions.from_recipe(job.options), progress=job.progress)
    return Outcome(_files(result.artifact), {"nodes": result.nodes, **_described(result.artifact)})


def check_options(action: str, options: Mapping[str, Any]) -> None:
    """Refuse options that do not go together, before anything is made."""
    if action == "export":
        from rtmo_deploy.convert.options import ExportOptions

        ExportOptions.from_recipe(options)
    elif action == "quantize" and options["calibration"] is not None:
        from rtmo_deploy.data.calibration import named_sets

        if options["calibration"] not in named_sets():
            raise UsageError(
                f"'{options['calibration']}' is neither a folder nor a calibration set.",
                remedy=f"Relative paths start at the recipe's folder. Sets are: {', '.join(named_sets())}.",
            )
    for device in (options.get("device"), *options.get("devices", ())):
        if device is not None:
            from rtmo_deploy.runtime.backends import parse_device

            parse_device(device)


def require_files(files: Mapping[str, Path]) -> None:
    """Refuse files from outside that cannot be read, and a checkpoint that is another kind of file."""
    from rtmo_deploy.file_kind import CHECKPOINT
    from rtmo_deploy.zoo.locate import locate_model

    for role, path in files.items():
        with reading(path, InputDataError, remedy="The recipe names it; relative paths are meant from its folder."):
            if path.is_dir():
                next(path.iterdir(), None)
            else:
                open_regular(path).close()
        if role == "checkpoint":
            locate_model(path, wanted=CHECKPOINT, by="release")


def cast(job: Job) -> Outcome:
    """ONNX to FP16 or BF16, compared with its source."""
    from rtmo_deploy.convert.precision import cast_onnx

    output = job.folder / f"{job.options['file_stem']}.onnx"
    result = cast_onnx(job.model(), output, job.options["precision"], progress=job.progress)
    counts = {"half_nodes": result.half_nodes, "casts": result.casts, "float32_nodes": dict(result.fp32_nodes)}
    return Outcome(_files(result.artifact), {**counts, **_described(result.artifact)})


def quantize(job: Job) -> Outcome:
    """ONNX to INT8, judged where a budget is given."""
    from rtmo_deploy.convert.quantize import Judge, Method, calibrate, open_source, quantize_onnx
    from rtmo_deploy.data.calibration import folder_images, open_set

    options = job.options
    model = open_source(job.model(), options["target"])
    if "calibration" in job.files:
        images = folder_images(job.files["calibration"], options["count"])
    else:
        images = open_set(options["calibration"], options["count"])
    calibration = calibrate(model, images, method=Method(options["method"]), progress=job.progress)
    judge = None
    if "judge" in job.inputs:
        judge = Judge(model.artifact, dataset_of(job.inputs["judge"]), model.placement.target, progress=job.progress)
    output = job.folder / f"{options['file_stem']}.onnx"
    result = quantize_onnx(
        model,
        calibration,
        output,
        max_ap_drop=options["max_ap_drop"],
        bias_correction=options["bias_correction"],
        judge=judge,
        progress=job.progress,
    )
    if result.artifact is None:
        least = result.search.chosen.ap_drop if result.search is not None else float("nan")
        raise GateFailedError(
            f"No part of the model in 8 bits loses at most {options['max_ap_drop']:g} AP; the least loss is "
            f"{least:.4f}.",
            remedy="Allow more, calibrate with other images, or judge by more of them.",
        )
    return Outcome(_files(result.artifact), {"quantisation": result.to_dict(), **_described(result.artifact)})


def engine(job: Job) -> Outcome:
    """ONNX to an audited engine, if this machine can."""
    from rtmo_deploy.convert.trt import BuildOptions, build_engine, plan_build
    from rtmo_deploy.runtime.engine_file import Shape

    options, model = job.options, job.model()
    if options["plugin"]:
        from rtmo_deploy.convert.plugins.rewrite import plugin_onnx

        job.progress("putting the plugin in")
        with_plugin = job.folder / f"{options['file_stem']}.plugin.onnx"
        plugin_onnx(model, with_plugin)
        model = with_plugin
    shapes = {name: (Shape.parse(options[name]),) if options[name] else () for name in ("min", "opt", "max")}
    build = BuildOptions(
        backend=options["backend"],
        min=shapes["min"],
        opt=shapes["opt"],
        max=shapes["max"],
        targets=tuple(options["compute_capability"]),
        version_compatible=options["version_compatible"],
        hardware_compatible=options["hardware_compatible"],
        opt_level=options["opt_level"],
        timeout=options["timeout"],
    )
    output = job.folder / f"{options['file_stem']}.engine"
    problems = plan_build(model, output, build).problems
    if problems:
        raise NotHereError(problems[0], remedy="Run the release where there is such a GPU and TensorRT.")
    result = build_engine(model, output, build, progress=job.progress)
    names = [output.name, result.sidecar.name, *_files(result.record.artifact)[1:]]
    names += [model.name] if options["plugin"] else []
    facts = {"engine": result.record.to_dict(), "warnings": list(result.warnings)}
    return Outcome(tuple(names), {**facts, **_described(result.record.artifact)})


def openvino(job: Job) -> Outcome:
    """ONNX to OpenVINO, compared with ONNX Runtime."""
    from rtmo_deploy.convert.openvino import convert_openvino

    output = job.folder / f"{job.options['file_stem']}.xml"
    compress = job.options["compress_fp16"]
    result = convert_openvino(job.model(), output, compress_fp16=compress, progress=job.progress)
    return Outcome(tuple(path.name for path in result.files), _described(result.artifact))


def draw(job: Job) -> Outcome:
    """Synthetic people, written as a data set."""
    from rtmo_deploy.data.coco_writer import write_dataset
    from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople

    options = job.options
    people = SyntheticOptions(people=tuple(options["people"]))
    count = options["images"]
    dataset = SyntheticPeople(count, seed=options["seed"], options=people)
    written = write_dataset(
        job.folder,
        dataset,
        suffix=".png",
        progress=lambda done: job.progress(Count("writing synthetic images", done, count)),
    )
    names = sorted(path.relative_to(job.folder).as_posix() for path in job.folder.rglob("*.png"))
    facts = {"source": f"{count} synthetic images, seed {options['seed']}", "generator": GENERATOR_VERSION}
    return Outcome((written.path.name, *names), {**facts, "people": written.people})


def annotated(job: Job) -> Outcome:
    """Somebody's annotated images: that they are there; each measurement reads them itself."""
    annotations, images = job.files["annotations"], job.files["images"]
    if not images.is_dir():
        raise InputDataError("There is no such folder.", remedy="Give the folder of the images.", where=images)
    hashes = {"annotations_sha256": sha256_of(annotations), "images_sha256": _names_sha256(images)}
    return Outcome((), {"source": annotations.name, "max_images": job.options["max_images"], **hashes})


def _names_sha256(folder: Path) -> str:
    """SHA-256 of the names and sizes of a folder's files, by which images are known on another machine."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    entries = [[name, path.stat().st_size] for name, path in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def dataset_of(made: StepRecord) -> CocoKeypoints:
    """What ``draw`` wrote, or ``annotated`` looked at."""
    from rtmo_deploy.data.coco import CocoKeypoints

    if made.main is not None:
        return CocoKeypoints(made.main, made.main.parent / "images")
    return CocoKeypoints(made.external["annotations"], made.external["images"], max_images=made.facts["max_images"])


def _files(artifact: Artifact) -> tuple[str, ...]:
    companion = (artifact.companion.name,) if artifact.companion is not None else ()
    return (artifact.path.name, *companion)


def _described(artifact: Artifact) -> dict[str, Any]:
    return {
        "kind": artifact.kind.value,
        "precision": artifact.precision,
        "decode": artifact.decode.mode.value,
        "architecture": artifact.architecture,
        "artifact": artifact.to_dict(),
    }


#: Quality of the images in the report, and the longest side they have there, pixels.
JPEG_QUALITY = 80
LONGEST_SIDE = 480


def accuracy(job: Job) -> Outcome:
    """AP, 0 to 1; and which common mistake would explain a low one."""
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
    about = {"device": device, "domain": dataset.domain, "causes": causes}
    return Outcome((), plain({"ap": report["metrics"]["AP"], **about, **report}))


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
    known = {}
    if "images" in job.files:
        images = ImageSource.in_folder(job.files["images"])
        known = {"images_sha256": _names_sha256(job.files["images"])}
    else:
        images = ImageSource.synthetic(options["synthetic"])
    report = compare_models(sides[0], sides[1], images, layers="if unexplained", bounds=bounds, progress=job.progress)
    shown = _draw(report, images, job, options["pictures"])
    facts = report.to_dict()
    if report.layers is not None:  # its many layers are for `parity --layers`; the cause names the first that parts
        facts["layers"] = {**facts["layers"], "layers": []}
    for side in ("a", "b"):
        facts[side].pop("path", None)
    names = tuple(name for entry in shown for name in entry["files"])
    return Outcome(names, plain({**facts, **known, "shown": shown}), hidden=names)


def _draw(report: AgreementReport, images: ImageSource, job: Job, count: int) -> list[dict[str, Any]]:
    """The first model's people, the second's and the differences, on the worst images with people; JPEG files."""
    from rtmo_deploy.measure.agreement.gallery import drawn_comparisons, jpeg, magnification
    from rtmo_deploy.measure.bounds import WORKING_SCORE

    seen = [at for at in report.worst() if any((people.scores > WORKING_SCORE).any() for people in report.found[at])]
    worst = (seen or report.worst())[:count]
    times = magnification([report.images[index] for index in worst], report.input_hw)
    shown = []
    drawings = drawn_comparisons(report, images, worst, times, job.progress)
    for number, (image, drawn) in enumerate(drawings, 1):
        names = [f"{number:03d}-{side}.jpg" for side in "abd"]
        for name, panel in zip(names, drawn, strict=True):
            (job.folder / name).write_bytes(jpeg(panel, JPEG_QUALITY, LONGEST_SIDE))
        shown.append({"name": image.name, "magnified": times, "files": names})
    return shown


def latency(job: Job) -> Outcome:
    """A benchmark of the contenders, each entry with the name that the recipe gives it."""
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
