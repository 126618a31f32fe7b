"""What each part of a network costs when it alone computes in FP16 or BF16: the measurement behind the FP32 blocks.

For each group of nodes, only that group is cast; the graph is run with its rounding emulated, and the people it finds
are compared with those of the float32 graph on the same images. Prints a Markdown table.

    python benchmarks/precision_sensitivity.py
    python benchmarks/precision_sensitivity.py model.onnx --images folder --limit 32

Without a model, one is made of the embedded rtmo-n; without images, synthetic ones are used.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.convert.precision.graph import CastGraph, to_16bit
from rtmo_deploy.convert.precision.rules import CAST_TYPES, fp32_block_of
from rtmo_deploy.convert.precision.verify import emulated
from rtmo_deploy.data.images import find_images, read_image
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.measure import Figures, compare_people
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.poses import Poses

DCC = "/decode/people/dcc/"
#: Of the synthetic images; apart from those that the embedded model is trained, calibrated and judged with.
SEED = 5000
#: Never: these take or make no half.
NEVER = {"Range", "NonMaxSuppression", "ConstantOfShape"}


@dataclass(frozen=True)
class Group:
    """Nodes that are cast together: by the beginnings of their names, or by their names."""

    name: str
    scopes: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether a node belongs to it."""
        if node.op_type in NEVER or (self.operators and node.op_type not in self.operators):
            return False
        if node.name in self.nodes:
            return True
        return node.name.startswith(self.scopes) and not (self.but and node.name.startswith(self.but))


def _dcc(*names: str) -> tuple[str, ...]:
    return tuple(DCC + name for name in names)


GROUPS = (
    Group("backbone stem", ("/backbone/stem/",)),
    *(Group(f"backbone stage {i}", (f"/backbone/stage{i}/",)) for i in (1, 2, 3, 4)),
    Group("neck: input projections", ("/neck/input_proj",)),
    Group("neck: encoder, without position encoding", ("/neck/encoder/",), but=("/neck/encoder/pos_enc/",)),
    Group("neck: attention logits and softmax", nodes=("/neck/encoder/MatMul_1", "/neck/encoder/Softmax")),
    Group("neck: encoder's norms", ("/neck/encoder/norms",)),
    Group("grid and position encoding", ("/neck/encoder/pos_enc/", "/grid/")),
    Group("neck: merging passes", ("/neck/",), but=("/neck/encoder/", "/neck/input_proj", "/neck/projector/")),
    Group("neck: projector", ("/neck/projector/",)),
    Group("head: class branch", ("/head/conv_cls",)),
    Group("head: pose branch", ("/head/conv_pose",)),
    Group("head: class scores", ("/head/out_cls",)),
    Group("head: box prediction", ("/head/out_bbox",)),
    Group("head: joined maps", ("/head/Concat", "/head/Reshape")),
    Group("head: dense outputs (raw)", ("/head/out_dense",)),
    Group("decode: score sigmoid", nodes=("/decode/Sigmoid",)),
    Group("decode: priors and centres", ("/decode/priors/",), nodes=("/decode/Add",)),
    Group("decode: sizes (exp)", nodes=("/decode/Exp",)),
    Group("decode: all but people", ("/decode/",), but=("/decode/people/",)),
    Group(
        "people: visibility and pose vector", ("/decode/people/out.", "/decode/people/Where", "/decode/people/Split")
    ),
    Group("people: boxes' corners", nodes=tuple(f"/decode/people/{o}" for o in ("MatMul", "Relu", "Min"))),
    Group("DCC: keypoint features", (DCC + "to_keypoints/",)),
    Group("DCC: norm", nodes=_dcc("ReduceL2", "Clip", "Div")),
    Group("DCC: gates", nodes=_dcc("MatMul", "Sigmoid", "Mul", "Split")),
    Group(
        "DCC: attention",
        nodes=_dcc("Mul_1", "Mul_2", "Add", "Add_1", "Transpose", "MatMul_1", "Relu", "Mul_4", "MatMul_2", "Mul_5"),
    ),
    Group("DCC: output and residual", nodes=_dcc("MatMul_3", "Mul_3", "Add_2")),
    Group("DCC: coefficients", nodes=_dcc("MatMul_4", "Reshape_1", "Transpose_1", "Split_1")),
    Group("DCC: angles", nodes=_dcc("Mul_6", "Mul_7")),
    Group("DCC: sine and cosine", (DCC,), operators=("Sin", "Cos")),
    Group(
        "DCC: turning and logits",
        nodes=_dcc(
            *("Mul_8", "Mul_9", "Mul_10", "Mul_11", "Add_3", "Sub", "MatMul_5", "MatMul_6", "Add_4", "Sub_1", "Concat")
        ),
    ),
    Group("DCC: mask and softmax", nodes=_dcc("Add_5", "Softmax")),
    Group("DCC: expectation", nodes=_dcc("Mul_12", "ReduceSum")),
    Group("DCC: place in the image", nodes=_dcc("Mul_13", "Add_6")),
    Group("everything", ("/",)),
)


class Pictures:
    """Letterboxed images, and what a graph finds in them."""

    def __init__(self, artifact: Artifact, tensors: list[np.ndarray], threads: int) -> None:
        self.artifact, self.tensors, self.threads = artifact, tensors, threads
        self.hw = (tensors[0].shape[2], tensors[0].shape[3])

    def people(self, model: onnx.ModelProto) -> list[Poses]:
        """One entry an image."""
        session = open_session(model.SerializeToString(), threads=self.threads, where=self.artifact.path)
        return [
            poses
            for images in self.tensors
            for poses in outputs_to_poses(
                run_session(session, {"input": images}, where=self.artifact.path), self.hw, self.artifact
            )
        ]


def row(name: str, made: CastGraph, d: Figures) -> str:
    """One line of the table."""
    values = (d.keypoint_px_mean or 0.0, d.keypoint_px_max or 0.0, d.coordinate_px_mean or 0.0, d.box_px_max or 0.0)
    cells = [name, str(made.half_nodes), str(d.unmatched), *(f"{value:.4f}" for value in values)]
    cells += [f"{d.score_max:.5f}", f"{d.keypoint_score_max:.5f}"]
    note = f" (not {len(made.kept)}: out of range)" if made.kept else ""
    return f"| {' | '.join([cells[0] + note, *cells[1:]])} |"


def pixels(images: Path | None, limit: int) -> list[np.ndarray]:
    """So many images of a folder, spread over it, or drawn ones."""
    if images is None:
        people = SyntheticPeople(limit, seed=SEED, options=SyntheticOptions(people=(1, 6)))
        return [people[index].image for index in range(limit)]
    files = find_images([images])
    return [read_image(path) for path in files[:: max(len(files) // limit, 1)][:limit]]


def report(args: argparse.Namespace) -> None:
    """Compare and print a Markdown table."""
    half = CAST_TYPES[args.precision]
    model = load_onnx(args.model)
    artifact = onnx_artifact(args.model, model)
    if "dets" not in {value.name for value in model.graph.output}:
        raise SystemExit("The model puts out head tensors; export it with --decode onnx or fixed.")
    hw = tuple(args.imgsz or (artifact.input.height, artifact.input.width))
    placement = Placement(artifact.input.placement)
    size = artifact.input.batch or 8
    canvases = [letterbox(picture, hw, placement)[0] for picture in pixels(args.images, args.limit)]
    batches = [to_tensor(canvases[i : i + size]) for i in range(0, len(canvases), size)]
    if artifact.input.batch:
        batches = [batch for batch in batches if len(batch) == size]
    if not batches:
        raise SystemExit(f"The model takes {size} images at a time.")
    pictures = Pictures(artifact, batches, args.threads)
    expected = pictures.people(model)
    people = sum(len(one) for one in expected)
    if not people:
        raise SystemExit("The model finds nobody in these images.")
    used = sum(len(batch) for batch in batches)
    print(
        f"{args.model.name} ({artifact.architecture}), {half.name}, {used} images of {hw[0]}x{hw[1]}, {people} people"
    )
    print()
    print("| in FP16 | nodes | unmatched | keypoint px, mean | worst | box px, mean | worst | score | keypoint score |")
    print("|---|---|---|---|---|---|---|---|---|")
    for group in GROUPS if args.part is None else [group for group in GROUPS if group.name in args.part]:
        made = to_16bit(model, half, group.holds)
        if made.half_nodes:
            found = pictures.people(emulated(made.model, half, peaks=False))
            print(row(group.name, made, compare_people(expected, found, input_hw=pictures.hw)), flush=True)
    made = to_16bit(model, half, lambda node: fp32_block_of(node) is None)
    model = emulated(made.model, half, peaks=False)
    if args.emulated:
        args.emulated.write_bytes(model.SerializeToString())
    found = pictures.people(model)
    print(row(f"**`cast --{half.name}`**", made, compare_people(expected, found, input_hw=pictures.hw)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="float32 ONNX model with people as outputs (decode onnx or fixed) [default: of the embedded rtmo-n]",
    )
    parser.add_argument("--images", type=Path, help="folder of images with people in them [default: drawn]")
    parser.add_argument("--limit", type=int, default=32, help="use this many images, spread over the folder")
    parser.add_argument("--imgsz", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    parser.add_argument("--precision", choices=sorted(CAST_TYPES), default="fp16")
    parser.add_argument("--part", action="append", choices=[group.name for group in GROUPS], help="only this part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--emulated", type=Path, help="also write the emulated cast graph here, for rtmo-deploy eval")
    args = parser.parse_args()
    if args.model is not None:
        report(args)
        return
    from sample_models import DEFAULT, export, load

    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        args.model = export(load(DEFAULT), Path(folder) / f"{DEFAULT}.onnx")
        report(args)


if __name__ == "__main__":
    main()
