"""ONNX Runtime and OpenVINO on the same model, on the CPU: latency at batch 1, as ratios to ONNX Runtime in float32.

Each contender runs in a process of its own, one at a time, round by round, and every second round backwards, so that
whatever else the machine does hits all of them. What is reported is the ratio of ONNX Runtime's time to the
contender's within a round: its median, and the interval that holds 95 % of the medians of resampled rounds. Above 1:
faster than ONNX Runtime. A contender that cannot run here is named, with the reason, and left out; none is replaced by
another. ``runs in`` is what the runtime itself says of its convolutions and matrix products.

    python benchmarks/cpu_runtimes.py rtmo-s.onnx --int8 rtmo-s.int8.onnx
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

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
        runtime: ``onnxruntime`` or ``openvino``.
        precision: Of OpenVINO; None for what the graph says.
    """

    name: str
    model: Path
    runtime: str
    precision: str | None = None

    def open(self, threads: int) -> Any:
        """A backend."""
        from rtmo_deploy.runtime.estimator import read_artifact

        artifact = read_artifact(self.model)
        if self.runtime == "openvino":
            from rtmo_deploy.runtime import openvino_backend

            return openvino_backend.load(artifact, "cpu", threads, self.precision)
        from rtmo_deploy.runtime import onnxruntime_backend

        return onnxruntime_backend.load(artifact, "cpu", threads)


def contenders(model: Path, int8: Path | None) -> list[Contender]:
    """Who runs; the first is what the others are compared with."""
    floats = [
        Contender("ONNX Runtime fp32", model, "onnxruntime"),
        Contender("OpenVINO fp32", model, "openvino"),
        Contender("OpenVINO bf16", model, "openvino", "bf16"),
    ]
    if int8 is None:
        return floats
    return [
        *floats,
        Contender("ONNX Runtime int8", int8, "onnxruntime"),
        Contender("OpenVINO int8", int8, "openvino"),
        Contender("OpenVINO int8, rest bf16", int8, "openvino", "bf16"),
    ]


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


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


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
    """Versions of the two runtimes, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("onnxruntime", "openvino"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the float32 model")
    parser.add_argument("--int8", type=Path, help="the same model, quantised")
    parser.add_argument("--imgsz", type=int, nargs=2, metavar=("H", "W"), help="[default: the model's own]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="runs a round, of which the median counts")
    args = parser.parse_args()
    from rtmo_deploy.measure import structured_images
    from rtmo_deploy.runtime.estimator import read_artifact

    contract = read_artifact(args.model).input
    height, width = args.imgsz or (contract.height, contract.width)
    images = structured_images(1, height, width)
    running, refused = start(contenders(args.model, args.int8), images, args.threads)
    first = next(iter(running), None)
    if first != "ONNX Runtime fp32":
        raise SystemExit("\n".join(["ONNX Runtime fp32 does not run, so there is nothing to compare with.", *refused]))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    times = measure(running, args.rounds, args.runs)
    sizes = {c.name: c.model.stat().st_size / 2**20 for c in contenders(args.model, args.int8)}
    print(f"{args.model.name}, {height}x{width}, batch 1, {args.threads} threads, {args.rounds} rounds; {versions()};")
    print(f"{cpu_flags()}; load before {load:.1f}\n")
    print("| runtime | runs in | threads | MiB | ms | ONNX Runtime fp32 / this (95 %) |")
    print("|---|---|---|---|---|---|")
    for name, values in times.items():
        ratios = [reference / own for reference, own in zip(times[first], values, strict=True)]
        low, high = interval(ratios)
        precision, threads = running[name][2:]
        print(
            f"| {name} | {precision} | {threads} | {sizes[name]:.1f} | {1e3 * statistics.median(values):.1f} | "
            f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) |"
        )
    if refused:
        print("\nNot run:\n" + "\n".join(f"- {line}" for line in refused))


if __name__ == "__main__":
    main()
