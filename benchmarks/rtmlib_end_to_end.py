"""From the image's file to the poses: this project against rtmlib with a graph of MMDeploy's shape, on the CPU.

The same weights, the same images, the same thresholds, the same number of threads. Contenders: rtmlib with a graph
of MMDeploy's shape, which the others are compared with; rtmlib as it is with our ONNX model; this project's
``PoseEstimator`` with that model in ONNX Runtime; and in OpenVINO where that is installed. Each lives in a process of
its own and they take turns, round by round, as ``rtmo-deploy bench`` does it, which this script is built of.

rtmlib's own suppression is put out of the way, for the graph has done it, and its score threshold is the model's. The
images are synthetic. Without ``--mmdeploy`` the graph of MMDeploy's shape is made here (``mmdeploy_shape.py`` says
what it is and is not); with a file of MMDeploy's own, name the checkpoint of the same weights by ``--model``.

    python benchmarks/rtmlib_end_to_end.py
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sample_models import DEFAULT, export, export_mmdeploy_shape, load

from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure.bench import BenchOptions, Entry, run_bench
from rtmo_deploy.measure.bench.report import facts, ratio_cell, to_markdown
from rtmo_deploy.measure.bench.worker import WorkerProcess

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench import BenchResult, Contender

WORKER = (sys.executable, str(Path(__file__).with_name("rtmlib_worker.py")))
#: Beginning of the names of the files that rtmlib runs.
RTMLIB = "rtmlib-"


def start(contender: Contender) -> WorkerProcess:
    """A process for a contender; the file's name says whose."""
    if Path(contender.model).name.startswith(RTMLIB):
        return WorkerProcess(contender, WORKER)
    return WorkerProcess(contender)


def models(args: argparse.Namespace, folder: Path) -> tuple[Path, ...]:
    """The contenders' files; the first one is what the others are compared with."""
    from rtmo_deploy.convert import ExportOptions

    checkpoint = load(args.model)
    thresholds = checkpoint.artifact().decode
    theirs = folder / f"{RTMLIB}mmdeploy.onnx"
    if args.mmdeploy is not None:
        shutil.copyfile(args.mmdeploy, theirs)
    else:
        theirs = export_mmdeploy_shape(checkpoint, folder / f"{RTMLIB}mmdeploy-shape.onnx", args.imgsz)
    # rtmlib cannot take a graph's answer that there is nobody, so there is a row at least; and it puts the image into
    # the upper left corner.
    options = ExportOptions(
        score_thr=thresholds.score_thr, nms_thr=thresholds.nms_thr, min_rows=1, imgsz=args.imgsz, letterbox="top-left"
    )
    ours = export(checkpoint, folder / "rtmo-deploy.onnx", options)
    in_rtmlib = folder / f"{RTMLIB}rtmo-deploy.onnx"
    shutil.copyfile(ours, in_rtmlib)
    found = [theirs, in_rtmlib, ours]
    if importlib.util.find_spec("openvino") is not None:
        from rtmo_deploy.convert.openvino import convert_openvino

        found.append(convert_openvino(ours, folder / "rtmo-deploy.xml", verify=False).artifact.path)
    else:
        print("Not run: OpenVINO is not installed.", file=sys.stderr)
    return tuple(found)


def times_as_fast(entry: Entry) -> str:
    """The inverse of a ratio of times, with its interval; or why there is none."""
    ratio = entry.ratio
    if ratio is None:
        return ratio_cell(entry)
    if ratio.low is None or ratio.high is None:
        return f"{1 / ratio.value:.2f} (no interval)"
    return f"{1 / ratio.value:.2f} ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"


def table(result: BenchResult) -> str:
    """Markdown: a row for each contender and number of people drawn."""
    lines = [
        "| drawn | contender | found | ms (median) | network+NMS+DCC ms | times as fast (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result.entries:
        inside = entry.stages.get("network+NMS+DCC")
        cells = [
            str(entry.case.people),
            entry.label,
            f"{entry.found:.1f}",
            f"{entry.total.p50:.2f}",
            "-" if inside is None else f"{inside.p50:.2f}",
            "1" if entry.label == result.reference else times_as_fast(entry),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, help="checkpoint: a file or a name [default: %(default)s]")
    parser.add_argument("--mmdeploy", type=Path, help="MMDeploy's own file of the same weights")
    parser.add_argument("--imgsz", type=int, nargs=2, metavar=("H", "W"), help="[default: the model's own]")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 1, 4, 10], help="drawn in an image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, for each contender and number of people")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds")
    parser.add_argument("--pictures", type=int, default=8, help="for each number of people")
    parser.add_argument("--md", type=Path, help="write every stage of every contender here, in Markdown")
    args = parser.parse_args()
    args.imgsz = None if args.imgsz is None else tuple(args.imgsz)
    if importlib.util.find_spec("rtmlib") is None:
        raise SystemExit("rtmlib is not installed: pip install rtmlib")
    with tempfile.TemporaryDirectory(prefix="rtmlib-bench-") as folder:
        options = BenchOptions(
            models=models(args, Path(folder)),
            threads=(args.threads,),
            people=tuple(args.people),
            seconds=args.seconds,
            warmup_s=args.warm_up,
            rounds=args.rounds,
            pictures=args.pictures,
            no_reference=True,
        )
        result = run_bench(options, start=start, progress=lambda text: print(text, file=sys.stderr))
    size = "x".join(str(side) for side in result.entries[0].opened.facts["input_hw"])
    graph = "MMDeploy's file" if args.mmdeploy is not None else "a graph of MMDeploy's shape, made here"
    print(f"{args.model}, {size}, batch 1, {args.threads} threads, {args.rounds} rounds.")
    print(f"The others are compared with rtmlib {version('rtmlib')} running {graph}.\n")
    print("\n".join(f"- {name}: {text}" for name, text in facts(result).items() if name != "protocol"))
    print(f"\n{table(result)}")
    for note in result.warnings:
        print(f"\nNote: {note}")
    if args.md is not None:
        with atomic_write(args.md) as temporary:
            temporary.write_text(to_markdown(result), encoding="utf-8")


if __name__ == "__main__":
    main()
