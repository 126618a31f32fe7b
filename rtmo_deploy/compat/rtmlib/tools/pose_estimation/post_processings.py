"""COCO's keypoints in OpenPose's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: For each of OpenPose's 18 keypoints the number of COCO's; 17 is the neck, which COCO has not.
_FROM_COCO: Final = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


def convert_coco_to_openpose(keypoints: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """COCO's 17 keypoints ``(N, 17, 2)``, ``(N, 17)`` to OpenPose's 18 ``(N, 18, 2)``, ``(N, 18)``.

    The neck is the middle of the shoulders; its score is the lower one of theirs.
    """
    neck = np.mean(keypoints[:, [5, 6]], axis=1, keepdims=True)
    neck_score = np.min(scores[:, [5, 6]], axis=1, keepdims=True)
    return np.hstack([keypoints, neck])[:, _FROM_COCO], np.hstack([scores, neck_score])[:, _FROM_COCO]
