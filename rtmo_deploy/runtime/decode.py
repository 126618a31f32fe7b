"""Network outputs to people, in plain NumPy.

For graphs that decode inside this only takes the rows apart. For ``raw`` graphs it is the decoder; written for
clarity, it is also what the graphs' own decoders are tested against.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.artifact import DecodeMode, read_companion
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.rows import clipped, greedy_nms, kept_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.letterbox import LetterboxTransform

    Array = NDArray[np.float32]
    #: Pose vectors (n, V), boxes (n, 4) x1, y1, x2, y2 unclipped and cell centres (n, 2) to keypoints (n, K, 2).
    Coordinates = Callable[[Array, Array, Array], Array]

STRIDES = (16, 32)


def sigmoid(x: Array) -> Array:
    """Logistic function, without overflow."""
    positive = x >= 0
    z = np.exp(np.where(positive, -x, x))
    return np.where(positive, 1 / (1 + z), z / (1 + z)).astype(np.float32)


def grid_priors(height: int, width: int) -> Array:
    """Cells of an input of ``height`` x ``width`` pixels: ``(P, 3)`` centre x, y and stride.

    Stride 16 first, then 32, each row by row; a centre is ``i * stride + (stride - 1) / 2``.
    """
    levels = []
    for stride in STRIDES:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        cells = np.stack([x.ravel(), y.ravel()], axis=-1) * stride + (stride - 1) / 2
        levels.append(np.concatenate([cells, np.full((len(cells), 1), stride)], axis=-1))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(bbox_preds: Array, priors: Array) -> Array:
    """Raw predictions ``(..., P, 4)`` and priors ``(P, 3)`` to x1, y1, x2, y2 in input pixels, unclipped."""
    stride = priors[:, 2:]
    centre = bbox_preds[..., :2] * stride + priors[:, :2]
    with np.errstate(over="ignore"):
        half = np.exp(bbox_preds[..., 2:]) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


def outputs_to_poses(
    outputs: Mapping[str, Array],
    input_hw: tuple[int, int],
    artifact: Artifact,
    coordinates: Coordinates | None = None,
) -> list[Poses]:
    """A backend's outputs to detections in network-input pixels, one entry an image.

    ``coordinates`` is the classifier that a ``raw`` graph leaves to the host.
    """
    skeleton = artifact.skeleton
    if "dets" not in outputs or "keypoints" not in outputs:
        if coordinates is None:
            raise ArtifactError(
                "It is a raw graph, and nothing was given to turn its pose vectors into keypoints.",
                remedy="Export it with --decode onnx or fixed.",
                where=artifact.path,
            )
        return decode_raw(outputs, input_hw, artifact.decode, skeleton, coordinates)
    dets, keypoints = outputs["dets"], outputs["keypoints"]
    if dets.ndim != 3 or dets.shape[2] != 5 or keypoints.shape != (*dets.shape[:2], len(skeleton), 3):
        raise ArtifactError(
            f"Its graph puts out dets {list(dets.shape)} and keypoints {list(keypoints.shape)}, and by its metadata "
            f"it has {len(skeleton)} keypoints.",
            remedy="Export the model again.",
            where=artifact.path,
        )
    return rows_to_poses(dets, keypoints, input_hw, artifact.decode, skeleton)


def decode_raw(
    outputs: Mapping[str, Array],
    input_hw: tuple[int, int],
    contract: DecodeContract,
    skeleton: Skeleton,
    coordinates: Coordinates,
) -> list[Poses]:
    """Head tensors of a ``raw`` graph to people, as the reference's ``predict`` does it.

    Args:
        outputs: ``cls_scores`` (B, P, 1), ``bbox_preds`` (B, P, 4), ``kpt_vis`` (B, P, K), ``pose_vecs`` (B, P, V).
        input_hw: Height and width of the network input, pixels; boxes are clipped to it.
        contract: Thresholds.
        skeleton: What the keypoints are.
        coordinates: Turns pose vectors, unclipped boxes and cell centres into keypoints.

    Returns:
        One entry an image, in network-input pixels, best first.
    """
    priors = grid_priors(*input_hw)
    found = []
    for i in range(len(outputs["cls_scores"])):
        scores = sigmoid(outputs["cls_scores"][i, :, 0])
        boxes = decode_boxes(outputs["bbox_preds"][i], priors)
        candidates = np.flatnonzero(scores > contract.score_thr)
        if contract.pre_topk is not None:
            candidates = candidates[np.argsort(-scores[candidates], kind="stable")[: contract.pre_topk]]
        keep = candidates[greedy_nms(boxes[candidates], scores[candidates], contract.nms_thr)]
        keep = keep[: contract.max_dets]
        if not len(keep):
            found.append(Poses.empty(skeleton))
            continue
        keypoints = coordinates(outputs["pose_vecs"][i, keep], boxes[keep], priors[keep, :2])
        keypoint_scores = sigmoid(outputs["kpt_vis"][i, keep])
        found.append(Poses(clipped(boxes[keep], input_hw), scores[keep], keypoints, keypoint_scores, skeleton))
    return found


def rows_to_poses(
    dets: Array, keypoints: Array, input_hw: tuple[int, int], contract: DecodeContract, skeleton: Skeleton
) -> list[Poses]:
    """``dets`` (B, N, 5) and ``keypoints`` (B, N, K, 3) of a graph that decodes inside, to people.

    Rows that do not pass the score threshold are nobody: unused rows are zero, and MMDeploy's graphs append rows of
    other cells, with their real and usually low scores. Where such a cell passes the threshold it repeats a person, or
    is one whom the suppression had dropped; the suppression is therefore run once more over MMDeploy's rows, whose
    boxes are not clipped yet. It leaves everybody else alone.

    Returns:
        One entry an image, in network-input pixels, best first, boxes clipped to the input.
    """
    found = []
    for rows, points in zip(dets, keypoints, strict=True):
        keep = kept_rows(rows, contract.score_thr, contract.nms_thr, junk_rows=contract.junk_rows)
        boxes = clipped(rows[keep, :4], input_hw)
        found.append(Poses(boxes, rows[keep, 4], points[keep, :, :2], points[keep, :, 2], skeleton))
    return found


def finished(
    poses: Poses, transform: LetterboxTransform, artifact: Artifact, max_people: int | None, kpt_thr: float | None
) -> Poses:
    """Detections in network-input pixels to those that are wanted, in pixels of the image."""
    for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
        if not np.isfinite(getattr(poses, name)).all():
            raise ArtifactError(
                f"Its {name} are not finite on this image.",
                remedy="Its weights are damaged, or its precision is too low; 'rtmo-deploy validate' tells more.",
                where=artifact.path,
            )
    return without_weak_keypoints(poses_to_original(poses[:max_people], transform), kpt_thr)


def without_weak_keypoints(poses: Poses, kpt_thr: float | None) -> Poses:
    """The same, keypoints with a score below ``kpt_thr`` with score 0; all as they are where it is None."""
    if kpt_thr is None:
        return poses
    seen = poses.keypoint_scores >= kpt_thr
    return replace(poses, keypoint_scores=np.where(seen, poses.keypoint_scores, 0))


def poses_to_original(poses: Poses, transform: LetterboxTransform) -> Poses:
    """Poses in network-input pixels to pixels of the image."""
    boxes, keypoints = transform.boxes_to_original(poses.boxes), transform.to_original(poses.keypoints)
    return replace(poses, boxes=boxes, keypoints=keypoints, image_hw=transform.original_hw)


def coordinates_of(artifact: Artifact) -> Coordinates | None:
    """The second file of a ``raw`` graph, opened; None where there is none to open."""
    if artifact.decode.mode is not DecodeMode.RAW:
        return None
    content = read_companion(artifact)
    return None if content is None else open_coordinates(content, where=artifact.path)


def open_coordinates(model: Path | bytes, *, where: object = None) -> Coordinates:
    """The classifier of a ``raw`` graph's companion file, as a function; runs on the CPU."""
    from rtmo_deploy.runtime.onnx_file import load_onnx, parse_onnx
    from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

    name = where or model
    # It comes with a stranger's model: checked as that is.
    checked = load_onnx(model) if isinstance(model, Path) else parse_onnx(model, Path(str(name)))
    session = open_session(checked.SerializeToString(), where=name)

    def run(pose_vecs: Array, boxes: Array, priors: Array) -> Array:
        feeds = {"pose_vecs": pose_vecs, "boxes": boxes, "priors": priors}
        return run_session(session, feeds, where=name)["keypoints"]

    return run
