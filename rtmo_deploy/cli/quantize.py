"""``rtmo-deploy quantize``: a float32 ONNX model becomes an INT8 one, judged before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.calibrate import IMAGES, METHODS, MethodName, TargetName, report_skipped
from rtmo_deploy.cli.console import print_facts, print_json, print_table
from rtmo_deploy.cli.given import beside, find_model, require_data
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, JsonOption, MaxPixelsOption, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import GateFailedError, UsageError
from rtmo_deploy.file_kind import CALIBRATION, ONNX, require
from rtmo_deploy.files import human_size
from rtmo_deploy.option import option
from rtmo_deploy.outputs import require_free, require_suffix
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.convert.quantize import Calibration, Judge, QuantizeResult, SourceModel
    from rtmo_deploy.convert.quantize.search import SearchResult
    from rtmo_deploy.data.sample import PoseDataset

#: Seed and number of the synthetic images that judge where no others are given; apart from those that calibrate, and
#: from those that the sample model is trained and chosen on.
_JUDGE_SEED = 4000
_JUDGE_COUNT = 200


@dataclass(frozen=True)
class QuantizeOptions:
    """What is calibrated with and judged by."""

    target: TargetName | None = option(
        None, "Runtime it is for. [default: tensorrt for --decode fixed models, else openvino]"
    )
    calib: str = option(
        "synthetic", "Images to calibrate with, or what calibrate has written.", metavar="SET|DIR|FILE.json"
    )
    count: int | None = option(None, IMAGES, min=1)
    method: MethodName | None = option(None, f"{METHODS} [default: mse]")
    max_ap_drop: float | None = option(
        None, "AP that may be lost (AP runs 0 to 1); costly layers revert to FP32.", metavar="AP"
    )
    ann: Path | None = option(None, "Judge by these annotations. [default: synthetic images]", metavar="FILE")
    images: Path | None = option(None, "Folder of the annotated images.", metavar="DIR")
    max_images: int | None = option(None, "Judge by the first so many images. [default: all; synthetic, 200]", min=1)
    no_judge: bool = option(False, "Do not compare with the float32 model.")
    no_bias_correction: bool = option(False, "Leave the mean shift that 8 bits cause in a layer.")
    output: Path | None = option(None, "File to write. [default: MODEL.int8.onnx, beside it]", "-o", "--output")
    plot: Path | None = option(None, "Draw AP against the share in INT8, as PNG; with --max-ap-drop.", metavar="FILE")
    threads: int | None = option(None, "CPU threads. [default: the runtime's choice]", min=1)

    def __post_init__(self) -> None:
        if (self.ann is None) != (self.images is None):
            raise UsageError("Annotations and images go together.", remedy="Give both --ann FILE and --images DIR.")
        judged = self.max_ap_drop is not None or self.ann is not None or self.max_images is not None
        if self.no_judge and judged:
            raise UsageError("Without a judge there is nothing to judge by.", remedy="Leave --no-judge away.")
        if self.plot is not None and self.max_ap_drop is None:
            finding = "There is a frontier to plot only where a budget is searched."
            raise UsageError(finding, remedy="Give --max-ap-drop.")
        require_suffix(self.plot, ".png", what="The plot")
        require_suffix(self.output, ".onnx")


@options_of(QuantizeOptions)
def quantize(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="The float32 model.")],
    options: QuantizeOptions,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Quantise a float32 ONNX model to INT8 by Q/DQ pairs, and say what that costs.

    With --max-ap-drop layers revert to FP32 until the loss is within it; if it cannot be met, nothing is written.
    """
    budget, plot = options.max_ap_drop, options.plot
    file = find_model(model, "quantize", ONNX)
    require_data("quantize", ann=[options.ann], images=[options.images])
    require_calibration(options.calib)
    target = options.output or beside(model, file).with_suffix(".int8.onnx")
    require_free([target, plot], files_of(file, model, options.calib, options.ann, options.images), force=force)
    with status("reading the model") as progress:
        from rtmo_deploy.convert.quantize import open_source, quantize_onnx, require_budget

        require_budget(budget)
        if plot is not None:
            from rtmo_deploy.convert.quantize.search import require_matplotlib

            require_matplotlib()
        source = open_source(file, options.target)
        calibration = open_calibration(source, options, progress)
        result = quantize_onnx(
            source,
            calibration,
            target,
            max_ap_drop=budget,
            bias_correction=not options.no_bias_correction,
            judge=None if options.no_judge else open_judge(source, options, progress),
            progress=progress,
        )
    report_skipped(calibration)
    found = result.search
    baseline_ap = None if result.baseline is None else result.baseline.ap
    if plot is not None and found is not None and baseline_ap is not None and budget is not None:
        from rtmo_deploy.convert.quantize.search import plot_frontier

        network = result.macs.network
        plot_frontier(plot, found, network, baseline_ap=baseline_ap, max_ap_drop=budget, title=file.name)
    _show(file, result, as_json=as_json)
    if found is not None and not found.met:
        raise GateFailedError(
            f"No part of the model in 8 bits loses at most {budget:g} AP; the least loss is "
            f"{found.chosen.ap_drop:.4f}.",
            remedy="Nothing was written. Allow more, calibrate with other images, or judge by more of them.",
            where=file,
        )


def require_calibration(calib: str) -> None:
    """Check that what is given to calibrate with is a named set, a folder or a calibration file."""
    from rtmo_deploy.data.calibration import named_sets

    path = Path(calib)
    if path.suffix.lower() == ".json":
        require(path, CALIBRATION, "--calib")
    elif calib not in named_sets() and not path.is_dir():
        raise UsageError(
            f"'{calib}' is no calibration set, no folder and no calibration file.",
            remedy=f"Sets are: {', '.join(named_sets())}; files end in .json.",
        )


def open_calibration(source: SourceModel, options: QuantizeOptions, progress: Callable[[str], None]) -> Calibration:
    """What is given, or what was measured before in the same way, or a new measurement."""
    from rtmo_deploy.convert.quantize import Calibration, Method, calibrate
    from rtmo_deploy.data.calibration import folder_images, named_sets, open_set
    from rtmo_deploy.zoo.cache import cache_dir

    calib, count, method = options.calib, options.count, options.method
    path = Path(calib)
    if path.suffix.lower() == ".json":
        given = Calibration.load(path)
        given.require_model(source.sha256, source.placement.target, path)
        measured = given.source
        for name, value, there in (
            ("count", count, measured.pictures.get("count")),
            ("method", method, measured.method.value),
        ):
            if value not in {None, there}:
                raise UsageError(
                    f"--{name} is {value}, but {path.name} was measured with {there}.",
                    remedy=f"Leave --{name} away, or make another calibration.",
                )
        return given
    images = open_set(calib, count) if calib in named_sets() else folder_images(path, count)
    chosen, cache = Method(method or "mse"), cache_dir("calibration")
    return calibrate(source, images, method=chosen, cache=cache, threads=options.threads, progress=progress)


def open_judge(source: SourceModel, options: QuantizeOptions, progress: Callable[[str], None]) -> Judge:
    """Who judges by annotated images, or by synthetic ones."""
    from rtmo_deploy.convert.quantize import Judge

    if options.ann is not None and options.images is not None:
        from rtmo_deploy.data.coco import CocoKeypoints
        from rtmo_deploy.measure.accuracy.run import common_skeleton

        dataset: PoseDataset = CocoKeypoints(options.ann, options.images, max_images=options.max_images)
        common_skeleton(source.artifact.skeleton, dataset.skeleton, told=False)  # given annotations must fit
    else:
        from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

        count = options.max_images or _JUDGE_COUNT
        dataset = SyntheticPeople(count, seed=_JUDGE_SEED, options=SyntheticOptions(people=(1, 6)))
    return Judge(source.artifact, dataset, source.placement.target, threads=options.threads, progress=progress)


def _show(model: Path, result: QuantizeResult, *, as_json: bool) -> None:
    written = None if result.artifact is None else str(result.artifact.path)
    if as_json:
        print_json("quantize", model=str(model), path=written, size=result.size, **result.to_dict())
        return
    used = result.calibration
    facts = {
        "file": "nothing was written" if written is None else f"{written} ({human_size(result.size)})",
        "for": f"{used.source.target}",
        "INT8": f"{100 * result.of_network:.1f} % of the network's multiply-accumulates, {result.layers} convolutions "
        f"({100 * result.of_graph:.1f} % of the graph's)",
        "Q/DQ pairs": str(result.pairs),
        "calibration": f"{used.used} images of '{used.source.pictures.get('name')}', {len(used.skipped)} skipped; "
        f"{used.source.method.value}",
        "left in float32": ", ".join(result.kept) or "nothing that could be quantised",
    }
    print_facts(facts | judged(result))
    if result.search is not None:
        _print_frontier(result.search, result.macs.network)


def judged(result: QuantizeResult) -> dict[str, str]:
    """What INT8 costs, by heading."""
    if result.baseline is None or result.verdict is None:
        return {"cost": "not judged (--no-judge)"}
    figures = result.verdict.against_fp32
    ap = "not measured: no annotated people that fit the model"
    if result.baseline.ap is not None and result.verdict.ap is not None:
        ap = f"{result.baseline.ap:.4f} in float32, {result.verdict.ap:.4f} in INT8"
    return {
        "judged in": f"{result.judged_in}. {result.calibration.source.target}'s own AP is not measured."
        if not result.native
        else str(result.judged_in),
        "AP": ap,
        "people": f"{figures.matched} of the float32 model's found again, {figures.missed} missed, "
        f"{figures.extra} extra" + ("" if figures.oks is None else f"; mean OKS {figures.oks:.4f}"),
        "scores": "-" if figures.score_ratio is None else f"median ratio INT8 / float32 {figures.score_ratio:.4f}",
        "keypoints": "-" if figures.keypoint_px_mean is None else f"{figures.keypoint_px_mean:.2f} px apart on average",
    }


def _print_frontier(found: SearchResult, network_macs: int) -> None:
    headings = ("reverted to FP32", "INT8 MACs", "AP", "AP lost", "OKS", "score ratio")
    rows = []
    for point in found.frontier:
        figures = point.verdict.against_fp32
        numbers = (point.verdict.ap, point.ap_drop, figures.oks, figures.score_ratio)
        share = f"{100 * point.macs / network_macs:.1f} %"
        rows.append([point.reverted or "-", share, *("-" if one is None else f"{one:.4f}" for one in numbers)])
    caption = "From the top: everything in 8 bits, then one more block in FP32 a row."
    print_table(Table("Frontier", headings, rows, caption))
