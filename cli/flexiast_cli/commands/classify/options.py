"""What makes a run one over an archive, as the command line gave it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexiast.errors import UsageError
from flexiast.storage import is_url
from flexiast_runtime.batch.formats import Format

BATCH_FILES = 16
"""Recordings of an archive in one task, unless told"""


@dataclass(frozen=True)
class ArchiveOptions:
    """The options that only archives have."""

    batch_files: int | None
    """None: as many as BATCH_FILES"""
    budget_hours: float | None

    def refuse_without_archive(self) -> None:
        """Raise UsageError for an option that would change nothing."""
        if self.batch_files is not None:
            raise UsageError("--batch-files groups the recordings of an archive; add --format parquet, or leave it out")

    def are_for(self, output_format: Format | None, places: Iterable[str | None]) -> bool:
        """Whether a results place with a ledger is asked for: by a URL, Parquet or a budget."""
        return (
            output_format is Format.PARQUET
            or self.budget_hours is not None
            or any(is_url(place) for place in places if place is not None)
        )
