"""Runtimes on an NVIDIA GPU: PyTorch (eager and compiled), ONNX Runtime's CUDA provider, and TensorRT engines.

Engines are built on the way, in FP32, FP16 and INT8, with the plain decoder and with the plugin, by the very command
that users have. What cannot be built or opened is named, with the reason, and left out. Measured are the network alone
as MMDeploy's profiler does it (``v100``), and the whole way from the image's file to the poses (``e2e``); each
contender in a process of its own, in turns, by ``rtmo-deploy bench``. Where there is no GPU, nothing is measured, and
the output says so.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sample_models import DEFAULT, export, load, quantise

from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.machine import read_gpus
from rtmo_deploy.measure.bench import BenchOptions, Protocol, run_bench
from rtmo_deploy.measure.bench.report import facts, milliseconds, ratio_cell

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench import BenchResult

#: Engines: what is asked for of build-trt, and of which model it is made.
ENGINES = (
    ("fp32", "fixed"),
    ("fp16", "fixed"),
    ("fp16", "plugin"),
    ("int8", "fixed"),
    ("int8", "plugin"),
)


def why_not() -> str | None:
    """Why nothing can be measured here; None if it can."""
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA GPU"
    if not read_gpus():
        return "the driver tells nothing of the GPU (pip install nvidia-ml-py)"
    return None


def build(model: Path, precision: str, decode: str, output: Path) -> str | None:
    """Build an engine; why it could not be built, or None."""
    command = [sys.executable, "-m", "rtmo_deploy", "build-trt", str(model), f"--{precision}"]
    done = subprocess.run(
        [*command, "--decode", decode, "-o", str(output)], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-300:]


def models(args: argparse.Namespace, folder: Path) -> tuple[list[Path], list[str]]:
    """The files of the contenders, and a line for each that could not be made."""
    from rtmo_deploy.convert import ExportOptions

    checkpoint = load(args.model)
    found = [checkpoint.path, export(checkpoint, folder / "network.onnx")]
    fixed = export(checkpoint, folder / "network.fixed.onnx", ExportOptions("fixed"))
    sources = {"int8": quantise(fixed, folder / "network.fixed.int8.onnx", args.calibration)}
    refused = []
    for precision, decode in ENGINES:
        output = folder / f"network.{decode}.{precision}.engine"
        reason = build(sources.get(precision, fixed), precision, decode, output)
        if reason is None:
            found.append(output)
        else:
            refused.append(f"{output.name}: {reason}")
    return found, refused


def usable(files: list[Path], device: str) -> tuple[list[Path], list[str]]:
    """Those of the files that run, and a line for each that does not."""
    found, refused = [], []
    for file in files:
        try:
            run_bench(BenchOptions((file,), device=device, seconds=0.1, warmup_s=0, rounds=1, no_reference=True))
        except RtmoDeployError as error:
            refused.append(f"{file.name}: {error.finding}")
        else:
            found.append(file)
    return found, refused


def table(result: BenchResult) -> str:
    """Markdown: a row for each contender."""
    lines = [f"| contender | ms (median) | p95 | time / {result.reference or '-'} (95 %) |", "|---|---|---|---|"]
    for entry in result.entries:
        ratio = "1" if entry.label == result.reference else ratio_cell(entry)
        times = (milliseconds(entry.total.p50), milliseconds(entry.total.p95))
        lines.append(f"| {' | '.join([entry.label, *times, ratio])} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, build, measure, print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, help="checkpoint: a file or a name [default: %(default)s]")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--calibration", type=int, default=64, help="synthetic images that INT8 is calibrated with")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, for each contender (e2e)")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"Not measured: {reason}.")
        return
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as name:
        made, refused = models(args, Path(name))
        files, more = usable(made, args.device)
        for protocol in (Protocol.V100, Protocol.E2E):
            result = run_bench(
                BenchOptions(
                    tuple(files),
                    device=args.device,
                    protocol=protocol,
                    seconds=args.seconds,
                    rounds=args.rounds,
                    compiled=True,
                ),
                progress=lambda text: print(text, file=sys.stderr),
            )
            print(f"\n{args.model}, {protocol.value}, {datetime.now(UTC):%Y-%m-%d}\n")
            print("\n".join(f"- {fact}: {text}" for fact, text in facts(result).items()))
            print(f"\n{table(result)}")
            for note in result.warnings:
                print(f"\nNote: {note}")
    if refused or more:
        print("\nNot run:\n" + "\n".join(f"- {line}" for line in [*refused, *more]))


if __name__ == "__main__":
    main()
