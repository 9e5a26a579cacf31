"""The result of one check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "failure"]
"""ok: works. note: worth knowing. warning: works, but not well. failure: does not work."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found, and what to do about it."""

    check: str
    state: State
    text: str
    remedy: str = ""

    def document(self) -> dict[str, str]:
        return asdict(self)
