"""One scene, four decoders: plugin, fixed, onnx and plain NumPy find the same people. On as many scenes as you like.

A scene is an image's head tensors, made up from a seed; no network runs. Each mode's decoder is a graph of its own,
traced without the network in front of it, and decodes a batch of scenes in one run: ``fixed`` and ``onnx`` in ONNX
Runtime, ``plugin`` as the graph that the rewrite makes of ``fixed``, its node run by the kernel's host build. What
they are compared with is :func:`rtmo_deploy.runtime.decode.decode_raw` with a coordinate classifier in NumPy.

    python tests/convert/decode_scenes.py --scenes 10000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy_dcc import NumpyDcc, linear
from plugin_graph import PluginGraph, session
from plugin_host import select
from scene_maker import Scenes, fixed_rounds, make_scenes
from test_decode import Alone

from rtmo_deploy.artifact import DecodeContract, DecodeMode
from rtmo_deploy.convert import trace as tracing
from rtmo_deploy.convert.decode import FixedDecode, OnnxDecode
from rtmo_deploy.convert.plugins.rewrite import insert_plugin
from rtmo_deploy.runtime.decode import decode_boxes, decode_raw, grid_priors, sigmoid
from rtmo_deploy.zoo import skeleton_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx
    from numpy.typing import NDArray
    from torch import nn

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.poses import Poses

    Array = NDArray[np.float32]

#: How far two decoders may be apart by rounding; people further apart are different people.
BOUNDS = {"box px": 5e-4, "score": 1e-6, "keypoint px": 5e-3, "keypoint score": 1e-6}
#: Kinds of scene that all modes define; see ``scene_maker.make_scenes``.
KINDS = ("empty", "one", "few", "ties", "together", "crowd")
SIDES = (32, 64, 96, 128, 160)
LARGE_SIDES = (256, 320)
MOST_IN_A_BATCH = 16


@dataclass(frozen=True)
class Knobs:
    """A contract that all four decoders keep; see :class:`rtmo_deploy.convert.ExportOptions`."""

    score_thr: float = 0.1
    nms_thr: float = 0.65
    max_dets: int = 100
    pre_topk: int = 300
    rounds: int = 16


#: Few rows, so that a scene costs little: a fixed graph computes the keypoints of all of its rows.
SMALL = Knobs(max_dets=12, pre_topk=60)
#: Those of an export that is asked for nothing else.
USUAL = Knobs()


class Decoders:
    """All four decoders with the same thresholds.

    Args:
        model: Whose coordinate classifier and output layers they have.
        knobs: The contract.
    """

    def __init__(self, model: RTMO, knobs: Knobs) -> None:
        self.knobs, self._model = knobs, model
        self._channels = model.spec.pose_channels
        self.contract = DecodeContract(
            DecodeMode.RAW, knobs.score_thr, knobs.nms_thr, max_dets=knobs.max_dets, pre_topk=knobs.pre_topk
        )
        rounds = replace(self.contract, nms_rounds=knobs.rounds)
        fixed = self._graph(FixedDecode(model, rounds, pad=knobs.pre_topk), knobs.max_dets)
        self.fixed, self.plugin = session(fixed), PluginGraph(insert_plugin(fixed))
        # Every candidate enters its suppression, as in an export that is asked for nothing else; it is the one that
        # says what becomes of a score that is NaN.
        self.onnx_all = session(self._graph(OnnxDecode(model, replace(self.contract, pre_topk=None)), "people"))
        self.onnx = session(self._graph(OnnxDecode(model, self.contract), "people"))
        self._dcc = NumpyDcc(model.head.dcc)
        head = model.head.head_module
        self._dense = [[linear(conv) for conv in convs] for convs in (head.out_kpt_vis, head.out_pose)]

    def _graph(self, decode: nn.Module, rows: int | str) -> onnx.ModelProto:
        shapes: dict[str, tuple[int | str, ...]] = {
            "maps": ("batch", 5 + self._channels, "cells"),
            "images": ("batch", 3, "height", "width"),
            "dets": ("batch", rows, 5),
            "keypoints": ("batch", rows, self._model.spec.num_keypoints, 3),
        }
        inputs = (torch.zeros(3, 5 + self._channels, tracing.cells_of(96, 128)), torch.zeros(3, 3, 96, 128))
        traced = tracing._trace(Alone(decode, self._channels), inputs, ("maps", "images"), shapes, 17)
        return tracing._finish(traced, shapes)

    @cached_property
    def modes(self) -> dict[str, Any]:
        """Each graph as a function from feeds to ``dets`` and ``keypoints``."""
        return {
            "fixed": lambda feeds: self.fixed.run(None, feeds),
            "plugin": self.plugin.run,
            "onnx": lambda feeds: self.onnx.run(None, feeds),
            "onnx, all candidates": lambda feeds: self.onnx_all.run(None, feeds),
        }

    def numpy(self, scenes: Scenes) -> list[Poses]:
        """What plain NumPy finds."""
        stride = grid_priors(*scenes.hw)[:, 2:]
        fine = (stride == 16)[None]
        visibility, pose_vecs = (
            np.where(fine, *(scenes.feats @ weight.T + bias for weight, bias in levels)) for levels in self._dense
        )
        outputs = {
            "cls_scores": scenes.logits[:, :, None],
            "bbox_preds": scenes.raw_boxes(),
            "kpt_vis": visibility.astype(np.float32),
            "pose_vecs": pose_vecs.astype(np.float32),
        }
        skeleton = skeleton_for(self._model.spec.num_keypoints)
        return decode_raw(outputs, scenes.hw, self.contract, skeleton, self._dcc)

    def cells(self, scenes: Scenes) -> list[list[int]]:
        """Which cells' people plain NumPy keeps, best first."""
        priors = grid_priors(*scenes.hw)
        boxes = decode_boxes(scenes.raw_boxes(), priors)
        return [
            select(sigmoid(logits), corners, self.plugin.fields)
            for logits, corners in zip(scenes.logits, boxes, strict=True)
        ]


@dataclass
class Tally:
    """What a comparison found.

    Attributes:
        scenes: Scenes in which all modes that define it gave the same people as NumPy.
        people: People in them.
        kinds: Scenes of each kind.
        past_rounds: Scenes that the fixed suppression has too few rounds for; it may keep more there, and is only
            asked to lose nobody.
        withdrawn: Candidates that were taken out because rounding would have decided about them.
        worst: Largest difference to NumPy, by mode and by what.
        different: Scenes that differ, in words.
    """

    scenes: int = 0
    people: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    past_rounds: int = 0
    withdrawn: int = 0
    most: int = 0
    worst: dict[str, dict[str, float]] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)

    def add(self, mode: str, differences: dict[str, float]) -> None:
        """Note one scene of one mode."""
        known = self.worst.setdefault(mode, dict.fromkeys(BOUNDS, 0.0))
        for what, value in differences.items():
            known[what] = max(known[what], value)


def differences(dets: Array, keypoints: Array, expected: Poses) -> dict[str, float] | str:
    """Largest differences of one image's rows to the people who are expected in them; or why they are others."""
    count = len(expected)
    found = int((dets[:, 4] > 0).sum())
    if found != count or not (dets[:count, 4] > 0).all():
        return f"{found} people instead of {count}"
    if dets[count:].any() or keypoints[count:].any():
        return "rows that are nobody are not zero"
    pairs = {
        "box px": (dets[:count, :4], expected.boxes),
        "score": (dets[:count, 4], expected.scores),
        "keypoint px": (keypoints[:count, :, :2], expected.keypoints),
        "keypoint score": (keypoints[:count, :, 2], expected.keypoint_scores),
    }
    apart = {what: float(np.abs(one - two).max(initial=0)) for what, (one, two) in pairs.items()}
    for what, value in apart.items():
        if not value <= BOUNDS[what]:
            return f"{what} {value:g} apart"
    return apart


def lost(dets: Array, expected: Poses) -> int:
    """How many of the expected people are in no row."""
    rows = np.concatenate([expected.boxes, expected.scores[:, None]], axis=1)
    near = np.abs(dets[None] - rows[:, None]) <= [*[BOUNDS["box px"]] * 4, BOUNDS["score"]]
    return int((~near.all(axis=2).any(axis=1)).sum())


def compare(decoders: Decoders, scenes: Scenes, tally: Tally, name: str) -> None:
    """Run a batch of scenes through all four and note what comes out."""
    feeds = {"maps": scenes.maps(), "images": scenes.images()}
    expected, cells = decoders.numpy(scenes), decoders.cells(scenes)
    # A top-k needs an order, and there is none among scores that are NaN.
    usual = ("onnx, all candidates", "plugin") if scenes.has_nan else ("fixed", "plugin", "onnx")
    outputs = {mode: decoders.modes[mode](feeds) for mode in usual}
    rows = decoders.plugin.rows
    assert rows is not None
    for image, people in enumerate(expected):
        label = f"{name}, image {image} ({scenes.kinds[image]}, {scenes.hw[0]}x{scenes.hw[1]})"
        wrong = []
        if rows.people(image)[0] != cells[image]:
            wrong.append(f"plugin keeps cells {rows.people(image)[0]}, NumPy {cells[image]}")
        past = not scenes.has_nan and fixed_rounds(scenes, image, decoders.knobs) > decoders.knobs.rounds
        for mode, (dets, keypoints) in outputs.items():
            if past and mode == "fixed":
                gone = lost(dets[image], people) if len(people) < decoders.knobs.max_dets else 0
                wrong += [f"fixed, past its rounds, loses {gone} people"] * bool(gone)
                continue
            found = differences(dets[image], keypoints[image], people)
            if isinstance(found, str):
                wrong.append(f"{mode}: {found}")
            else:
                tally.add(mode, found)
                tally.compared[mode] += 1
        tally.different += [f"{label}: {'; '.join(wrong)}"] * bool(wrong)
        tally.scenes += not wrong
        tally.past_rounds += past
        tally.people += len(people)
        tally.most = max(tally.most, len(people))
        tally.kinds[scenes.kinds[image]] += 1
    tally.withdrawn += scenes.withdrawn


def batches(count: int, seed: int) -> Iterator[tuple[Knobs, tuple[int, int], list[str], int]]:
    """Knobs, input size, kinds of scene and seed of each batch, until there are ``count`` scenes that all modes define.

    One batch in 12 has the usual export's knobs and a larger input. One in 10 has scores that are NaN, and comes on
    top of the count.
    """
    rng = np.random.default_rng(seed)
    number, left = 0, count
    while left > 0:
        large, nan = number % 12 == 11, number % 10 == 9
        size = min(int(rng.integers(1, 4 if large else MOST_IN_A_BATCH + 1)), left)
        height, width = (int(side) for side in rng.choice(LARGE_SIDES if large else SIDES, 2))
        kinds = ["nan"] * size if nan else [str(kind) for kind in rng.choice(KINDS, size)]
        yield USUAL if large else SMALL, (height, width), kinds, seed * 1_000_000 + number
        number, left = number + 1, left - (0 if nan else size)


def run(
    model: RTMO,
    count: int,
    *,
    seed: int = 0,
    decoders: dict[Knobs, Decoders] | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Compare the decoders on ``count`` scenes that all modes define, and some that only three do.

    Args:
        model: Whose coordinate classifier and output layers the decoders have.
        count: Scenes.
        seed: Of the scenes.
        decoders: Those that were made already; new ones are added.
        progress: Told after each batch.
    """
    decoders = {} if decoders is None else decoders
    tally = Tally()
    for knobs, hw, kinds, number in batches(count, seed):
        if knobs not in decoders:
            decoders[knobs] = Decoders(model, knobs)
        scenes = make_scenes(hw, kinds, number, channels=model.spec.pose_channels, knobs=knobs)
        compare(decoders[knobs], scenes, tally, f"batch {number}")
        progress(tally)
    return tally


def report(tally: Tally) -> str:
    """Markdown."""
    total = tally.scenes + len(tally.different)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
    summary = (
        f"{total} scenes ({kinds}), {tally.people} people, at most {tally.most} in a scene; "
        f"{tally.withdrawn} candidates taken out because rounding would decide about them; "
        f"{tally.past_rounds} scenes past the rounds of the fixed suppression."
    )
    lines = [
        summary,
        f"The same people in {tally.scenes} of {total}.",
        "",
        f"| mode | scenes | {' | '.join(BOUNDS)} |",
        "|---|---|" + "---|" * len(BOUNDS),
        *(
            f"| {mode} | {tally.compared[mode]} | {' | '.join(f'{value:.2g}' for value in worst.values())} |"
            for mode, worst in tally.worst.items()
        ),
        f"| bound | | {' | '.join(f'{value:g}' for value in BOUNDS.values())} |",
    ]
    return "\n".join([*lines, *(f"DIFFERENT: {line}" for line in tally.different[:20])])


def main() -> int:
    """Compare, print a Markdown table; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from golden import golden_model

    from rtmo_deploy.model import NetworkSpec
    from rtmo_deploy.zoo import ARCHITECTURES

    torch.set_num_threads(1)
    model = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(-2, -1))
    started, processor = time.perf_counter(), time.process_time()

    def told(tally: Tally) -> None:
        seconds = time.process_time() - processor
        print(f"\r{tally.scenes} scenes, {len(tally.different)} differ, {seconds:.0f} s", end="", file=sys.stderr)

    tally = run(model, args.scenes, seed=args.seed, progress=told)
    print(file=sys.stderr)
    print(report(tally))
    print(f"\n{time.process_time() - processor:.0f} s of the processor, {time.perf_counter() - started:.0f} s in all.")
    return int(bool(tally.different))


if __name__ == "__main__":
    sys.exit(main())
