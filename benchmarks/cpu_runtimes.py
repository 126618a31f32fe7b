"""ONNX Runtime, OpenVINO and PyTorch on the same weights, on the CPU, in float32, bfloat16 and INT8, at batch 1.

Each contender runs in a process of its own, one at a time, round by round, and every second round backwards, so that
slow changes of the machine hit all of them. Interference by other processes is not measured here: run it on a quiet
machine. What is reported is the ratio of ONNX Runtime's time to the contender's within a round: the geometric mean of
the rounds, and its 95 % interval (Student's t, as ``rtmo-deploy bench`` has it). Above 1: faster than ONNX Runtime. A
contender that cannot run here is named, with the reason, and left out; none is replaced by another. ``runs in`` is
what the runtime itself says of its convolutions and matrix products. PyTorch is the eager reference with its own
decoding; it takes part where the checkpoint that the model was made from is beside it, or is named.

    python benchmarks/cpu_runtimes.py
    python benchmarks/cpu_runtimes.py rtmo-s.onnx --int8 rtmo-s.int8.onnx --checkpoint rtmo-s.pth

Without a model, one of the embedded rtmo-n is exported and quantised for the purpose.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.statistics import Ratio, paired_ratio

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

#: Instruction sets that decide which of these is fast, and their names in Linux.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
#: Runs before the first that counts: kernels are made and memory is taken in them.
WARM_UP = 5


@dataclass(frozen=True)
class Contender:
    """One way of running one model.

    Attributes:
        name: In the table.
        model: The file.
        runtime: ``onnxruntime``, ``openvino`` or ``torch``.
        precision: Of OpenVINO; None for what the graph says.
        thresholds: Score threshold and IoU of the suppression, for PyTorch, whose file has none built in.
    """

    name: str
    model: Path
    runtime: str
    precision: str | None = None
    thresholds: tuple[float, float] | None = None

    def open(self, threads: int) -> Any:
        """A backend."""
        from rtmo_deploy.runtime.estimator import read_artifact

        artifact = read_artifact(self.model)
        if self.runtime == "openvino":
            from rtmo_deploy.runtime import openvino_backend

            return openvino_backend.load(artifact, "cpu", threads, self.precision)
        if self.runtime == "torch":
            from rtmo_deploy.runtime import torch_backend

            if self.thresholds is not None:
                score_thr, nms_thr = self.thresholds
                artifact = replace(artifact, decode=replace(artifact.decode, score_thr=score_thr, nms_thr=nms_thr))
            return torch_backend.load(artifact, "cpu", threads)
        from rtmo_deploy.runtime import onnxruntime_backend

        return onnxruntime_backend.load(artifact, "cpu", threads)


def contenders(model: Path, int8: Path | None, checkpoint: Path | None) -> list[Contender]:
    """Who runs; the first is what the others are compared with."""
    from rtmo_deploy.runtime.estimator import read_artifact

    found = [
        Contender("ONNX Runtime fp32", model, "onnxruntime"),
        Contender("OpenVINO fp32", model, "openvino"),
        Contender("OpenVINO bf16", model, "openvino", "bf16"),
    ]
    if checkpoint is not None:
        decode = read_artifact(model).decode
        thresholds = (decode.score_thr, decode.nms_thr)
        found.append(Contender("PyTorch fp32, eager", checkpoint, "torch", thresholds=thresholds))
    if int8 is not None:
        found += [
            Contender("ONNX Runtime int8", int8, "onnxruntime"),
            Contender("OpenVINO int8", int8, "openvino"),
            Contender("OpenVINO int8, rest bf16", int8, "openvino", "bf16"),
        ]
    return found


def worker(pipe: Connection, contender: Contender, images: np.ndarray, threads: int) -> None:
    """Answer each number n with the seconds of n runs, None with the end."""
    from rtmo_deploy.errors import RtmoDeployError

    try:
        backend = contender.open(threads)
        for _ in range(WARM_UP):
            backend(images)
    except RtmoDeployError as error:
        pipe.send(error.finding)
        return
    pipe.send((getattr(backend, "precision", "not told"), getattr(backend, "threads", threads)))
    while (count := pipe.recv()) is not None:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            backend(images)
            times.append(time.perf_counter() - started)
        pipe.send(times)


def times_as_fast(times: list[float], reference: list[float]) -> Ratio:
    """The reference's time over a contender's, of the same rounds."""
    return paired_ratio(reference, times)


def cpu_flags() -> str:
    """The CPU and those of ``FLAGS`` it has, as far as this system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()}, instruction sets not told by this system"
    lines = [line.partition(":") for line in info.read_text(encoding="utf-8").splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    present = set(facts.get("flags", facts.get("Features", "")).split())
    words = ", ".join(f"{flag} {'yes' if flag in present else 'no'}" for flag in FLAGS)
    return f"{facts.get('model name', platform.machine())}; {words}"


def start(found: list[Contender], images: np.ndarray, threads: int) -> tuple[dict[str, Any], list[str]]:
    """Start everyone's process, one after another; those that run, and a line for each that cannot."""
    context = multiprocessing.get_context("spawn")
    running, refused = {}, []
    for contender in found:
        end, other = context.Pipe()
        process = context.Process(target=worker, args=(other, contender, images, threads))
        process.start()
        other.close()
        try:
            answer = end.recv()
        except EOFError:
            answer = "its process died; its own message is above."
        if isinstance(answer, str):
            process.join()
            refused.append(f"{contender.name}: {answer}")
        else:
            running[contender.name] = (end, process, *answer)
    return running, refused


def measure(running: dict[str, Any], rounds: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds):
        for name in list(running) if number % 2 == 0 else reversed(running):
            end = running[name][0]
            end.send(runs)
            times[name].append(statistics.median(end.recv()))
    for end, process, *_ in running.values():
        end.send(None)
        process.join()
    return times


def versions() -> str:
    """Versions of the runtimes, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("onnxruntime", "openvino", "torch"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def report(args: argparse.Namespace, model: Path, int8: Path | None, checkpoint: Path | None) -> None:
    """Measure and print a Markdown table."""
    from rtmo_deploy.measure import structured_images
    from rtmo_deploy.runtime.estimator import read_artifact

    contract = read_artifact(model).input
    height, width = args.imgsz or (contract.height, contract.width)
    images = structured_images(1, height, width)
    asked = contenders(model, int8, checkpoint)
    running, refused = start(asked, images, args.threads)
    first = next(iter(running), None)
    if first != asked[0].name:
        raise SystemExit("\n".join([f"{asked[0].name} does not run, so there is nothing to compare with.", *refused]))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    times = measure(running, args.rounds, args.runs)
    sizes = {one.name: one.model.stat().st_size / 2**20 for one in asked}
    print(f"{model.name}, {height}x{width}, batch 1, {args.threads} threads, {args.rounds} rounds; {versions()};")
    print(f"{cpu_flags()}; load before {load:.1f}\n")
    print(f"| runtime | runs in | threads | MiB | ms | {first} / this (95 %) |")
    print("|---|---|---|---|---|---|")
    for name, values in times.items():
        ratio = "1" if name == first else str(times_as_fast(values, times[first]))
        milliseconds = f"{1e3 * statistics.median(values):.1f}"
        cells = [name, *map(str, running[name][2:]), f"{sizes[name]:.1f}", milliseconds, ratio]
        print(f"| {' | '.join(cells)} |")
    if checkpoint is None:
        refused.append("PyTorch: the checkpoint is neither beside the model nor named by --checkpoint.")
    if refused:
        print("\nNot run:\n" + "\n".join(f"- {line}" for line in refused))


def main() -> None:
    """Parse, make what is not given, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="the float32 model [default: made of the embedded rtmo-n]")
    parser.add_argument("--int8", type=Path, help="the same model, quantised [default: made, if no model is named]")
    parser.add_argument("--checkpoint", type=Path, help="what the model was made from [default: looked for]")
    parser.add_argument("--calibration", type=int, default=64, help="synthetic images that INT8 is calibrated with")
    parser.add_argument("--imgsz", type=int, nargs=2, metavar=("H", "W"), help="[default: the model's own]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="runs a round, of which the median counts")
    args = parser.parse_args()
    if args.model is not None:
        from rtmo_deploy.runtime.estimator import read_artifact
        from rtmo_deploy.runtime.model_files import find_checkpoint

        report(args, args.model, args.int8, args.checkpoint or find_checkpoint(read_artifact(args.model)))
        return
    if args.int8 is not None or args.checkpoint is not None:
        parser.error("--int8 and --checkpoint go with a model")
    from sample_models import DEFAULT, export, load, quantise

    with tempfile.TemporaryDirectory(prefix="cpu-runtimes-") as name:
        folder, checkpoint = Path(name), load(DEFAULT)
        model = export(checkpoint, folder / f"{DEFAULT}.onnx")
        int8 = quantise(model, folder / f"{DEFAULT}.int8.onnx", args.calibration, args.threads)
        report(args, model, int8, checkpoint.path)


if __name__ == "__main__":
    main()
