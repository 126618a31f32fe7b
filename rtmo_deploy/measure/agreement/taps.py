"""What looking into a network means, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tap:
    """A tensor inside a network.

    Attributes:
        name: What is printed: the name of the node or module that it leaves.
        op: Operator or class of that.
        size: Bytes of it for one input, as far as known.
        weighted: Whether it has weights of its own.
    """

    name: str
    op: str
    size: int
    weighted: bool


class TapSource(Protocol):
    """A network whose inner tensors can be read."""

    @property
    def taps(self) -> Mapping[str, Tap]:
        """Tensors by a key that means the same in the other network, in the order they are computed."""
        ...

    def feeds(self, keys: Collection[str]) -> Mapping[str, Sequence[str]]:
        """For each key the nearest of the others that it is computed from; empty where that is not known."""
        ...

    def read(self, keys: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run the network and keep these tensors.

        Args:
            keys: Keys of :attr:`taps`.
            images: ``(B, 3, H, W)`` float32, BGR, 0..255.
        """
        ...
