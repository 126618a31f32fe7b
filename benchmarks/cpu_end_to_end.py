"""From an image to its poses on the CPU: rtmlib with MMDeploy's graph against this package, in every precision.

The same weights, images, thresholds and cores. rtmlib runs ONNX Runtime at rtmlib's own settings; its suppression is
put out of the way, for the graph has done it; and both put the image into the upper left corner, as rtmlib does. Each
contender lives in a process of its own, and they take turns, round by round, every second round backwards. ``one
image`` is a call with an image array; ``folder`` is JPEG files to poses (rtmlib one by one, as its users do, this
package by ``stream``). What is reported is the ratio of rtmlib's time to the contender's within a round: the geometric
mean of the rounds, and its 95 % interval (Student's t). Above 1: faster. A contender that cannot run here is named with
the reason; none is replaced by another.

    python benchmarks/cpu_end_to_end.py
    python benchmarks/cpu_end_to_end.py --model rtmo-t.pth --mmdeploy rtmo-t.mmdeploy.onnx --noise

Without ``--mmdeploy`` the graph of MMDeploy's shape is made here (``mmdeploy_shape.py``). ``--noise``: images of noise
at the network's size, in which networks that were not trained find some ten people.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sample_models import DEFAULT, export, export_mmdeploy_shape, load, quantise

from rtmo_deploy.artifact import Target
from rtmo_deploy.files import atomic_write
from rtmo_deploy.machine import read_cpu
from rtmo_deploy.measure.bench.statistics import paired_ratio
from rtmo_deploy.packages import installed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

RTMLIB = "rtmlib, MMDeploy's graph"
#: Flags that decide which of these is fast.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
#: Suppression that drops nobody but repeated rows.
OUT_OF_THE_WAY = 0.99
WARM_UP = 5


@dataclass(frozen=True)
class Contender:
    """A name, a file, and how RTMO opens it; rtmlib where there is no ``how``."""

    name: str
    model: Path
    how: dict[str, Any] = field(default_factory=dict)


class Client:
    """A contender that is open."""

    def __init__(self, contender: Contender, size: tuple[int, int], score_thr: float, threads: int) -> None:
        cv2.setNumThreads(threads)
        if contender.how:
            from rtmo_deploy import RTMO

            self.rtmo: Any = RTMO(contender.model, device="cpu", threads=threads, input_hw=size, **contender.how)
            self.one = lambda image: len(self.rtmo(image))
            return
        import rtmlib  # type: ignore[import-untyped]

        client = rtmlib.RTMO(str(contender.model), model_input_size=size, nms_thr=OUT_OF_THE_WAY, score_thr=score_thr)
        self.rtmo, self.one = None, lambda image: int(client(image)[1].any(axis=1).sum())

    def folder(self, files: list[Path]) -> int:
        """How many people there are in files."""
        if self.rtmo is None:
            return sum(self.one(cv2.imread(str(file))) for file in files)
        return sum(len(frame.poses) for frame in self.rtmo.stream(files, batch=8))


def worker(
    pipe: Connection,
    contender: Contender,
    images: list[NDArray[np.uint8]],
    files: list[Path],
    given: tuple[tuple[int, int], float, int],
) -> None:
    """Answer ``one`` with the median seconds of an image, ``folder`` with the seconds of one, ``end`` with the end."""
    from rtmo_deploy.errors import RtmoDeployError

    cores = given[-1]
    if hasattr(os, "sched_setaffinity"):  # rtmlib takes all cores it sees
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    try:
        client = Client(contender, *given)
        found = [client.one(image) for image in images]
        for _ in range(WARM_UP):
            client.one(images[0])
        if files:
            client.folder(files)
    except (RtmoDeployError, ImportError) as error:
        pipe.send(getattr(error, "finding", str(error)))
        return
    pipe.send(statistics.fmean(found))
    while (asked := pipe.recv()) != "end":
        times = []
        for image in images if asked == "one" else [None]:
            started = time.perf_counter()
            client.folder(files) if image is None else client.one(image)
            times.append(time.perf_counter() - started)
        pipe.send(statistics.median(times))


def contenders(args: argparse.Namespace, folder: Path) -> list[Contender]:
    """Who runs; the first is what the others are compared with."""
    from rtmo_deploy.convert import ExportOptions

    checkpoint = load(args.model)
    size = None if args.imgsz is None else tuple(args.imgsz)
    theirs = args.mmdeploy or export_mmdeploy_shape(checkpoint, folder / "mmdeploy-shape.onnx", size)
    ours = export(checkpoint, folder / "rtmo.onnx", ExportOptions(imgsz=size, letterbox="top-left"))
    ort, ov = {"backend": "onnxruntime"}, {"backend": "openvino"}
    found = [
        Contender(RTMLIB, theirs),
        Contender("PyTorch FP32", checkpoint.path, {"backend": "torch"}),
        Contender("ONNX Runtime FP32", ours, ort),
        Contender("OpenVINO FP32", ours, ov),
        Contender("OpenVINO BF16", ours, {**ov, "precision": "bf16"}),
    ]
    for_ort, for_ov = (
        quantise(ours, folder / f"rtmo.{target}.int8.onnx", args.calibration, args.threads, target)
        for target in (Target.ONNXRUNTIME, Target.OPENVINO)
    )
    return [
        *found,
        Contender("ONNX Runtime INT8", for_ort, ort),
        Contender("OpenVINO INT8", for_ov, ov),
        Contender("OpenVINO INT8, rest BF16", for_ov, {**ov, "precision": "bf16"}),
    ]


def pictures(args: argparse.Namespace, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Images of noise at the network's size, or of drawn people."""
    if args.noise:
        rng = np.random.default_rng(1234)
        return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(args.images)]
    from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

    people = SyntheticPeople(args.images, seed=1, options=SyntheticOptions(people=(args.people, args.people)))
    return [people[index].image for index in range(args.images)]


def measure(running: dict[str, tuple[Any, Any, float]], rounds: int, asked: str) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds):
        for name in list(running) if number % 2 == 0 else reversed(running):
            running[name][0].send(asked)
            times[name].append(running[name][0].recv())
    return times


def report(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure and print a Markdown table."""
    from rtmo_deploy.runtime.estimator import read_artifact

    asked = contenders(args, folder)
    artifact = read_artifact(asked[2].model)
    size = (artifact.input.height, artifact.input.width)
    images = pictures(args, size)
    files = [folder / f"{index:04d}.jpg" for index in range(args.folder)]
    for index, file in enumerate(files):
        cv2.imwrite(str(file), images[index % len(images)], [cv2.IMWRITE_JPEG_QUALITY, 95])
    running: dict[str, tuple[Any, Any, float]] = {}
    refused = []
    context = multiprocessing.get_context("spawn")
    for contender in asked:
        end, other = context.Pipe()
        given = (size, artifact.decode.score_thr, args.threads)
        process = context.Process(target=worker, args=(other, contender, images, files, given))
        process.start()
        other.close()
        try:
            answer = end.recv()
        except EOFError:
            answer = "its process died; its own message is above."
        if isinstance(answer, str):
            refused.append(f"{contender.name}: {answer}")
        else:
            running[contender.name] = (end, process, answer)
    if RTMLIB not in running:
        raise SystemExit("\n".join(refused))
    times = measure(running, args.rounds, "one")
    whole = measure(running, max(3, args.rounds // 4), "folder") if files else {}
    cpu, flags = read_cpu()
    packages = installed(("rtmlib", "onnxruntime", "openvino", "torch"))
    facts = {
        "model": args.model,
        "name": artifact.architecture,
        "input": f"{size[0]}x{size[1]}",
        "graph": "MMDeploy's file" if args.mmdeploy else "a graph of MMDeploy's shape, made here",
        "cpu": f"{cpu or platform.machine()}, {args.threads} cores",
        "flags": " ".join(flag for flag in FLAGS if flag in flags),
        "rounds": args.rounds,
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print(f"| contender | found | ms | one image (95 %) | folder of {len(files)} (95 %) |\n|---|---|---|---|---|")
    rows = []
    for name, (end, process, found) in running.items():
        cells = [str(paired_ratio(part[RTMLIB], part[name])) if part else "-" for part in (times, whole)]
        cells = ["1", "1"] if name == RTMLIB else cells
        print(f"| {name} | {found:.1f} | {1e3 * statistics.median(times[name]):.1f} | {cells[0]} | {cells[1]} |")
        rows.append({"contender": name, "found": found, "seconds": times[name], "folder_seconds": whole.get(name, [])})
        end.send("end")
        process.join()
    if refused:
        print("\nNot run:\n" + "\n".join(f"- {line}" for line in refused))
    return {**facts, "rows": rows, "refused": refused}


def draw(results: list[Path], output: Path) -> None:
    """A PNG: times as fast as rtmlib of each contender, a panel for each result that ``--json`` wrote."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(results), 3.6), layout="constrained")
    for place, path in enumerate(results, 1):
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["contender"]: row["seconds"] for row in found["rows"]}
        ratios = [paired_ratio(rows[RTMLIB], times) for times in rows.values()]
        axes = figure.add_subplot(1, len(results), place)
        values = [ratio.value for ratio in ratios]
        errors = [
            [value - (ratio.low or value) for ratio, value in zip(ratios, values, strict=True)],
            [(ratio.high or value) - value for ratio, value in zip(ratios, values, strict=True)],
        ]
        bars = axes.barh(list(rows), values, xerr=errors, color="#4c78a8", ecolor="#222222")
        bars[0].set_color("#b0b0b0")
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.invert_yaxis()
        axes.set_xlim(0, max(values) * 1.18)
        axes.set_xlabel("times as fast (longer is better)")
        axes.set_title(f"{found['name']}, {found['input']}")
        if place > 1:
            axes.set_yticklabels([])
    with atomic_write(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    """Parse, make the models, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, help="checkpoint: a file or a name [default: %(default)s]")
    parser.add_argument("--mmdeploy", type=Path, help="MMDeploy's own file of the same weights")
    parser.add_argument("--imgsz", type=int, nargs=2, metavar=("H", "W"), help="[default: the model's own]")
    parser.add_argument("--people", type=int, default=10, help="drawn in an image")
    parser.add_argument("--noise", action="store_true", help="images of noise")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--folder", type=int, default=0, help="JPEG files of the folder [default: not measured]")
    parser.add_argument("--threads", type=int, default=2, help="cores")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calibration", type=int, default=64, help="synthetic images that INT8 is calibrated with")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--draw", type=Path, nargs="+", metavar="JSON", help="measure nothing, draw these results")
    parser.add_argument("--plot", type=Path, default=Path("cpu.png"), help="the drawing [default: %(default)s]")
    args = parser.parse_args()
    if args.draw is not None:
        draw(args.draw, args.plot)
        return
    if importlib.util.find_spec("rtmlib") is None:
        raise SystemExit("rtmlib is not installed: pip install --no-deps rtmlib")
    with tempfile.TemporaryDirectory(prefix="cpu-end-to-end-") as folder:
        found = report(args, Path(folder))
    if args.json is not None:
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
