"""A power source of the user's own, for what no driver shows: UPS HATs, power stations, meters.

One line names it, as a sink's does: ``file:/run/ups.json`` or ``exec:python3 ups.py``. Either gives a JSON object or
lines of ``key=value``:

    percent     0 … 100, or fraction, 0 … 1: the charge
    charging    false while the machine runs on the charge; belongs to it
    watts       what the machine draws

Charge or watts may be left out; other keys are not read.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import DataError, UsageError
from flexiast.spec import Value, describe
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.poller import Poller
from flexiast_runtime.subprocesses import MAX_BYTES, output_of

TIMEOUT_S = 3.0
"""Seconds that a command may take."""
MAX_AGE_S = 300.0
"""A file that nobody wrote for so long says nothing of now."""
EXAMPLES = "file:/run/ups.json or exec:python3 ups.py"


class Supply(Value, extra="ignore", strict=False):
    """What a source said; of lines all values are text, so they are not read strictly."""

    percent: float | None = Field(None, ge=0, le=100)
    fraction: float | None = Field(None, ge=0, le=1)
    charging: bool | None = None
    watts: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        charges = [charge for charge in (self.percent, self.fraction) if charge is not None]
        if len(charges) > 1:
            raise ValueError("percent and fraction say the same thing; give one")
        if bool(charges) != (self.charging is not None):
            raise ValueError("percent (or fraction) and charging belong together")
        if not charges and self.watts is None:
            raise ValueError("there is no percent, fraction or watts")
        return self

    @property
    def battery(self) -> Battery | None:
        if self.charging is None:
            return None
        fraction = (self.percent or 0.0) / 100 if self.fraction is None else self.fraction
        return Battery(fraction, discharging=not self.charging)


class PowerSource(Protocol):
    """Something that can be asked."""

    @property
    def name(self) -> str: ...

    def read(self) -> Supply:
        """What it says now; raises DataError that says why it is not known."""
        ...


@dataclass(frozen=True)
class PowerFile:
    """A file that some other program writes, best beside it and then renamed."""

    path: Path
    wall: Callable[[], float] = time.time

    @property
    def name(self) -> str:
        return f"file:{self.path}"

    def read(self) -> Supply:
        try:
            if not self.path.is_file():  # a pipe would be waited for
                raise DataError(f"{self.name} is no file")
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES)
            age_s = self.wall() - self.path.stat().st_mtime
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}") from error
        if age_s > MAX_AGE_S:
            raise DataError(f"{self.name} was written {age_s:.0f} s ago; what it says may no longer be true")
        return parse_supply(content.decode(errors="replace"), self.name)


@dataclass(frozen=True)
class PowerCommand:
    """A program that prints the reading and ends."""

    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"exec:{shlex.join(self.argv)}"

    def read(self) -> Supply:
        return parse_supply(output_of(self.argv, TIMEOUT_S), self.name)


def parse_power_source(text: str) -> PowerFile | PowerCommand:
    """The source that a line names; raises UsageError."""
    kind, _, target = text.partition(":")
    if kind == "file" and target and "\0" not in target:
        try:
            return PowerFile(Path(target).expanduser())
        except RuntimeError as error:  # a user that does not exist
            raise UsageError(f"--power-source {text}: {error}") from None
    try:
        argv = tuple(shlex.split(target)) if kind == "exec" else ()
    except ValueError as error:
        raise UsageError(f"--power-source exec: the command cannot be read: {error}") from None
    if not argv:
        raise UsageError(f"--power-source {text!r} names no source; write {EXAMPLES}")
    return PowerCommand(argv)


def parse_supply(text: str, name: str) -> Supply:
    """A reading from a JSON object or lines of key=value; raises DataError that names the source."""
    try:
        if text.lstrip().startswith("{"):
            return Supply.model_validate_json(text)
        lines = [line.partition("=") for line in text.splitlines() if "=" in line]
        return Supply.model_validate({key.strip(): value.strip() for key, _, value in lines})
    except ValidationError as error:
        raise DataError(f"{name} gives no reading: {describe(error)}") from error


@dataclass(frozen=True)
class SourceMeter:
    """The watts of a source that a lookout reads."""

    name: str
    lookout: Poller[Supply | None]

    def watts(self) -> float | None:
        supply = self.lookout.latest
        return None if supply is None else supply.watts


class ReportedOnce:
    """A source whose first trouble is said, once; while there is any, nothing is known."""

    def __init__(self, source: PowerSource, say: Callable[[str], None]) -> None:
        self.name = source.name
        self._source, self._say, self._said = source, say, False

    def read(self) -> Supply | None:
        try:
            return self._source.read()
        except DataError as error:
            if not self._said:
                self._said = True
                self._say(f"{error}; what it would say is unknown until it can be read")
            return None
