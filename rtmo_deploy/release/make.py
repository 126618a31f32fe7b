"""Steps that make files: thin calls into the floors below. Facts that they find are JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import GateFailedError, InputDataError, UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count
from rtmo_deploy.release.record import Job, NotHereError, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.coco import CocoKeypoints
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
                f"'{options['calibration']}' is no calibration set, and no folder beside the recipe.",
                remedy=f"Sets are: {', '.join(named_sets())}.",
            )


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
    model = open_source(job.model())
    if "calibration" in job.files:
        images = folder_images(job.files["calibration"], options["count"])
    else:
        images = open_set(options["calibration"], options["count"])
    calibration = calibrate(model, images, method=Method(options["method"]), progress=job.progress)
    judge = None
    if "judge" in job.inputs:
        judge = Judge(model.artifact, dataset_of(job.inputs["judge"]), progress=job.progress)
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
    if not job.files["images"].is_dir():
        raise InputDataError(
            "There is no such folder.", remedy="Give the folder of the images.", where=job.files["images"]
        )
    return Outcome((), {"source": job.files["annotations"].name, "max_images": job.options["max_images"]})


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
