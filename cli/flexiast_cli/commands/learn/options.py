"""What is learnt from and where it goes, as given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options that decide what is learnt."""

    model: str
    output: Path
    history: Path | None = None
    clips: Sequence[Path] | None = None
    data: Path | None = None
    val_fold: str | None = None
    background: Sequence[Path] = ()
    false_alarms: float | None = None
    report: Path | None = None
