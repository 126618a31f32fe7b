"""Pictures of a set as network inputs, one at a time, and a count of what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.data.calibration import Skipped, stream
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import InputContract
    from rtmo_deploy.data.calibration import CalibrationPictures


@dataclass
class Feed:
    """Network inputs out of a set, as often as asked for; memory is that of one picture.

    Attributes:
        pictures: The set.
        contract: What the model takes; pictures are letterboxed to its own size. A model with a fixed batch gets each
            picture that many times, which leaves every distribution as it is.
        progress: Told how many pictures of how many are done.
        used: Pictures that the last round had.
        skipped: Name and reason of those it could not read.
    """

    pictures: CalibrationPictures
    contract: InputContract
    progress: Callable[[int, int], None] = lambda _done, _total: None
    used: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Each readable picture as ``(B, 3, H, W)`` float32, BGR, 0 to 255.

        Raises:
            InputDataError: None could be read; raised at the end.
        """
        self.used, self.skipped = 0, []
        size = (self.contract.height, self.contract.width)
        placement = Placement(self.contract.placement)
        for number, picture in enumerate(stream(self.pictures), 1):
            if isinstance(picture, Skipped):
                self.skipped.append((picture.name, picture.reason))
            else:
                self.used += 1
                one = to_tensor([letterbox(picture.pixels, size, placement)[0]])
                yield np.repeat(one, self.contract.batch or 1, axis=0)
            self.progress(number, len(self.pictures))
        if not self.used:
            named = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:5])
            raise InputDataError(
                f"None of the {len(self.pictures)} pictures of '{self.pictures.name}' can be used: {named}",
                remedy="Give a folder with pictures that can be read.",
            )
