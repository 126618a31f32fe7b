"""Our ONNX graph against the one MMDeploy makes of the same weights, in ONNX Runtime on the CPU.

Each graph runs in a process of its own (ONNX Runtime's spinning threads slow down whoever runs next in the same
process), and the two are run in turn, round by round, so that slow changes of the machine hit both. Interference by
other processes is not measured here: run it on a quiet machine. What is reported is the ratio of the two within a
round: the geometric mean of the rounds, and its 95 % interval (Student's t, as ``rtmo-deploy bench`` has it). The
number of people is set by shifting the classifier's bias, by the same number in both graphs.

    python benchmarks/onnx_vs_mmdeploy.py
    python benchmarks/onnx_vs_mmdeploy.py ours.onnx mmdeploy.onnx --people 0 10 50

Without files, both are made of the embedded rtmo-n, theirs in MMDeploy's shape (``mmdeploy_shape.py`` says what that is
and is not).
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.measure import structured_images
from rtmo_deploy.measure.bench.statistics import paired_ratio

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SCORE_THR = 0.1


def shifted(path: Path, shift: float) -> bytes:
    """The model with ``shift`` added to the classifier's biases."""
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = 0
    for node in model.graph.node:
        if node.op_type == "Conv" and "out_cls" in node.name:
            bias = onnx.numpy_helper.to_array(weights[node.input[2]]) + np.float32(shift)
            model.graph.initializer.append(onnx.numpy_helper.from_array(bias, f"{node.name}.shifted"))
            node.input[2] = f"{node.name}.shifted"
            found += 1
    if found != 2:
        raise SystemExit(f"{path}: {found} classifier convolutions found instead of 2")
    return model.SerializeToString()


def people(session: Any, images: np.ndarray) -> int:
    """Rows above the score threshold, each once (MMDeploy's graph repeats one)."""
    rows = session.run(["dets"], {"input": images})[0][0]
    return len(np.unique(rows[rows[:, 4] > SCORE_THR], axis=0))


def open_session(model: bytes, threads: int) -> Any:
    """A CPU session with this many threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def worker(pipe: Connection, model: bytes, images: np.ndarray, threads: int) -> None:
    """Answer each number n with the seconds of n runs, None with the end."""
    session = open_session(model, threads)
    for _ in range(3):
        session.run(None, {"input": images})
    pipe.send(people(session, images))
    while (count := pipe.recv()) is not None:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            session.run(None, {"input": images})
            times.append(time.perf_counter() - started)
        pipe.send(times)


def find_shift(path: Path, images: np.ndarray, wanted: int, threads: int) -> float:
    """The shift at which the model finds ``wanted`` people in the image, or as near as it gets, by bisection."""
    if wanted == 0:
        return -100.0
    low, high, best = -20.0, 20.0, (10**9, 0.0)
    for _ in range(16):
        middle = (low + high) / 2
        found = people(open_session(shifted(path, middle), threads), images)
        best = min(best, (abs(found - wanted), middle))
        if found == wanted:
            break
        low, high = (middle, high) if found < wanted else (low, middle)
    return best[1]


def compare(args: argparse.Namespace, files: tuple[Path, Path], images: np.ndarray, wanted: int) -> str:
    """One row of the table."""
    shift = find_shift(files[0], images, wanted, args.threads)
    context = multiprocessing.get_context("spawn")
    ends, processes, found = [], [], []
    for path in files:
        end, other = context.Pipe()
        process = context.Process(target=worker, args=(other, shifted(path, shift), images, args.threads))
        process.start()
        found.append(end.recv())
        ends.append(end)
        processes.append(process)
    times: list[list[float]] = [[], []]
    for number in range(args.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which in order:
            ends[which].send(args.runs)
            times[which].append(statistics.median(ends[which].recv()))
    for end, process in zip(ends, processes, strict=True):
        end.send(None)
        process.join()
    ratio = paired_ratio(times[1], times[0])
    ours, theirs = (1e3 * statistics.median(values) for values in times)
    return f"| {wanted} | {found[0]} / {found[1]} | {ours:.1f} | {theirs:.1f} | {ratio} |"


def report(args: argparse.Namespace, files: tuple[Path, Path]) -> None:
    """Measure and print a Markdown table."""
    source = onnx.load(files[1]).graph.input[0].type.tensor_type.shape.dim
    height, width = source[2].dim_value, source[3].dim_value
    images = structured_images(1, height, width)
    import onnxruntime as ort

    print(f"{files[0].name} and {files[1].name}, {height}x{width}, batch 1, {args.threads} threads, ", end="")
    print(f"{args.rounds} rounds, onnxruntime {ort.__version__}, {platform.machine()}\n")
    print("| people | found ours / theirs | ours ms | MMDeploy ms | MMDeploy / ours (95 %) |")
    print("|---|---|---|---|---|")
    for wanted in args.people:
        print(compare(args, files, images, wanted), flush=True)


def main() -> None:
    """Parse, make what is not given, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path, nargs="?")
    parser.add_argument("mmdeploy", type=Path, nargs="?")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 10, 50])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="runs a round, of which the median counts")
    args = parser.parse_args()
    if args.mmdeploy is not None:
        report(args, (args.ours, args.mmdeploy))
        return
    if args.ours is not None:
        parser.error("name both files, or none")
    from sample_models import DEFAULT, export, export_mmdeploy_shape, load

    with tempfile.TemporaryDirectory(prefix="onnx-vs-mmdeploy-") as name:
        folder, checkpoint = Path(name), load(DEFAULT)
        ours = export(checkpoint, folder / f"{DEFAULT}.onnx")
        report(args, (ours, export_mmdeploy_shape(checkpoint, folder / f"{DEFAULT}.mmdeploy-shape.onnx")))


if __name__ == "__main__":
    main()
