"""Meter: the mean of each loss term since the last row of the log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rtmo_deploy.train.distributed import Group


class Meter:
    """Sums of the loss terms over steps; nothing leaves the device until it is read.

    Args:
        group: The processes whose mean is shown.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Another step's terms, detached scalars."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, value.new_zeros(())) + value
        self.count += 1

    def means(self, step: int) -> dict[str, float]:
        """Means over all processes and the steps since :meth:`clear`; every process must ask together.

        Raises:
            TrainingError: One is not finite.
        """
        means = {name: self.group.mean(float(value)) / self.count for name, value in self._sums.items()}
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"The loss is no longer finite at step {step}: {', '.join(broken)}.",
                remedy="Lower the learning rate, or train without fp16; last.pth, where there is one, holds the last "
                "good state.",
            )
        return means

    def clear(self) -> None:
        """Begin anew."""
        self.count, self._sums = 0, {}

    def state(self) -> dict[str, Any]:
        """Plain data to go on from; every process must ask together."""
        return {"count": self.count, "sums": {name: self.group.mean(float(v)) for name, v in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.count = state["count"]
        self._sums = {name: torch.tensor(value, device=self.group.device) for name, value in state["sums"].items()}
