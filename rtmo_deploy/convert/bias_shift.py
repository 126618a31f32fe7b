"""Shifts the classifier's logits, level by level, so that there are detections to compare whatever the weights are.

An untrained network detects nobody, and a trained one may do so on one level only. Before two forms of a model are
compared, the same numbers are added to the logits of each level on both sides: to where about half a dozen cells of the
level pass the threshold in an image, in the widest gap between two of them. So every level has detections, none is near
the threshold, and the layers that only detections pass through are compared of each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.runtime import onnxruntime_backend
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, run_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

#: What is added to the logits of each level.
Shift = tuple[float, ...]

#: People that each level should find in an image, so that overlap and order are tried.
WANTED_PER_LEVEL = 6
#: Names of the classifiers in a graph begin so; then comes the level's number.
_CLASSIFIER = "/head/out_cls."


def open_exact(content: bytes, *, where: object) -> Any:
    """A session that computes Q/DQ pairs as they stand: 8-bit kernels of some CPUs lose what does not fit."""
    return onnxruntime_backend.open_session(content, where=where, config=EXACT)


def case_shapes(artifact: Artifact, shapes: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Batch, height and width to compare at: those given, as far as the model leaves them open; none twice."""
    contract = artifact.input
    fixed = None if contract.dynamic_hw else (contract.height, contract.width)
    return list(dict.fromkeys((contract.batch or b, *(fixed or (h, w))) for b, h, w in shapes))


def classifier_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolution that puts out the logits of each level, in the order of the levels; none in others' graphs."""
    found = [node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith(_CLASSIFIER)]
    return sorted(found, key=lambda node: int(node.name.removeprefix(_CLASSIFIER).partition("/")[0]))


def logit_threshold(artifact: Artifact) -> float:
    """What a logit must be above for its cell to be somebody."""
    score_thr = min(max(artifact.decode.score_thr, 1e-4), 1 - 1e-4)
    return math.log(score_thr / (1 - score_thr))


def level_shift(logits: NDArray[np.float32], pictures: int, threshold: float) -> tuple[float, float]:
    """What to add to a level's logits, and how far the nearest of them then stays from the threshold.

    ``logits`` are those of all cells of ``pictures`` images; above the threshold a cell is a detection.
    """
    pooled = np.sort(np.asarray(logits, np.float32).ravel())[::-1]
    wanted = min(WANTED_PER_LEVEL * pictures, max(len(pooled) - 2, 1))
    window = pooled[wanted // 2 : 2 * wanted + 1]
    gaps = window[:-1] - window[1:]
    if not len(gaps):
        return 0.0, 0.0
    place = int(gaps.argmax())
    return threshold - float((window[place] + window[place + 1]) / 2), float(gaps[place]) / 2


def choose_shift(
    model: onnx.ModelProto,
    pictures: Sequence[NDArray[np.float32]],
    artifact: Artifact,
) -> Shift:
    """What to add to the logits of each level, from what a graph makes of images ``(B, 3, H, W)``.

    Empty where it has no such nodes.
    """
    names = [node.output[0] for node in classifier_nodes(model)]
    if not names:
        return ()
    opened = copy_of(model)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_exact(opened.SerializeToString(), where=artifact.path)
    runs = [run_session(session, {"input": images}, where=artifact.path) for images in pictures]
    count, threshold = sum(len(images) for images in pictures), logit_threshold(artifact)
    return tuple(
        level_shift(np.concatenate([run[name].astype(np.float32).ravel() for run in runs]), count, threshold)[0]
        for name in names
    )


def shift_biases(model: onnx.ModelProto, shift: Shift) -> onnx.ModelProto:
    """A copy with other biases of the classifiers, of the type that they have there."""
    copy = copy_of(model)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node, own in zip(classifier_nodes(copy), shift, strict=True):
        bias = weights[node.input[2]]
        old = onnx.numpy_helper.to_array(bias)
        new = (old.astype(np.float32) + np.float32(own)).astype(old.dtype)
        # Simplifiers share equal initializers; a bias of its own keeps the shift where it belongs.
        name = f"{node.name}.shifted_bias"
        copy.graph.initializer.append(onnx.helper.make_tensor(name, bias.data_type, new.shape, new.tobytes(), raw=True))
        node.input[2] = name
    return copy
