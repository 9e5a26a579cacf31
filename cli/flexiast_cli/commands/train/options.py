"""What the command line passes to a run, besides its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexiast.storage import RemotePath


@dataclass(frozen=True)
class Sources:
    """What a run reads."""

    data: Path | RemotePath
    val_fold: str | None
    init: str | None
    teachers: tuple[Path, ...]
    background: tuple[Path, ...]
    configured: bool = False
    """Whether a recipe file decides how the run goes, so that nothing is filled in."""
    teacher_labels: Path | None = None
    teacher_rate_hz: int | None = None


@dataclass(frozen=True)
class Execution:
    """How a run is computed; none of it changes what the run learns."""

    workers: int
    compiled: bool
    bf16: bool | None
    """None: as the run began, or as the processor is faster."""
    resume: bool
    tensorboard: bool
