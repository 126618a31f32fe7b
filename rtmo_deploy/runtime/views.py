"""What the methods of Poses do: draw, cut out, and other packages' forms."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError
from rtmo_deploy.media.results import keypoint_columns
from rtmo_deploy.plain import plain
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.draw import draw_poses, write_image
from rtmo_deploy.runtime.inputs import pixels_of, to_bgr
from rtmo_deploy.runtime.thresholds import require_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Skeleton


def plot(
    poses: Poses,
    image: Any = None,
    *,
    score_thr: float = 0.5,
    kpt_thr: float = 0.3,
    boxes: bool = True,
    labels: bool = True,
) -> NDArray[np.uint8]:
    """See :meth:`Poses.plot`."""
    require_number(score_thr=score_thr, kpt_thr=kpt_thr)
    drawn = poses[poses.scores > score_thr]
    return draw_poses(_image(poses, image), drawn, keypoint_thr=kpt_thr, boxes=boxes, labels=labels)


def _image(poses: Poses, image: Any) -> NDArray[np.uint8]:
    if image is None and poses.source is None:
        raise UsageError("The image of these poses is not known.", remedy="Give it: image=...")
    pixels = pixels_of(poses.source) if image is None and poses.source is not None else to_bgr(image)
    if poses.image_hw not in {None, pixels.shape[:2]}:
        raise UsageError(
            f"The image has {pixels.shape[1]}x{pixels.shape[0]} pixels, and the poses are of one of "
            f"{poses.image_hw[1]}x{poses.image_hw[0]}.",
            remedy="Give the image that they were found in.",
        )
    return pixels


def save(poses: Poses, path: str | os.PathLike[str], image: Any, how: Mapping[str, Any]) -> None:
    """See :meth:`Poses.save`."""
    write_image(path, plot(poses, image, **how))


def show(poses: Poses, image: Any, how: Mapping[str, Any]) -> None:
    """See :meth:`Poses.show`."""
    from PIL import Image

    shown = Image.fromarray(plot(poses, image, **how)[..., ::-1])
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        sys.modules["IPython"].display.display(shown)
        return
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SetupError("An image cannot be shown: there is no display.", remedy="Use save(), or a notebook.")
    shown.show()


def png(poses: Poses) -> bytes | None:
    """See :meth:`Poses._repr_png_`."""
    return None if poses.source is None else cv2.imencode(".png", plot(poses))[1].tobytes()


def crop(poses: Poses, image: Any, margin: float) -> list[NDArray[np.uint8]]:
    """See :meth:`Poses.crop`."""
    require_number(margin=margin)
    pixels = _image(poses, image)
    size = np.tile(poses.boxes[:, 2:] - poses.boxes[:, :2], 2) * margin * [-1, -1, 1, 1]
    height, width = pixels.shape[:2]
    corners = np.clip(np.rint(poses.boxes + size), 0, [width, height, width, height]).astype(int)
    return [pixels[top:bottom, left:right].copy() for left, top, right, bottom in corners]


def to_coco(poses: Poses, image_id: int | str, category_id: int) -> list[dict[str, Any]]:
    """See :meth:`Poses.to_coco`."""
    sizes = np.concatenate([poses.boxes[:, :2], poses.boxes[:, 2:] - poses.boxes[:, :2]], axis=1)
    points = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=-1)
    return [
        {
            "image_id": plain(image_id),
            "category_id": plain(category_id),
            "keypoints": points[row].ravel().tolist(),
            "score": float(poses.scores[row]),
            "bbox": sizes[row].tolist(),
        }
        for row in range(len(poses))
    ]


def to_dataframe(poses: Poses, backend: str) -> Any:
    """See :meth:`Poses.to_dataframe`."""
    if backend not in {"polars", "pandas"}:
        raise UsageError(f"There is no data frame of '{backend}'.", remedy="Use 'polars' or 'pandas'.")
    points = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=-1)
    known = isinstance(poses.source, str | os.PathLike)
    ids = [-1] * len(poses) if poses.track_ids is None else poses.track_ids.tolist()
    columns: dict[str, Any] = {
        "image": [os.fspath(poses.source) if known else None] * len(poses),  # type: ignore[arg-type]
        "person": np.arange(len(poses)),
        "track_id": [number if number >= 0 else None for number in ids],
        "score": poses.scores,
        **{name: poses.boxes[:, side] for side, name in enumerate(("x1", "y1", "x2", "y2"))},
    }
    flat = points.reshape(len(poses), 3 * len(poses.skeleton))
    columns |= dict(zip(keypoint_columns(poses.skeleton), flat.T, strict=True))
    try:
        if backend == "polars":
            import polars as pl

            return pl.DataFrame(columns, schema_overrides={"image": pl.String, "track_id": pl.Int64})
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError as error:
        extra = "table" if backend == "polars" else "pandas"
        raise MissingDependencyError(backend, purpose="A data frame", extra=extra) from error
    return pd.DataFrame(columns).astype({"image": object, "track_id": "Int64"})


def to_supervision(poses: Poses) -> Any:
    """See :meth:`Poses.to_supervision`."""
    import supervision as sv

    count = len(poses)
    data: dict[str, Any] = {"xyxy": poses.boxes.copy()}
    if poses.track_ids is not None:
        data["tracker_id"] = poses.track_ids.copy()
    if poses.image_hw is not None:
        data["image_hw"] = np.tile(poses.image_hw, (count, 1))
    return sv.KeyPoints(
        xy=poses.keypoints.copy(),
        keypoint_confidence=poses.keypoint_scores.copy(),
        detection_confidence=poses.scores.copy(),
        class_id=np.zeros(count, int),
        data=data,
    )


def to_detections(poses: Poses) -> Any:
    """See :meth:`Poses.to_detections`."""
    import supervision as sv

    return sv.Detections(
        xyxy=poses.boxes.copy(),
        confidence=poses.scores.copy(),
        class_id=np.zeros(len(poses), int),
        tracker_id=None if poses.track_ids is None else poses.track_ids.copy(),
    )


def from_supervision(key_points: Any, skeleton: Skeleton) -> Poses:
    """See :meth:`Poses.from_supervision`."""
    if not hasattr(key_points, "xy"):
        raise UsageError(f"A {type(key_points).__name__} has no keypoints.", remedy="Give a supervision.KeyPoints.")
    count, joints = len(key_points), len(skeleton)
    xy = np.asarray(key_points.xy, np.float32).reshape(count, -1, 2) if count else np.zeros((0, joints, 2), np.float32)
    if xy.shape[1] != joints:
        raise UsageError(
            f"They have {xy.shape[1]} keypoints, and the skeleton {skeleton.name} has {joints}.",
            remedy="Give the skeleton that they belong to.",
        )
    scores, confidence, data = key_points.detection_confidence, key_points.keypoint_confidence, key_points.data
    confidence = np.ones((count, joints), np.float32) if confidence is None or not count else confidence
    boxes = data.get("xyxy")
    if boxes is None:
        boxes = np.concatenate([xy.min(axis=1, initial=np.inf), xy.max(axis=1, initial=-np.inf)], axis=1)
    sizes = data.get("image_hw")
    return Poses(
        np.asarray(boxes).reshape(count, 4),
        np.ones(count, np.float32) if scores is None else scores,
        xy,
        confidence,
        skeleton,
        track_ids=data.get("tracker_id"),
        image_hw=tuple(sizes[0].tolist()) if sizes is not None and count else None,
    )
