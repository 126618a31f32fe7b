"""Several training processes as one: the group, averages, and BatchNorm over the joint batch.

PyTorch's own ``SyncBatchNorm`` works on GPUs only and has no place for a process without a single positive cell,
which the BatchNorm inside the coordinate classifier may meet; hence one of our own.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rtmo_deploy.errors import SetupError, TrainingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


#: One process judges while the others wait for it.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one's number, how many there are, where this one computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def divisor(self, positives: int) -> float:
        """What each process divides its sums over positive cells by, for the mean of them to be the joint batch's."""
        return max(self.mean(float(positives)), 1 / self.world)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether a flag is set in any process: what all of them must do together, they must all know of."""
        if self.world == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(tensor)
        return tuple(count > 0 for count in tensor.tolist())

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def join_group(device: str) -> Group:
    """The group that ``torchrun`` set up, or this process alone.

    Args:
        device: ``cpu``, ``cuda`` (each process takes the GPU of its local rank) or ``cuda:N``.

    Raises:
        UsageError: There is no such device.
        SetupError: CUDA or that GPU is not there, or the other processes cannot be found.
    """
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"There is no device {device!r}.", remedy="Use cpu, cuda or cuda:N.") from error
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise SetupError("PyTorch sees no CUDA GPU.", remedy="Train with --device cpu, or install a CUDA build.")
        local = int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else (where.index or 0)
        if local >= torch.cuda.device_count():
            raise SetupError(
                f"There is no GPU {local}; PyTorch sees {torch.cuda.device_count()}.",
                remedy="Start one process a GPU, or name another one.",
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    elif where.type != "cpu":
        raise UsageError(f"Training on {device!r} is not supported.", remedy="Use cpu, cuda or cuda:N.")
    if world == 1:
        return Group(0, 1, where)
    try:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SetupError(
            f"The {world} processes that WORLD_SIZE speaks of cannot be joined: {error}.",
            remedy="Start them with torchrun, or unset WORLD_SIZE to train in one process.",
        ) from error
    return Group(dist.get_rank(), world, where)


class SyncBatchNorm(nn.Module):
    """BatchNorm of 1-D or 2-D inputs with the statistics of all processes; state as ``nn.BatchNorm``'s."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` or ``(N, C, H, W)`` to the same shape; N may be 0 here if it is not everywhere."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        values = x if x.dtype == torch.float64 else x.float()  # sums in 16 bits would lose everything
        mean, variance = self.running_mean, self.running_var
        if self.training:
            joint = self._joint(values)
            # A single row in all processes has no variance, and none at all no mean either.
            total = float(joint[2]) if x.ndim == 2 else float("inf")
            if total > 1:
                mean, variance = joint[0], joint[1]
                self._follow(*joint)
            if total != 1:  # as the criterion treats a single row in a single process
                self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (values * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(x.dtype)

    @staticmethod
    def _joint(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance ``(C,)`` over all processes, and the number of values a channel they are from."""
        from torch.distributed.nn.functional import all_gather  # with a gradient

        axes = [0, *range(2, x.ndim)]
        count = x.numel() // x.shape[1]
        mean = x.sum(dim=axes) / max(count, 1)
        centred = x - mean.view((1, -1) + (1,) * (x.ndim - 2))
        variance = centred.square().sum(dim=axes) / max(count, 1)
        own = torch.cat([mean, variance, x.new_full((1,), count)])
        parts = torch.stack(all_gather(own))  # type: ignore[no-untyped-call]
        counts = parts[:, -1:]
        total = counts.sum().clamp(min=1)
        means, variances = parts[:, :-1].chunk(2, dim=1)
        joint = (counts * means).sum(dim=0) / total
        return joint, (counts * (variances + (means - joint).square())).sum(dim=0) / total, counts.sum()

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        share = self.momentum if self.momentum is not None else 0.1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def synchronise_norms(module: nn.Module) -> None:
    """Replace every BatchNorm inside ``module`` by one over all processes, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, SyncBatchNorm(child))
        else:
            synchronise_norms(child)


class Meter:
    """Sums of the loss terms since the last row of the log; nothing leaves the device until it is read."""

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
        """Means over all processes and the steps since :meth:`clear`; every process must ask together."""
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
        self.count, self._sums = 0, {}

    def state(self) -> dict[str, Any]:
        """Plain data to go on from; every process must ask together."""
        return {"count": self.count, "sums": {name: self.group.mean(float(v)) for name, v in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.count = state["count"]
        self._sums = {name: torch.tensor(value, device=self.group.device) for name, value in state["sums"].items()}
