"""What sources yield: a frame, and events such as a broken frame or a reconnect."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.data.images import Decoded
    from rtmo_deploy.poses import Poses


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source, upright, and what was found in it."""

    image: NDArray[np.uint8] = field(repr=False)  #: ``(h, w, 3)`` uint8, BGR.
    source: str  #: The path, address or camera index that it comes from, as it was given or found.
    index: int = 0  #: Its number within the source, counted from 0 over all frames, skipped ones too.
    time_s: float | None = None  #: Seconds since the source's first frame; None for a still image.
    poses: Poses | None = None  #: The detections, in pixels of this image; None before the model has run.

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]

    def with_poses(self, poses: Poses) -> Self:
        """The same frame with these detections."""
        frame = copy(self)
        vars(frame)["poses"] = poses
        return frame

    def plot(self, **how: Any) -> NDArray[np.uint8]:
        """A copy of the image with its detections drawn on it; ``how`` as for :meth:`rtmo_deploy.Poses.plot`."""
        return self.image.copy() if self.poses is None else self.poses.plot(self.image, **how)


class ReducedFrame(Frame):
    """The frame of an image file that was decoded at a reduced scale; ``image`` reads it whole when first asked for."""

    file: str | bytes = b""  #: Its path, or its bytes.
    reduced: Decoded | None = None  #: What was decoded.

    @classmethod
    def of(cls, file: str | bytes, reduced: Decoded, source: str) -> Self:
        """The frame of a file of which this was decoded."""
        frame = cls.__new__(cls)
        vars(frame).update(file=file, reduced=reduced, source=source)
        return frame

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """``(h, w, 3)`` uint8, BGR, all pixels; InputDataError where the file can no longer be read."""
        from rtmo_deploy.data.images import read_to_fit

        return read_to_fit(self.file, None, where=self.source).pixels

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the whole image, pixels."""
        return super().image_hw if self.reduced is None else self.reduced.image_hw


@dataclass(frozen=True)
class Event:
    """Something that happened to a source besides frames."""

    source: str
    #: ``failed``: an image or source cannot be read; ``broken``: one frame cannot be decoded; ``lost``: a live source
    #: stopped; ``reconnected``; ``dropped``: frames of a live source were skipped, the newest kept.
    kind: Literal["failed", "broken", "lost", "reconnected", "dropped"]
    message: str
    error: Exception | None = None
    frames: int = 0  #: Frames concerned.

    def __str__(self) -> str:
        """The message, with the source in front."""
        return self.message if self.message.startswith(self.source) else f"{self.source}: {self.message}"
