"""One training step of this package against MMPose's own, on the CPU with one thread.

Both start from the same weights and see the same images and people. A step is the network's forward pass with its
proxy branches, SimOTA and the losses, the backward pass, clipping and AdamW; the reference's goes through its own
``BottomupPoseEstimator.loss``, ``parse_losses`` and ``OptimWrapper.update_params``. Reading and augmenting images
and averaging weights are not part of it. Before anything is timed, the loss terms of both are compared.

Each side runs in a process of its own, and the two are run in turn, round by round, so that whatever else the machine
does hits both. What is reported is the ratio of the two medians, and the interval that holds 95 % of the ratios of
the medians of resampled rounds. This package's trainer takes denormal numbers for zero and keeps images and weights
in channels-last memory; the reference does neither, and ``--flush-denormal`` shows it with the former.

The reference needs an environment of its own, because MMCV asks for an older NumPy:

    python3 -m venv reference
    reference/bin/pip install 'torch>=2.6,<2.14' torchvision 'numpy<2' 'opencv-python-headless<5' 'setuptools<81' \
        addict yapf json_tricks munkres scipy pyyaml rich termcolor matplotlib platformdirs six
    reference/bin/pip install --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmpose==1.3.2 xtcocotools
    python benchmarks/training_vs_mmpose.py --reference-python reference/bin/python

Its head imports one function from MMDetection (the mean over processes) and its package some compiled operators of
MMCV that RTMO does not use; the worker puts empty modules in their place. Give both environments the same PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

#: Terms whose names differ only by the prefix in the reference.
TERMS = ("cls", "bbox", "oks", "vis", "mle", "bbox_aux")
NETWORKS = {"rtmo-n": (0.33, 0.125, 64), "rtmo-t": (0.33, 0.375, 256), "rtmo-s": (0.33, 0.5, 256)}
LR, WEIGHT_DECAY, CLIP = 1e-5, 0.05, 0.1
STEPS_BEFORE = 2


@dataclass(frozen=True)
class Case:
    """What a step is made of.

    Attributes:
        model: Name of a network.
        side: Height and width of the images.
        people: People in each image.
        batch: Images.
        second: The loss of the second stage.
        keypoints: 17, or 14 for CrowdPose's.
        keypoint_center: Where a person's centre is; see the recipes.
        special: ``ignore``: a mask of people not to be learned; ``bare``: one person in three without a labelled
            keypoint; ``empty``: as ``ignore``, and one image without people. Used by ``--check`` only.
    """

    model: str
    side: int
    people: int
    batch: int = 4
    second: bool = False
    keypoints: int = 17
    keypoint_center: bool = True
    special: str = ""

    def __str__(self) -> str:
        parts = [f"{self.model} {self.side}x{self.side}", f"batch {self.batch}", f"{self.people} people"]
        parts += ["second stage"] if self.second else []
        parts += [f"{self.keypoints} keypoints"] if self.keypoints != 17 else []
        parts += ["box centre"] if not self.keypoint_center else []
        return ", ".join([*parts, self.special] if self.special else parts)


CASES = (
    Case("rtmo-n", 256, 3),
    Case("rtmo-n", 256, 10),
    Case("rtmo-t", 416, 3),
    Case("rtmo-t", 416, 10),
    Case("rtmo-s", 320, 3),
    Case("rtmo-s", 320, 10),
    Case("rtmo-s", 320, 10, second=True),
)
CHECKS = (
    Case("rtmo-s", 320, 4),
    Case("rtmo-s", 320, 4, second=True),
    Case("rtmo-s", 320, 4, keypoint_center=False),
    Case("rtmo-s", 320, 4, keypoints=14, keypoint_center=False, second=True),
    Case("rtmo-s", 320, 4, special="bare"),
    Case("rtmo-s", 320, 4, special="bare", second=True),
    Case("rtmo-s", 320, 4, special="ignore"),
    Case("rtmo-s", 320, 4, special="empty"),
    Case("rtmo-n", 256, 4),
)


def batch_of(case: Case) -> dict[str, np.ndarray]:
    """Images and people, always the same for a case."""
    rng = np.random.default_rng(case.people)
    shape = (case.batch, case.people)
    size = rng.uniform(0.2, 0.6, (*shape, 2)) * case.side
    low = rng.uniform(0, 1, (*shape, 2)) * (case.side - size)
    boxes = np.concatenate([low, low + size], axis=-1)
    within = rng.uniform(0.05, 0.95, (*shape, case.keypoints, 2))
    visible = (rng.uniform(size=(*shape, case.keypoints)) < 0.8).astype(np.float32)
    if case.special == "bare":
        visible[:, ::3] = 0
    present = np.ones(shape, bool)
    ignore = np.zeros((case.batch, case.side, case.side), bool)
    if case.special in ("ignore", "empty"):
        ignore[:, case.side // 5 : case.side // 2, case.side // 4 : case.side // 2] = True
        ignore[-1] = case.special == "empty"
    if case.special == "empty":
        present[-1] = False
    images = rng.integers(0, 256, (case.batch, 3, case.side, case.side), np.uint8)
    values = {
        "images": images.astype(np.float32),
        "boxes": boxes.astype(np.float32),
        "keypoints": (low[:, :, None] + within * size[:, :, None]).astype(np.float32),
        "visible": visible,
        "areas": (size.prod(axis=-1) * 0.53).astype(np.float32),
        "present": present,
    }
    return values | ({"ignore": ignore} if ignore.any() else {})


def weights_of(case: Case, path: Path) -> None:
    """Seeded weights for a case, with a classifier and norms that are not all alike."""
    import torch

    from rtmo_deploy.model import RTMO, NetworkSpec
    from rtmo_deploy.model.rtmo import initialise

    deepen, widen, hidden = NETWORKS[case.model]
    model = RTMO(NetworkSpec(deepen, widen, case.keypoints, hidden))
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        and value.dim() <= 1
        and "running" not in key
        and "bins" not in key
        and not key.endswith(("sigmas", "dim_t"))
        else value
        for key, value in model.state_dict().items()
    }
    # Boxes and poses larger than those of new weights, a classifier that doubts and smooth heatmaps: each term then has
    # something to measure, and no rounding is made larger than it is.
    for level in (0, 1):
        state[f"head.head_module.out_bbox.{level}.bias"] += torch.tensor([0.0, 0.0, 1.5, 1.5])
        state[f"head.head_module.out_kpt_reg.{level}.bias"] *= 10
        state[f"head.head_module.out_cls.{level}.bias"] += 4
    for axis in "xy":
        state[f"head.dcc.{axis}_fc.weight"] *= 0.1
    torch.save(state, path)


def our_side(
    case: Case, data: dict[str, Any], weights: Path
) -> tuple[Callable[[], dict[str, Any]], Callable[[], None]]:
    """This package's loss terms, and its step."""
    import torch
    from torch import nn

    from rtmo_deploy.model import RTMO, NetworkSpec
    from rtmo_deploy.train.assign import Targets
    from rtmo_deploy.train.criterion import loss_terms
    from rtmo_deploy.train.optimize import build_optimizer
    from rtmo_deploy.train.recipe import Recipe
    from rtmo_deploy.train.sections import LossSection

    torch.set_flush_denormal(True)
    deepen, widen, hidden = NETWORKS[case.model]
    model = RTMO(NetworkSpec(deepen, widen, case.keypoints, hidden)).train()
    model.load_state_dict(torch.load(weights))
    model = model.to(memory_format=torch.channels_last)
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "model": {"deepen": deepen, "widen": widen, "hidden_dim": hidden},
            "data": {"train": [{"type": "synthetic", "images": 256}]},
            "optimizer": {"lr": LR, "weight_decay": WEIGHT_DECAY, "clip": CLIP},
        }
    )
    optimizer = build_optimizer(model, recipe, torch.device("cpu"))
    second = {"mle": 5.0, "oks": 10.0, "cls": 2.0, "overlaps_power": 1.0}
    options = LossSection(keypoint_center=case.keypoint_center, **(second if case.second else {}))
    images = data.pop("images").contiguous(memory_format=torch.channels_last)
    targets = Targets(**data)

    def losses() -> dict[str, torch.Tensor]:
        return loss_terms(model.head, model(images, proxy=True), targets, options, second_stage=case.second)[0]

    def terms() -> dict[str, Any]:
        found = {name: float(value) for name, value in losses().items()}
        return {**found, "total": sum(found.values())}

    def step() -> None:
        torch.stack(list(losses().values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return terms, step


def reference_model(case: Case, weights: Path) -> Any:
    """The reference's network, from its config of rtmo-s with this network's numbers."""
    import types

    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    utils, ops = types.ModuleType("mmdet.utils"), types.ModuleType("mmcv.ops")
    utils.ConfigType, utils.reduce_mean = object, lambda tensor: tensor  # type: ignore[attr-defined]
    ops.MultiScaleDeformableAttention = type("Absent", (torch.nn.Module,), {})  # type: ignore[attr-defined]
    sys.modules |= {"mmdet": types.ModuleType("mmdet"), "mmdet.utils": utils, "mmcv.ops": ops}
    import mmpose.models
    from mmpose.registry import MODELS

    init_default_scope("mmpose")
    folder = Path(mmpose.__file__).parent / ".mim/configs/body_2d_keypoint/rtmo"
    name = "coco/rtmo-s_8xb32-600e_coco-640x640.py"
    if case.keypoints == 14:
        name = "crowdpose/rtmo-s_8xb32-700e_crowdpose-640x640.py"
    config = Config.fromfile(folder / name).model
    deepen, widen, hidden = NETWORKS[case.model]
    backbone, neck, head = config.backbone, config.neck, config.head
    backbone.update(deepen_factor=deepen, widen_factor=widen, init_cfg=None)
    neck.update(
        in_channels=[int(channels * widen) for channels in (256, 512, 1024)],
        deepen_factor=deepen,
        widen_factor=widen,
        hidden_dim=hidden,
    )
    neck.encoder_cfg.self_attn_cfg.update(embed_dims=hidden, num_heads=hidden // 32)
    neck.encoder_cfg.ffn_cfg.update(embed_dims=hidden, feedforward_channels=4 * hidden)
    channels = 2 * int(256 * widen)
    neck.projector.update(in_channels=[hidden, hidden], out_channels=channels)
    head.head_module_cfg.update(widen_factor=widen, pose_vec_channels=channels)
    head.dcc_cfg.in_channels = channels
    head.assigner.use_keypoints_for_center = case.keypoint_center
    head.use_aux_loss, head.loss_mle.loss_weight = True, 1.0
    config.data_preprocessor.pop("batch_augments")
    model = MODELS.build(config).train()
    if case.second:
        model.head.proxy_target_cc, model.head.overlaps_power = True, 1.0
        model.head.loss_mle.loss_weight, model.head.loss_oks.loss_weight = 5.0, 10.0
        model.head.loss_cls.loss_weight = 2.0
    model.load_state_dict(torch.load(weights))
    return model


def reference_side(
    case: Case, data: dict[str, Any], weights: Path, *, flush: bool
) -> tuple[Callable[[], dict[str, Any]], Callable[[], None]]:
    """The reference's loss terms, and its step."""
    import logging

    import torch

    logging.disable(logging.WARNING)
    torch.set_flush_denormal(flush)
    model = reference_model(case, weights)
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import InstanceData, PixelData
    from mmpose.structures import PoseDataSample

    wrapper = build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "constructor": "ForceDefaultOptimWrapperConstructor",
            "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WEIGHT_DECAY},
            "paramwise_cfg": {
                "norm_decay_mult": 0,
                "bias_decay_mult": 0,
                "bypass_duplicate": True,
                "force_default_settings": True,
                "custom_keys": {"neck.encoder": {"lr_mult": 0.05}},
            },
            "clip_grad": {"max_norm": CLIP, "norm_type": 2},
        },
    )
    samples = []
    for number, here in enumerate(data["present"]):
        sample = PoseDataSample(metainfo={"input_size": (case.side, case.side)})
        visible = data["visible"][number][here]
        sample.gt_instance_labels = InstanceData(
            bboxes=data["boxes"][number][here],
            keypoints=data["keypoints"][number][here],
            keypoints_visible=visible,
            keypoints_visible_weights=torch.ones_like(visible),
            areas=data["areas"][number][here],
            labels=torch.zeros(len(visible), dtype=torch.int64),
        )
        if "ignore" in data:
            sample.gt_fields = PixelData(heatmap_mask=data["ignore"][number][None].float())
        samples.append(sample)
    images = data["images"]

    def terms() -> dict[str, Any]:
        losses = model.loss(images, samples)
        found = {name: float(losses[f"loss_{name}"].mean()) for name in TERMS if f"loss_{name}" in losses}
        return {**found, "total": float(model.parse_losses(losses)[0].detach())}

    def step() -> None:
        total, _ = model.parse_losses(model.loss(images, samples))
        wrapper.update_params(total)

    return terms, step


def worker(arguments: dict[str, Any]) -> None:
    """Read a count a line and answer with the seconds of so many steps; the first answer is the loss terms."""
    import torch

    torch.set_num_threads(1)
    case = Case(**arguments["case"])
    folder = Path(arguments["folder"])
    data = {name: torch.from_numpy(values) for name, values in np.load(folder / "batch.npz").items()}
    weights = folder / "weights.pth"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    if arguments["side"] == "ours":
        terms, step = our_side(case, data, weights)
    else:
        terms, step = reference_side(case, data, weights, flush=arguments["flush"])
    answers.write(json.dumps({"terms": terms(), "torch": torch.__version__}) + "\n")
    answers.flush()
    clock = time.process_time if arguments["cpu_time"] else time.perf_counter
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            started = clock()
            step()
            times.append(clock() - started)
        answers.write(json.dumps(times) + "\n")
        answers.flush()


class Side:
    """A worker process, and the seconds of its steps."""

    def __init__(self, python: str, arguments: dict[str, Any]) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, "-W", "ignore", __file__, "--worker", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | threads,
            text=True,
        )
        self.first = self._answer()
        self.rounds: list[float] = []

    def _answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"The worker ended with status {self.process.wait()}; its message is above.")
        return json.loads(line)

    def run(self, steps: int) -> float:
        """Median of this many steps."""
        if self.process.stdin:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return statistics.median(self._answer())

    def close(self) -> None:
        """End the process."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()


def compare(case: Case, args: argparse.Namespace, *, timed: bool) -> dict[str, Any]:
    """Loss terms of both sides and, if asked for, their times."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "batch.npz"), **batch_of(case))
        weights_of(case, Path(folder, "weights.pth"))
        base = {"case": asdict(case), "folder": folder, "flush": args.flush_denormal, "cpu_time": args.cpu_time}
        ours = Side(sys.executable, base | {"side": "ours"})
        theirs = Side(args.reference_python, base | {"side": "reference"})
        both = (ours, theirs)
        row: dict[str, Any] = {
            "case": str(case),
            "ours": ours.first["terms"],
            "reference": theirs.first["terms"],
            "torch": [side.first["torch"] for side in both],
        }
        names = sorted(row["ours"].keys() | row["reference"].keys())
        row["differences"] = {
            name: abs(row["ours"].get(name, 0.0) - row["reference"].get(name, 0.0))
            / max(abs(row["reference"].get(name, 0.0)), 1e-12)
            for name in names
        }
        if timed:
            for side in both:
                side.run(STEPS_BEFORE)
            for number in range(args.rounds):
                for side in both if number % 2 == 0 else both[::-1]:
                    side.rounds.append(side.run(args.steps))
            row |= summary(ours.rounds, theirs.rounds)
        for side in both:
            side.close()
    return row


def summary(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Medians, their ratio and its 95 % interval; rounds are resampled in pairs."""
    rounds = np.array([ours, theirs])
    picked = np.random.default_rng(0).integers(0, rounds.shape[1], (2000, rounds.shape[1]))
    medians = np.median(rounds[:, picked], axis=2)
    low, high = np.quantile(medians[1] / medians[0], (0.025, 0.975))
    middle = np.median(rounds, axis=1)
    return {
        "ours_s": float(middle[0]),
        "reference_s": float(middle[1]),
        "ratio": float(middle[1] / middle[0]),
        "interval": [float(low), float(high)],
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Times, as Markdown."""
    print("| step | ours ms | MMPose ms | MMPose / ours (95 %) | largest difference of a loss term |")
    print("|---|---|---|---|---|")
    for row in rows:
        name = max(row["differences"], key=row["differences"].get)
        low, high = row["interval"]
        print(
            f"| {row['case']} | {1e3 * row['ours_s']:.0f} | {1e3 * row['reference_s']:.0f} | "
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['differences'][name]:.1e} ({name}) |"
        )


def print_check(rows: list[dict[str, Any]]) -> None:
    """Loss terms, as Markdown."""
    names = (*TERMS, "total")
    print("Relative difference of each loss term between this package and MMPose\n")
    print("| batch | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for row in rows:
        cells = [f"{row['differences'][name]:.1e}" if name in row["differences"] else "-" for name in names]
        print(f"| {row['case']} | " + " | ".join(cells) + " |")


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", metavar="PATH", help="Python of the reference's environment")
    parser.add_argument("--rounds", type=int, default=10, help="times that each side is run, in turn")
    parser.add_argument("--steps", type=int, default=3, help="steps a round, of which the median counts")
    parser.add_argument("--only", default="", help="only the cases with this in their description")
    parser.add_argument("--check", action="store_true", help="compare the loss terms of more batches; no times")
    parser.add_argument("--flush-denormal", action="store_true", help="denormal numbers are zero for the reference too")
    parser.add_argument("--cpu-time", action="store_true", help="the processor's seconds, for a machine that is busy")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(json.loads(args.worker))
        return
    if not args.reference_python:
        parser.error("--reference-python is needed; the text above says how to make its environment")
    before = os.getloadavg()[0]
    cases = [case for case in (CHECKS if args.check else CASES) if args.only in str(case)]
    rows = [compare(case, args, timed=not args.check) for case in cases]
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    if args.json:
        print(
            json.dumps(
                {"schema_version": 1, "load": load, "cpu_time": args.cpu_time, "rounds": args.rounds, "rows": rows},
                indent=2,
            )
        )
        return
    versions = " and ".join(sorted({version for row in rows for version in row["torch"]}))
    print(
        f"PyTorch {versions}, 1 thread, {args.rounds} rounds of {args.steps} steps, "
        f"{'processor' if args.cpu_time else 'wall clock'} time, load {load[0]} to {load[1]}\n"
    )
    (print_check if args.check else print_table)(rows)


if __name__ == "__main__":
    main()
