"""Several training processes as one: the group, averages, and BatchNorm over the joint batch.

PyTorch's own ``SyncBatchNorm`` works on GPUs only and has no place for a process without a single positive cell,
which the BatchNorm inside the coordinate classifier may meet; hence one of our own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rtmo_deploy.errors import SetupError, UsageError

__all__ = ["Group", "SyncBatchNorm", "join_group", "synchronise_norms"]


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: This one's number.
        world: How many there are.
        device: Where this one computes.
    """

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

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Take the group apart."""
        if self.world > 1:
            dist.destroy_process_group()


def join_group(device: str) -> Group:
    """The group that ``torchrun`` set up, or this process alone.

    Args:
        device: ``cpu``, ``cuda`` (each process takes the GPU of its local rank) or ``cuda:N``.

    Raises:
        UsageError: There is no such device.
        SetupError: CUDA is not there.
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
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    elif where.type != "cpu":
        raise UsageError(f"Training on {device!r} is not supported.", remedy="Use cpu, cuda or cuda:N.")
    if world == 1:
        return Group(0, 1, where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Group(dist.get_rank(), world, where)


class SyncBatchNorm(nn.Module):
    """BatchNorm of 1-D or 2-D inputs with the statistics of all processes; state as ``nn.BatchNorm``'s.

    Args:
        norm: The layer it takes the place of; its parameters and buffers are kept.
    """

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
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            axes = [0, *range(2, x.ndim)]
            count = x.new_full((1,), x.numel() // x.shape[1])
            sums = torch.cat([x.sum(dim=axes), x.square().sum(dim=axes), count])
            total = _all_reduce(sums)
            n = total[-1].clamp(min=1)
            mean, second = (total[:-1] / n).chunk(2)
            variance = (second - mean.square()).clamp(min=0)
            with torch.no_grad():
                share = self.momentum if self.momentum is not None else 0.1
                share = share if total[-1] > 0 else 0.0
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * n / (n - 1).clamp(min=1), share)
                self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)


class _AllReduce(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum over processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        result = x.detach().clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        result = gradients[0].contiguous().clone()
        dist.all_reduce(result)
        return result


def _all_reduce(x: Tensor) -> Tensor:
    result: Tensor = _AllReduce.apply(x)  # type: ignore[no-untyped-call]
    return result


def synchronise_norms(module: nn.Module) -> None:
    """Replace every BatchNorm inside ``module`` by one over all processes, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, SyncBatchNorm(child))
        else:
            synchronise_norms(child)
