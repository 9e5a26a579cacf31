"""What a governor saw and decided, on disk: a day in JSON lines that can be played again, decision by decision.

The first line is the header; each other one is a step. A killed process leaves at most one torn line, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import DataError
from flexiast.manifest import Sha256
from flexiast.spec import Value, describe
from flexiast_runtime.governor import step as governor
from flexiast_runtime.governor.step import Decision, Observation, Option, Policy
from flexiast_runtime.schema import rename_keys, upgrade_json

MAX_TRACE_BYTES = 50_000_000
"""A day or two at two windows a second; a recorder stops here, and no longer file is read."""


POSSIBLE: dict[str, tuple[float, float]] = {
    "time_s": (0.0, math.inf),
    "deadline_s": (0.0, math.inf),
    "latency_s": (0.0, math.inf),
    "overhead_s": (-math.inf, math.inf),  # a difference, which may be rounded
    "backlog_steps": (0.0, math.inf),
    "thermal_headroom_c": (-math.inf, math.inf),
}
"""What each number that was seen can be; never infinite, never NaN"""

POSSIBLE_OF_BATTERY: dict[str, tuple[float, float]] = {"fraction": (0.0, 1.0), "energy_j": (0.0, math.inf)}


RENAMED_KEYS = {"made_at": "created_at", "first": "first_observation", "seen": "observation"}
"""Keys of schema 1.0 and what they are called since 2.0, in a header and in a step"""
RENAMED_IN_OBSERVATION = {"heat_room_k": "thermal_headroom_c"}


class _Line(Value):
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")  # what bounds nothing is Infinity


class Header(_Line):
    """What the decisions depend on besides what was seen."""

    schema_version: Literal["2.0"] = "2.0"
    type: Literal["trace"] = "trace"
    created_at: str
    bundle: str
    """As it was named"""
    bundle_sha256: Sha256
    """Of its manifest"""
    versions: dict[str, str]
    step_s: float = Field(gt=0, allow_inf_nan=False)
    """From one window to the next"""
    options: tuple[Option, ...] = Field(min_length=1)
    """From cheap to dear"""
    policy: Policy
    first_observation: Observation
    """Before any window"""
    index: int = Field(ge=0)
    """Of the option that it began with"""
    sources: int = Field(default=1, ge=1)
    """Streams that were heard; each has a time line of its own"""

    @model_validator(mode="after")
    def _can_be_played(self) -> Self:
        costs = [option.latency_s for option in self.options]
        if not all(0 < cost < math.inf for cost in costs) or costs != sorted(costs):
            raise ValueError(f"latencies of options must be above 0 and from cheap to dear, not {costs}")
        if self.index >= len(self.options):
            raise ValueError(f"it begins with option {self.index}; there are {len(self.options)}")
        return self


class Step(_Line):
    """One observation and what was decided."""

    observation: Observation
    index: int = Field(ge=0)
    """Of the option to run next"""
    reason: str | None = None


class Trace(NamedTuple):
    """A recording read back."""

    header: Header
    steps: tuple[Step, ...]
    torn: bool
    """The last line was cut off, and left out: the process was killed while it wrote"""

    @property
    def ran(self) -> tuple[int, ...]:
        """The option that each observation is of: the one decided for before it, unless it names another."""
        decided = (self.header.index, *(step.index for step in self.steps))
        return tuple(
            before if step.observation.option is None else step.observation.option
            for before, step in zip(decided, self.steps, strict=False)
        )


class Replay(NamedTuple):
    """What the governor decides today on what it saw then."""

    agreed: int
    """Decisions that are the same, from the first on"""
    differs: tuple[Step, Decision] | None
    """The next one: as recorded, as decided now"""


def read_trace(path: Path) -> Trace:
    """A recording from a file; raises DataError that says which line is wrong and why."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TRACE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_TRACE_BYTES:
        raise DataError(f"{path} is larger than {MAX_TRACE_BYTES:,} bytes and cannot be a trace")
    first, *lines, torn = content.split(b"\n") if b"\n" in content else (content, b"")
    if _has_schema_1(first):
        first, *lines = (upgrade_json(line, _upgrade_line) for line in (first, *lines))
    try:
        header = Header.model_validate_json(first)
    except ValidationError as error:
        raise DataError(f"{path} is not a trace of `flexiast listen --record`: {describe(error)}") from error
    _check_possible(path, 1, header.first_observation)
    steps = tuple(_step(path, number, line, header) for number, line in enumerate(lines, 2))
    if header.sources == 1:
        _check_order(path, [header.first_observation, *(step.observation for step in steps)])
    return Trace(header, steps, bool(torn))


def _has_schema_1(header: bytes) -> bool:
    return header.startswith(b'{"schema_version":"1.0",')


def _upgrade_line(document: dict[str, Any]) -> dict[str, Any]:
    """A line of schema 1.0 under the keys of today; a step has no version of its own."""
    line = rename_keys(document, RENAMED_KEYS)
    if "schema_version" in line:
        line["schema_version"] = "2.0"
    for key in ("first_observation", "observation"):
        if isinstance(line.get(key), dict):
            line[key] = rename_keys(line[key], RENAMED_IN_OBSERVATION)
    return line


def _step(path: Path, number: int, line: bytes, header: Header) -> Step:
    try:
        step = Step.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{path}, line {number} is not a step of a trace: {describe(error)}") from error
    if (highest := max(step.index, step.observation.option or 0)) >= len(header.options):
        raise DataError(f"{path}, line {number} names option {highest}; the header has {len(header.options)}")
    _check_possible(path, number, step.observation)
    return step


def _check_possible(path: Path, number: int, seen: Observation) -> None:
    """Raise DataError for what no run can have seen."""
    found = [(name, getattr(seen, name), limits) for name, limits in POSSIBLE.items()]
    if seen.battery is not None:
        found += [(f"battery.{name}", getattr(seen.battery, name), at) for name, at in POSSIBLE_OF_BATTERY.items()]
    for name, value, (low, high) in found:
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise DataError(f"{path}, line {number}: {name} is {value:g}; it must be a number from {low:g} to {high:g}")


def _check_order(path: Path, seen: Sequence[Observation]) -> None:
    """Raise DataError where the time of one stream goes back."""
    for number, (before, after) in enumerate(pairwise(seen), 2):
        if after.time_s < before.time_s:
            raise DataError(f"{path}, line {number}: time goes back, from {before.time_s:g} s to {after.time_s:g} s")


def replay(trace: Trace) -> Replay:
    """The recorded observations through the governor, until a decision is another one."""
    policy, options = trace.header.policy, trace.header.options
    state = governor.start(policy, options, trace.header.first_observation)
    if state.index != trace.header.index:
        return Replay(
            0, (Step(observation=trace.header.first_observation, index=trace.header.index), Decision(state.index))
        )
    for agreed, step in enumerate(trace.steps):
        state, decision = governor.step(policy, options, state, step.observation)
        if decision != Decision(step.index, step.reason):
            return Replay(agreed, (step, decision))
    return Replay(len(trace.steps), None)


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is empty or begins like a trace."""
    beginnings = {f'{{"schema_version":"{version}","type":"trace"'.encode() for version in ("1.0", "2.0")}
    with path.open("rb") as file:
        return file.read(max(map(len, beginnings))) in {b"", *beginnings}


class Recorder:
    """Writes a trace, a line at a time, each handed to the system whole before the next window."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises DataError when the file cannot be written, or is none of ours; an older trace is replaced."""
        if path.is_file() and not _may_be_replaced(path):
            raise DataError(f"{path} is there and no trace of flexiast; name another file")
        self._path, self._bytes, self.full = path, 0, False
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}; name another file") from error
        try:
            self._write(header.model_dump_json())
        except DataError:
            self.close()
            raise

    def __call__(self, seen: Observation, decision: Decision) -> None:
        """Write one step; nothing once the file is full. Raises DataError when the disk is."""
        step = Step(observation=seen, index=decision.index, reason=decision.reason)
        self._write(step.model_dump_json(exclude_defaults=True))

    def close(self) -> None:
        self._file.close()

    def _write(self, line: str) -> None:
        rest = line.encode() + b"\n"
        self.full |= self._bytes + len(rest) > MAX_TRACE_BYTES
        if self.full:
            return
        self._bytes += len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.full = True  # what follows a torn line could not be read
            raise DataError(f"{self._path} cannot be written: {error.strerror}") from error
