"""One process among those that `torchrun` started, or the only one there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Which process this is and what it computes on."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """A tensor of equal shape from every rank, stacked [ranks, ...]."""
        if self.ranks == 1:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.ranks)]
        dist.all_gather(gathered, values)
        return torch.stack(gathered)

    def gather_objects(self, value: Any) -> list[Any]:
        """Any small object from every rank."""
        if self.ranks == 1:
            return [value]
        gathered: list[Any] = [None] * self.ranks
        dist.all_gather_object(gathered, value)
        return gathered

    def average_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, its gradients averaged over the ranks during backward."""
        if self.ranks == 1:
            return model
        return torch.nn.parallel.DistributedDataParallel(model)

    def wait(self) -> None:
        """Until every rank has come this far."""
        if self.ranks > 1:
            dist.barrier()


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The world of this process: `torchrun`'s where it started us (nccl on GPUs, gloo elsewhere), else alone.

    On a CPU each process takes its share of the cores, unless OMP_NUM_THREADS says otherwise.
    """
    rank, ranks, local, local_ranks = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_ranks))
    if ranks == 1:
        yield World(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, ranks, device)
    finally:
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether `torchrun` started this process again after one of its ranks died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
