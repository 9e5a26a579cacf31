"""What makes a run one over an archive, as the command line gave it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from flexiast.errors import UsageError
from flexiast.storage import is_url
from flexiast_runtime.batch.formats import Format

BATCH_FILES = 16
"""Recordings of an archive in one task, unless told"""


CPUS_PER_WORKER = 1.0
"""That Ray gives to each worker, unless told"""


class EngineName(str, Enum):
    """Values of ``--engine``."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class ArchiveOptions:
    """The options that only archives have."""

    engine: EngineName
    ray_address: str | None
    cpus_per_worker: float | None
    """None: as many as CPUS_PER_WORKER"""
    batch_files: int | None
    """None: as many as BATCH_FILES"""
    budget_hours: float | None

    def check(self, workers: int, *, size_is_chosen: bool) -> None:
        """Raise UsageError for options that contradict each other, or would change nothing."""
        if self.budget_hours is not None and size_is_chosen:
            raise UsageError("--budget-hours chooses the patch size; leave --patch-size out")
        if self.engine is EngineName.RAY:
            if workers > 1:
                raise UsageError(
                    "--workers are processes of this machine, and Ray starts one for each --cpus-per-worker of its "
                    "nodes; leave --workers or --engine out"
                )
            return
        for value, option in ((self.ray_address, "--ray-address"), (self.cpus_per_worker, "--cpus-per-worker")):
            if value is not None:
                raise UsageError(f"{option} is for --engine ray; add that, or leave it out")

    def refuse_without_archive(self) -> None:
        """Raise UsageError for an option that would change nothing."""
        if self.batch_files is not None:
            raise UsageError("--batch-files groups the recordings of an archive; add --format parquet, or leave it out")

    def are_for(self, output_format: Format | None, places: Iterable[str | None]) -> bool:
        """Whether a results place with a ledger is asked for: by a URL, Parquet, Ray or a budget."""
        return (
            self.engine is EngineName.RAY
            or output_format is Format.PARQUET
            or self.budget_hours is not None
            or any(is_url(place) for place in places if place is not None)
        )
