"""One process among those that `torchrun` started, or the only one there is."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flexiast.errors import UsageError


@dataclass(frozen=True)
class World:
    """Which process this is and what it computes on."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
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

    def wrap_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, its gradients averaged over the ranks during backward."""
        if self.ranks == 1:
            return model
        return torch.nn.parallel.DistributedDataParallel(model)

    def wait(self) -> None:
        """Until every rank has come this far."""
        if self.ranks > 1:
            dist.barrier()


SINGLE_PROCESS = World()


@contextmanager
def init_process_group() -> Iterator[World]:
    """The world of this process: `torchrun`'s where it started us (nccl on GPUs, gloo elsewhere), else alone.

    Threads are torch's: all cores for one process, and one for each that torchrun starts unless OMP_NUM_THREADS says
    otherwise. Raises UsageError where ranks on several machines may be started again.
    """
    _check_restarts()
    if torch.cuda.is_available():
        device = torch.device("cuda", _read_variable("LOCAL_RANK", 0))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if _read_variable("WORLD_SIZE", 1) == 1:
        yield World(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, ranks = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # torch exports both under a condition
    # The store outlives ranks that die, and with it the addresses that they listened at.
    store = dist.PrefixStore(f"attempt {_attempt()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    try:
        yield World(rank, ranks, device)
    finally:
        gc.collect()  # DDP, in a cycle, holds the group; one that lives until the interpreter ends aborts the process
        dist.destroy_process_group()


def launcher() -> int:
    """Process that started this one; the same one starts it again."""
    return os.getppid()


def is_restarted(document: Path) -> bool:
    """Whether `torchrun` started this process again, after one of its ranks died, in a run that it had begun.

    ``document`` is the run's run.json, which the leading rank wrote and checks; the others follow it.
    """
    if _attempt() == 0:
        return False
    if _read_variable("RANK", 0) > 0:
        return True
    return document.is_file() and json.loads(document.read_text("utf-8")).get("launcher") == launcher()


def _check_restarts() -> None:
    """The torchrun of each machine counts for itself how often its own ranks died, so that they would never meet."""
    machines, restarts = _read_variable("GROUP_WORLD_SIZE", 1), _read_variable("TORCHELASTIC_MAX_RESTARTS", 0)
    if machines > 1 and restarts > 0:
        raise UsageError(
            f"torchrun cannot start the ranks of {machines} machines again (--max-restarts {restarts}); give "
            "--max-restarts 0, and after a failure start all again with --resume"
        )


def _attempt() -> int:
    """How often `torchrun` has started all ranks again."""
    return _read_variable("TORCHELASTIC_RESTART_COUNT", 0)


def _read_variable(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
