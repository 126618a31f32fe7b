"""What sources yield: a frame, and events such as a broken frame or a reconnect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source, upright, and what was found in it."""

    image: NDArray[np.uint8] = field(repr=False)  #: ``(h, w, 3)`` uint8, BGR.
    source: str  #: The path, address or camera index that it comes from, as it was given or found.
    index: int = 0  #: Its number within the source, counted from 0 over all frames, skipped ones too.
    time_s: float | None = None  #: Seconds since the source's first frame; None for a still image.
    poses: Poses | None = None  #: The detections, in pixels of this image; None before the model has run.

    def plot(self, **how: Any) -> NDArray[np.uint8]:
        """A copy of the image with its detections drawn on it; ``how`` as for :meth:`rtmo_deploy.Poses.plot`."""
        return self.image.copy() if self.poses is None else self.poses.plot(self.image, **how)


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
