"""What two models are compared on: pictures out of a folder, or drawn people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.data.images import find_images, read_image
from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

#: Synthetic images, if nothing is asked for, and their seed; apart from those that train, calibrate and judge.
DEFAULT_COUNT: Final = 16
DEFAULT_SEED: Final = 5000


@dataclass(frozen=True)
class Pictures:
    """Named pictures, read one at a time and as often as asked for.

    Attributes:
        names: One a picture.
        source: Where they are from, in words.
        drawn: Whether this project drew them.
        read: The picture of an index, ``(h, w, 3)`` uint8 BGR.
    """

    names: tuple[str, ...]
    source: str
    drawn: bool
    read: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.names)

    def canvas(self, index: int, input_hw: tuple[int, int], placement: str) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 BGR: a picture letterboxed to a network's input.

        Args:
            index: Which.
            input_hw: Height and width of the network input, pixels.
            placement: Where the picture lies in it, as in an artifact's input.
        """
        return letterbox(self.read(index), input_hw, Placement(placement))[0]

    def tensors(self, indices: Iterable[int], input_hw: tuple[int, int], placement: str) -> NDArray[np.float32]:
        """``(n, 3, H, W)`` float32, BGR, 0..255: the same of some pictures, as networks take them."""
        return to_tensor([self.canvas(index, input_hw, placement) for index in indices])

    @classmethod
    def in_folder(cls, path: str | os.PathLike[str], *, recursive: bool = False) -> Pictures:
        """The pictures of a folder, of a glob pattern, or a single one.

        Raises:
            InputDataError: There is none.
        """
        files = find_images([str(path)], recursive=recursive)
        names = [file.name for file in files]
        if len(set(names)) < len(names):
            names = [str(file) for file in files]
        return cls(tuple(names), str(Path(path)), False, lambda index: read_image(files[index]))

    @classmethod
    def drawn_people(cls, count: int = DEFAULT_COUNT, *, seed: int = DEFAULT_SEED) -> Pictures:
        """Drawn people, one to eight a picture; the same for a seed on every machine.

        Raises:
            UsageError: ``count`` is not positive.
        """
        if count < 1:
            raise UsageError(f"Models cannot be compared on {count} pictures.", remedy="Take one or more.")
        people = SyntheticPeople(count, seed=seed, options=SyntheticOptions(people=(1, 8)))
        return cls(
            tuple(f"synthetic-{index}" for index in range(count)),
            f"synthetic images, generator {GENERATOR_VERSION}, seed {seed}",
            True,
            lambda index: people[index].image,
        )
