"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "failure"]
"""Works; worth knowing; works worse than it could; does not work."""


@dataclass(frozen=True)
class CheckResult:
    """What was found, and what to do about it."""

    check: str
    state: State
    text: str
    remedy: str = ""

    def document(self) -> dict[str, str]:
        return asdict(self)
