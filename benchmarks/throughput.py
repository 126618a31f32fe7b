"""What finding poses costs beside the network: folders, threads, pre- and post-processing, drawing; on the CPU.

Everything runs in one process and takes turns, round by round, and every second round backwards. What is reported is
the ratio of times within a round: the geometric mean of the rounds, and its 95 % interval (Student's t).

    python benchmarks/throughput.py
    python benchmarks/throughput.py rtmo-s.onnx --images 500 --rounds 3

Without a model, an untrained rtmo-s is exported for the purpose; it finds nobody, so give a trained one for the cost of
real detections.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy import RTMO
from rtmo_deploy.data.coco_writer import write_dataset
from rtmo_deploy.data.images import read_image
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.measure.bench.statistics import paired_ratio
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime import draw_poses
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    from collections.abc import Callable

#: People drawn on one image.
CROWD = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What finding poses costs beside the network, on the CPU.")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--images", type=int, default=100, help="images in the folder")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = RTMO(options.model or untrained(Path(folder)), device="cpu", backend=options.backend)
        people = SyntheticOptions(size=tuple(options.size), people=(1, 6))
        write_dataset(Path(folder) / "people", SyntheticPeople(options.images, seed=1, options=people), suffix=".jpg")
        files = sorted((Path(folder) / "people" / "images").iterdir())
        report(model, files, options.batch, options.rounds)


def report(model: RTMO, files: list[Path], batch: int, rounds: int) -> None:
    """Print the table."""
    images = [read_image(file) for file in files]
    size = model.artifact.input.batch or batch
    canvases = [model.place(image) for image in images]
    tensors = [model.tensor(canvases[at : at + size]) for at in range(0, len(canvases) - size + 1, size)]
    whole = len(tensors) * size
    single = [model.tensor([canvas]) for canvas in canvases] if model.artifact.input.batch in {None, 1} else []

    def network(inputs: list[np.ndarray]) -> None:
        for tensor in inputs:
            model.backend(tensor)

    def folder() -> None:
        found = sum(1 for _ in model.stream(files[:whole], batch=size))
        assert found == whole

    def threads() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(model, images[:whole]))

    work: dict[str, Callable[[], object]] = {
        "network": lambda: network(tensors),
        "folder": folder,
        "batches": lambda: model.predict(images[:whole], batch=size),
        "threads": threads,
        "one by one": lambda: [model(image) for image in images[:whole]],
        "network, one by one": lambda: network(single[:whole]),
    }
    if not single:
        del work["network, one by one"], work["one by one"]
    times: dict[str, list[float]] = {name: [] for name in work}
    for one in work.values():  # warm up
        one()
    for number in range(rounds):
        for name in list(work)[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            work[name]()
            times[name].append(time.perf_counter() - start)
    print(f"{model!r}: {whole} images, batch {size}, {rounds} rounds\n")
    print("| what | share (95 %) |\n|---|---|")
    print(f"| folder of JPEGs: throughput, of the network's | {paired_ratio(times['network'], times['folder'])} |")
    print(f"| four threads: throughput, of batches' | {paired_ratio(times['batches'], times['threads'])} |")
    if single:
        net = paired_ratio(times["network, one by one"], times["one by one"])
        print(f"| network's share of one image's time | {net} |")
    for height, width in ((480, 640), (1080, 1920)):
        print(f"| drawing at {width}x{height}, ms a person | {drawing(height, width):.2f} |")


def drawing(height: int, width: int) -> float:
    """Milliseconds a person, of a crowd drawn on one image: the median of 15."""
    sample = SyntheticPeople(1, seed=5, options=SyntheticOptions(size=(height, width), people=(CROWD, CROWD)))[0]
    people = sample.people
    scores = np.minimum(people.visible, 1)
    poses = Poses(people.boxes, np.ones(len(people), np.float32), people.keypoints, scores, COCO_17)
    taken = []
    for _ in range(15):
        start = time.perf_counter()
        draw_poses(sample.image, poses)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken)) / len(poses)


def untrained(folder: Path) -> Path:
    """An rtmo-s without training, exported."""
    from rtmo_deploy.convert import export_onnx
    from rtmo_deploy.model import initial_checkpoint, load_checkpoint
    from rtmo_deploy.zoo import architecture

    initial_checkpoint(folder / "rtmo-s.pth", architecture("s"), skeleton=COCO_17, seed=0)
    export_onnx(load_checkpoint(folder / "rtmo-s.pth"), folder / "rtmo-s.onnx", verify=False)
    return folder / "rtmo-s.onnx"


if __name__ == "__main__":
    main()
