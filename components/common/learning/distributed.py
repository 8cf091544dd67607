"""A training's group of processes: one per device, equal weights in all of them after every step.

Gradients are summed by an explicit all-reduce and not by ``DistributedDataParallel``: its hooks communicate during the
backward pass, where a process that ran out of memory would leave the others waiting. Here all agree first that every
gradient is there. The price is that communication does not overlap with computation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Group", "current_group", "process_group"]

# A process that dies is noticed by whoever started it, within a second; this bounds what nobody foresaw. It must be
# longer than one process may score, save or mix alone while the others wait.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train one model together.

    Attributes:
        rank: This process, in [0, size). Rank 0 speaks for all: it alone reports, saves and returns results.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces float tensors of one type and device by their sums over all processes; all get the same bits.

        Args:
            tensors: Equal in number and shapes in every process.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def from_leader(self, data: bytes | None) -> bytes | None:
        """What rank 0 gave; the others' argument is not looked at."""
        if self.size == 1:
            return data
        shared = [data]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]


def current_group() -> Group:
    """The group that this process is in; a group of one unless ``process_group`` is around."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group()


@contextmanager
def process_group(device: torch.device, init_method: str = "env://") -> Iterator[Group]:
    """Joins the processes that ``WORLD_SIZE`` and ``RANK`` name, as torchrun sets them; alone without them.

    Args:
        device: Where this process computes: NCCL connects CUDA devices, gloo CPUs.
        init_method: How the processes find each other; by default as torchrun wants it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=init_method,
        rank=int(os.environ["RANK"]),
        world_size=size,
        timeout=_PATIENCE,
        device_id=device if on_cuda else None,
    )
    yield current_group()
    # Not in a finally: after a failure the others may never come, and the process is about to end anyway.
    dist.barrier()
    dist.destroy_process_group()
