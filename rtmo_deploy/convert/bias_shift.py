"""Shifts the classifier's logits, level by level, so that there are detections to compare whatever the weights are.

An untrained network detects nobody, and a trained one may do so on one level only. Before two forms of a model are
compared, the same numbers are added to the logits of each level on both sides: to where about half a dozen cells of the
level pass the threshold in an image, in the widest gap between two of them. So every level has detections, none is near
the threshold, and the layers that only detections pass through are compared of each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx

from rtmo_deploy.convert.graph import copy_of, rebuild
from rtmo_deploy.measure.verify import Run, structured_images
from rtmo_deploy.runtime.decode import open_coordinates
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

    Images = NDArray[np.float32]
    Execute = Callable[[Images], Mapping[str, NDArray[np.float32]]]

#: What is added to the logits of each level.
Shift = tuple[float, ...]

#: Batch, height, width that dynamic graphs are compared at.
SHAPES = ((1, 256, 256), (2, 192, 320))
#: Detections that each level should have in an image, so that overlap and order are tried.
WANTED_PER_LEVEL = 6
#: Names of the classifiers in a graph begin so; then comes the level's number.
_CLASSIFIER = "/head/out_cls."


def case_images(
    artifact: Artifact, shapes: Iterable[tuple[int, int, int]] = SHAPES, *, seed: int = 0
) -> list[NDArray[np.float32]]:
    """Images to compare at each batch, height and width that the model leaves open; none twice."""
    contract = artifact.input
    fixed = None if contract.dynamic_hw else (contract.height, contract.width)
    wanted = dict.fromkeys((contract.batch or b, *(fixed or (h, w))) for b, h, w in shapes)
    return [structured_images(*shape, seed=seed) for shape in wanted]


def executor(model: onnx.ModelProto, artifact: Artifact) -> Execute:
    """Runs a graph in ONNX Runtime, Q/DQ pairs as they stand: 8-bit kernels of some CPUs lose what does not fit."""
    session = open_session(model.SerializeToString(), where=artifact.path, config=EXACT)
    return lambda images: run_session(session, {"input": images}, where=artifact.path)


def decoded(execute: Execute, artifact: Artifact, companion: bytes | None) -> Callable[[Images], Run]:
    """Runs a graph and decodes what it puts out; ``companion`` is the content of a ``raw`` graph's second file."""
    coordinates = open_coordinates(companion, where=artifact.path) if companion else None
    return lambda images: Run.of(execute(images), (images.shape[2], images.shape[3]), artifact, coordinates)


def classifier_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolution that puts out the logits of each level, in the order of the levels; none in others' graphs."""
    found = [node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith(_CLASSIFIER)]
    return sorted(found, key=lambda node: int(node.name.removeprefix(_CLASSIFIER).partition("/")[0]))


def logit_threshold(artifact: Artifact) -> float:
    """What a logit must be above for its cell to be a detection."""
    score_thr = min(max(artifact.decode.score_thr, 1e-4), 1 - 1e-4)
    return math.log(score_thr / (1 - score_thr))


def level_shift(logits: Sequence[NDArray[np.floating]], images: int, threshold: float) -> tuple[float, float]:
    """What to add to a level's logits, and how far the nearest of them then stays from the threshold.

    ``logits`` are those of all cells of ``images`` images; above the threshold a cell is a detection.
    """
    pooled = np.sort(np.concatenate([part.astype(np.float32).ravel() for part in logits]))[::-1]
    wanted = min(WANTED_PER_LEVEL * images, max(len(pooled) - 2, 1))
    window = pooled[wanted // 2 : 2 * wanted + 1]
    gaps = window[:-1] - window[1:]
    if not len(gaps):
        return 0.0, 0.0
    place = int(gaps.argmax())
    return threshold - float((window[place] + window[place + 1]) / 2), float(gaps[place]) / 2


def choose_shift(model: onnx.ModelProto, images: Sequence[NDArray[np.float32]], artifact: Artifact) -> Shift:
    """What to add to the logits of each level, from what a graph makes of images; empty where it has no such nodes."""
    names = [node.output[0] for node in classifier_nodes(model)]
    if not names:
        return ()
    opened = copy_of(model)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runs = list(map(executor(opened, artifact), images))
    count, threshold = sum(map(len, images)), logit_threshold(artifact)
    return tuple(level_shift([run[name] for run in runs], count, threshold)[0] for name in names)


def shift_logits(model: onnx.ModelProto, shift: Shift) -> onnx.ModelProto:
    """A copy with a number added to the logits of each level, of the type that they have there."""
    copy = copy_of(model)
    types = {tensor.name: tensor.data_type for tensor in copy.graph.initializer}
    added = {node.name: own for node, own in zip(classifier_nodes(model), shift, strict=True)}
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name in added:
            # Weights that are computed are dequantised ones: float32.
            data_type = types.get(node.input[1], onnx.TensorProto.FLOAT)
            logits, own, constant = node.output[0], f"{node.output[0]}/unshifted", f"{node.name}/shift"
            node.output[0] = own
            copy.graph.initializer.append(onnx.helper.make_tensor(constant, data_type, (), [added[node.name]]))
            nodes.append(onnx.helper.make_node("Add", [own, constant], [logits], name=f"{node.name}/add_shift"))
    rebuild(copy.graph, nodes, copy.graph.initializer)
    del copy.graph.value_info[:]
    return copy
