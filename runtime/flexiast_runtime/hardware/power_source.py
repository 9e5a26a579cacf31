"""A power source that the user provides, for hardware without a driver: UPS HATs, power stations, meters.

Its address is like a sink's: ``file:/run/ups.json`` or ``exec:python3 ups.py``. Either returns a JSON object or lines
of ``key=value``:

    percent     0 … 100, or fraction, 0 … 1: the charge
    charging    false while the machine runs on battery; required with a charge
    watts       power of the machine

Either charge or watts may be left out; other keys are ignored.
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
from flexiast.log import Log
from flexiast.spec import Value, describe
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.poller import Poller
from flexiast_runtime.subprocesses import MAX_BYTES, output_of

TIMEOUT_S = 3.0
"""Timeout of a command: below POLL_EVERY_S, so that a slow one does not delay the next poll."""
MAX_AGE_S = 300.0
"""A file that was last written longer ago is stale."""
EXAMPLES = "file:/run/ups.json or exec:python3 ups.py"


class Supply(Value, extra="ignore", strict=False):
    """A reading of a source. Not strict, since all values in lines of key=value are text."""

    percent: float | None = Field(None, ge=0, le=100)
    fraction: float | None = Field(None, ge=0, le=1)
    charging: bool | None = None
    watts: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        charges = [charge for charge in (self.percent, self.fraction) if charge is not None]
        if len(charges) > 1:
            raise ValueError("percent and fraction are the same quantity; give one")
        if bool(charges) != (self.charging is not None):
            raise ValueError("percent (or fraction) requires charging, and charging requires either")
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
    """Something that can be read."""

    @property
    def name(self) -> str: ...

    def read(self) -> Supply:
        """The current reading; raises DataError that says why there is none."""
        ...


@dataclass(frozen=True)
class PowerFile:
    """A file that another program writes; best to a temporary file that is then renamed."""

    path: Path
    wall: Callable[[], float] = time.time

    @property
    def name(self) -> str:
        return f"file:{self.path}"

    def read(self) -> Supply:
        try:
            if not self.path.is_file():  # reading a pipe would block
                raise DataError(f"{self.name} is not a regular file")
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES)
            age_s = self.wall() - self.path.stat().st_mtime
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}") from error
        if age_s > MAX_AGE_S:
            raise DataError(
                f"{self.name} was written {age_s:.0f} s ago, which is too old; check the program that writes it"
            )
        return parse_supply(content.decode(errors="replace"), self.name)


@dataclass(frozen=True)
class PowerCommand:
    """A program that prints a reading and exits."""

    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"exec:{shlex.join(self.argv)}"

    def read(self) -> Supply:
        return parse_supply(output_of(self.argv, TIMEOUT_S), self.name)


def parse_power_source(text: str) -> PowerFile | PowerCommand:
    """Parse the address of a source; raises UsageError."""
    kind, _, target = text.partition(":")
    if kind == "file" and target and "\0" not in target:
        try:
            return PowerFile(Path(target).expanduser())
        except RuntimeError as error:  # no such user
            raise UsageError(f"--power-source {text}: {error}") from None
    try:
        argv = tuple(shlex.split(target)) if kind == "exec" else ()
    except ValueError as error:
        raise UsageError(f"--power-source exec: the command cannot be read: {error}") from None
    if not argv:
        raise UsageError(f"--power-source {text!r} is not a source; write {EXAMPLES}")
    return PowerCommand(argv)


def parse_supply(text: str, name: str) -> Supply:
    """Parse a JSON object or lines of key=value; raises DataError that names the source."""
    try:
        if text.lstrip().startswith("{"):
            return Supply.model_validate_json(text)
        lines = [line.partition("=") for line in text.splitlines() if "=" in line]
        return Supply.model_validate({key.strip(): value.strip() for key, _, value in lines})
    except ValidationError as error:
        raise DataError(f"{name} returned no valid reading: {describe(error)}") from error


@dataclass(frozen=True)
class SourceMeter:
    """The watts of a source that is polled."""

    name: str
    poller: Poller[Supply | None]

    def watts(self) -> float | None:
        supply = self.poller.latest
        return None if supply is None else supply.watts


class ReportedOnce:
    """A source whose first error is reported, once. While it fails, its reading is None."""

    def __init__(self, source: PowerSource, log: Log) -> None:
        self.name = source.name
        self._source, self._log, self._reported = source, log, False

    def read(self) -> Supply | None:
        try:
            return self._source.read()
        except DataError as error:
            if not self._reported:
                self._reported = True
                self._log(f"{error}; its readings are unknown until it can be read")
            return None
