"""A scene: cut-outs laid on a canvas one over the other, with exact account of who is still visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data._backgrounds import NOBODY
from rtmo_deploy.data.sample import People

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data._figures import Cutout

#: Their numbers, and NOBODY, share one byte.
MOST_PEOPLE: Final = 60
#: What must remain of a person: this share of the whole figure, so many keypoints, a box of so many pixels.
_LEAST_SHARE: Final = 0.45
_LEAST_KEYPOINTS: Final = 4
_LEAST_SIDES: Final = (3, 8)
#: By which keypoints, itself included, a place can be told: the face by any part of it, a limb's joint by the next
#: ones. Shoulders and hips always can.
_TOLD_BY: Final = (
    *(((0, 1, 2, 3, 4),) * 5),
    *(((),) * 2),
    *((5, 7, 9), (6, 8, 10), (7, 9), (8, 10)),
    *(((),) * 2),
    *((11, 13, 15), (12, 14, 16), (13, 15), (14, 16)),
)
_TELLS: Final = np.array([[other in told for other in range(17)] for told in _TOLD_BY])
_ALWAYS: Final = ~_TELLS.any(1)
#: Its stub knows no scalars.
_COMPARE: Final[Any] = cv2.compare


class Scene:
    """A canvas, ``(h, w, 4)`` uint8: BGR and the number of the person who is on top, or ``NOBODY``."""

    def __init__(self, canvas: NDArray[np.uint8]) -> None:
        self.canvas: Any = canvas
        self.height, self.width = canvas.shape[:2]
        self.boxes: list[tuple[int, int, int, int]] = []
        """x, y, width, height of each person."""
        self._areas: list[int] = []
        self._spare: list[int] = []
        """How many more pixels may be covered."""
        self._keypoints = np.zeros((MOST_PEOPLE, 17, 2))
        self._pixels = np.zeros((MOST_PEOPLE, 17, 2), np.int64)
        self._visible = np.zeros((MOST_PEOPLE, 17), bool)
        self._inside = np.ones((MOST_PEOPLE, 17), bool)

    def add_person(self, cutout: Cutout, left: int, top: int) -> bool:
        """Lay a figure over what is there, its patch's corner at (left, top).

        Returns:
            False, and nothing is done, if too little of it or of somebody else would remain visible.
        """
        patch, mask = cutout.patch, cutout.parts
        window = self._window(mask.shape, left, top)
        if window is None:
            return False
        where, part = window
        whole = area = cv2.countNonZero(mask)
        corner = np.array((left, top))
        visible, inside = cutout.bare, cutout.known
        if part is not None:
            patch, mask = patch[part], np.ascontiguousarray(mask[part])
            area = cv2.countNonZero(mask)
            if area < _LEAST_SHARE * whole:
                return False
            pixels = cutout.pixels + corner
            inside = inside & ((pixels >= 0) & (pixels < (self.width, self.height))).all(1)
            visible = visible & inside
        x, y, w, h = cv2.boundingRect(mask)
        if min(w, h) < _LEAST_SIDES[0] or max(w, h) < _LEAST_SIDES[1] or np.count_nonzero(visible) < _LEAST_KEYPOINTS:
            return False
        number, box = len(self.boxes), (x + where[2], y + where[0], w, h)
        if not self._lay(patch, mask, where, box, number):
            return False
        self.boxes.append(box)
        self._areas.append(area)
        self._spare.append(int(area - _LEAST_SHARE * whole))
        self._keypoints[number] = cutout.keypoints + corner
        self._pixels[number] = cutout.pixels + corner
        self._visible[number] = visible
        self._inside[number] = inside
        return True

    def add_thing(self, patch: NDArray[np.uint8], mask: NDArray[np.uint8], left: int, top: int) -> bool:
        """Lay an object over what is there, unless too little of somebody would remain visible.

        Args:
            patch: ``(h, w, 4)`` uint8, BGR and anything; it is changed.
            mask: ``(h, w)`` uint8, where it is not 0.
            left: Column of the patch's first pixel.
            top: Row of the patch's first pixel.
        """
        window = self._window(mask.shape, left, top)
        if window is None:
            return False
        where, part = window
        if part is not None:
            patch, mask = patch[part], np.ascontiguousarray(mask[part])
        return self._lay(patch, mask, where, (where[2], where[0], mask.shape[1], mask.shape[0]), NOBODY)

    def _window(
        self, shape: tuple[int, ...], left: int, top: int
    ) -> tuple[tuple[int, int, int, int], tuple[slice, slice] | None] | None:
        """Rows and columns of the canvas that a patch covers, and the part of it that covers them (None: all)."""
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + shape[0], self.height), min(left + shape[1], self.width)
        if y0 >= y1 or x0 >= x1:
            return None
        part = None
        if y1 - y0 != shape[0] or x1 - x0 != shape[1]:
            part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        return (y0, y1, x0, x1), part

    def _lay(
        self,
        patch: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        where: tuple[int, int, int, int],
        box: tuple[int, int, int, int],
        number: int,
    ) -> bool:
        """Copy a patch onto the canvas where its mask is, and take account of whom it covers; or do nothing."""
        y0, y1, x0, x1 = where
        under = self.canvas[y0:y1, x0:x1]
        left, top, w, h = box
        taken: list[tuple[int, int, NDArray[np.bool_]]] = []
        ids: Any = None
        for other, (x, y, across, down) in enumerate(self.boxes):
            if x >= left + w or left >= x + across or y >= top + h or top >= y + down:
                continue
            if ids is None:
                ids = cv2.extractChannel(under, 3)
            lost = cv2.countNonZero(cv2.bitwise_and(_COMPARE(ids, other, cv2.CMP_EQ), mask))
            if not lost:
                continue
            if lost > self._spare[other]:
                return False
            still = self._visible[other] & ~self._hit(other, mask, where)
            if np.count_nonzero(still) < _LEAST_KEYPOINTS:
                return False
            taken.append((other, lost, still))
        for other, lost, still in taken:
            self._spare[other] -= lost
            self._visible[other] = still
        patch[..., 3] = number
        cv2.copyTo(patch, mask, under)
        return True

    def _hit(self, other: int, mask: NDArray[np.uint8], where: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """Which keypoints of a person lie under a mask whose window on the canvas is ``where``; ``(17,)``."""
        y0, y1, x0, x1 = where
        columns, rows = self._pixels[other].T
        within: NDArray[np.bool_] = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        within[within] = mask[rows[within] - y0, columns[within] - x0] > 0
        return within

    def people(self) -> People:
        """Everybody on the canvas, farthest first."""
        count = len(self.boxes)
        if not count:
            return People.empty(17)
        visible = self._visible[:count]
        inside = self._inside[:count] & (_ALWAYS | (visible[:, None] & _TELLS).any(2))
        boxes = np.array(self.boxes, np.float32)
        boxes[:, 2:] += boxes[:, :2]
        return People(
            boxes,
            np.where(inside[..., None], np.round(self._keypoints[:count], 2), 0),
            inside.astype(np.float32) + visible,
            np.array(self._areas, np.float32),
        )
