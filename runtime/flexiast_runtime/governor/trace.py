"""A recording of observations and decisions, in JSON lines, that can be replayed decision by decision.

The first line is the header, each other one a step. A killed process leaves at most one torn line, at the end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import DataError
from flexiast.manifest import Sha256
from flexiast.spec import Value, describe
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy

MAX_TRACE_BYTES = 50_000_000
"""A day or two at two windows a second. A recorder stops here, and longer files are not read."""

VALID_RANGES: dict[str, tuple[float, float]] = {
    "time_s": (0.0, math.inf),
    "deadline_s": (0.0, math.inf),
    "latency_s": (0.0, math.inf),
    "overhead_s": (-math.inf, math.inf),  # a difference of two clock readings, which may round below 0
    "backlog_steps": (0.0, math.inf),
    "thermal_headroom_c": (-math.inf, math.inf),
    "snr_db": (-math.inf, math.inf),
}
"""Of the numbers in an observation; none may be infinite or NaN"""

VALID_BATTERY_RANGES: dict[str, tuple[float, float]] = {"fraction": (0.0, 1.0), "energy_j": (0.0, math.inf)}


SCHEMA_VERSION: Literal["2.0"] = "2.0"
_RENAMED_IN_2 = {
    "made_at": "created_at",
    "first": "first_observation",
    "seen": "observation",
    "heat_room_k": "thermal_headroom_c",
    "hot_k": "hot_headroom_c",
    "cool_k": "cool_headroom_c",
    "fastest_change": "max_charge_per_min",
    "remembered_s": "battery_timeout_s",
}
"""Names of version 1.0, which is still read, and today's"""


class _Line(Value):
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")  # Infinity: no bound


class Header(_Line):
    """What the decisions depend on besides the observations."""

    schema_version: Literal["2.0"] = SCHEMA_VERSION
    type: Literal["trace"] = "trace"
    created_at: str
    bundle: str
    """As the user named it"""
    bundle_sha256: Sha256
    """Of its manifest"""
    versions: dict[str, str]
    step_s: float = Field(gt=0, allow_inf_nan=False)
    """From one window to the next"""
    options: tuple[Option, ...] = Field(min_length=1)
    """Ordered by cost"""
    policy: Policy
    first_observation: Observation
    """Before any window"""
    index: int = Field(ge=0)
    """Of the first option"""
    sources: int = Field(default=1, ge=1)
    """Number of streams; each has its own time line"""

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        costs = [option.latency_s for option in self.options]
        if not all(0 < cost < math.inf for cost in costs) or costs != sorted(costs):
            raise ValueError(f"latencies of options must be above 0 and in ascending order, not {costs}")
        if self.index >= len(self.options):
            raise ValueError(f"the first option is {self.index}; there are {len(self.options)}")
        return self


class TraceStep(_Line):
    """One observation and the decision on it."""

    observation: Observation
    index: int = Field(ge=0)
    """Of the option to run next"""
    reason: str | None = None


class Trace(NamedTuple):
    """A recording, read from a file."""

    header: Header
    steps: tuple[TraceStep, ...]
    torn: bool
    """Whether the last line was cut off and left out: the process was killed while it wrote"""

    @property
    def executed_options(self) -> tuple[int, ...]:
        """The option that each observation is of: the one decided before it, unless the observation names another."""
        decided = (self.header.index, *(each.index for each in self.steps))
        return tuple(
            before if each.observation.option is None else each.observation.option
            for before, each in zip(decided, self.steps, strict=False)
        )


class Replay(NamedTuple):
    """What the governor decides today on recorded observations."""

    same: int
    """How many decisions are the same, from the first on"""
    difference: tuple[TraceStep, Decision] | None
    """The next one: as recorded, as decided now; None: all are the same"""


def read_trace(path: Path) -> Trace:
    """Read a recording; raises DataError that names the line that is wrong, and why."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TRACE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_TRACE_BYTES:
        raise DataError(f"{path} is larger than {MAX_TRACE_BYTES:,} bytes and cannot be a trace")
    first, *lines, torn = content.split(b"\n") if b"\n" in content else (content, b"")
    if old := _is_version_1(first):
        first = _rename_keys(first)
    try:
        header = Header.model_validate_json(first)
    except ValidationError as error:
        raise DataError(f"{path} is not a trace of `flexiast listen --record`: {describe(error)}") from error
    _check_ranges(path, 1, header.first_observation)
    steps = tuple(
        _parse_step(path, number, _rename_keys(line) if old else line, header) for number, line in enumerate(lines, 2)
    )
    if header.sources == 1:
        _check_order(path, [header.first_observation, *(each.observation for each in steps)])
    return Trace(header, steps, bool(torn))


def _is_version_1(header: bytes) -> bool:
    return header.startswith(b'{"schema_version":"1.0"')


def _rename_keys(line: bytes) -> bytes:
    """A line of version 1.0 with today's names; what is not JSON is left for the parser to report."""

    def rename(document: dict[str, Any]) -> dict[str, Any]:
        return {_RENAMED_IN_2.get(key, key): value for key, value in document.items()}

    try:
        document = json.loads(line, object_hook=rename)
    except ValueError:
        return line
    if isinstance(document, dict) and "schema_version" in document:
        document["schema_version"] = SCHEMA_VERSION
    return json.dumps(document).encode()


def _parse_step(path: Path, number: int, line: bytes, header: Header) -> TraceStep:
    try:
        parsed = TraceStep.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{path}, line {number} is not a step of a trace: {describe(error)}") from error
    if (highest := max(parsed.index, parsed.observation.option or 0)) >= len(header.options):
        raise DataError(f"{path}, line {number} names option {highest}; the header has {len(header.options)}")
    _check_ranges(path, number, parsed.observation)
    return parsed


def _check_ranges(path: Path, number: int, observation: Observation) -> None:
    """Raise DataError for a number that no run can produce."""
    found = [(name, getattr(observation, name), limits) for name, limits in VALID_RANGES.items()]
    if observation.battery is not None:
        found += [
            (f"battery.{name}", getattr(observation.battery, name), at) for name, at in VALID_BATTERY_RANGES.items()
        ]
    for name, value, (low, high) in found:
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise DataError(f"{path}, line {number}: {name} is {value:g}; it must be a number from {low:g} to {high:g}")


def _check_order(path: Path, observations: Sequence[Observation]) -> None:
    """Raise DataError where the time of a stream goes back."""
    for number, (before, after) in enumerate(pairwise(observations), 2):
        if after.time_s < before.time_s:
            raise DataError(f"{path}, line {number}: time goes back, from {before.time_s:g} s to {after.time_s:g} s")


def replay(trace: Trace) -> Replay:
    """Run the governor on the recorded observations until it decides something else than was recorded.

    Reasons are not compared: they are wording, and versions word them differently.
    """
    policy, options = trace.header.policy, trace.header.options
    state = init_state(policy, options, trace.header.first_observation)
    if state.index != trace.header.index:
        return Replay(
            0, (TraceStep(observation=trace.header.first_observation, index=trace.header.index), Decision(state.index))
        )
    for same, recorded in enumerate(trace.steps):
        state, decision = step(policy, options, state, recorded.observation)
        if decision.index != recorded.index:
            return Replay(same, (recorded, decision))
    return Replay(len(trace.steps), None)


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is empty or begins like a trace, of any version."""
    with path.open("rb") as file:
        return re.fullmatch(rb'(\{"schema_version":"\d\.\d","type":"trace")?', file.read(38)) is not None


class Recorder:
    """Writes a trace line by line, without buffering: a process that is killed loses no earlier line."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises DataError when the file cannot be written or holds something else; an older trace is replaced."""
        if path.is_file() and not _may_be_replaced(path):
            raise DataError(f"{path} exists and is not a trace of flexiast; name another file")
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

    def __call__(self, observation: Observation, decision: Decision) -> None:
        """Write one step, or nothing once the file is full. Raises DataError when the disk is full."""
        line = TraceStep(observation=observation, index=decision.index, reason=decision.reason)
        self._write(line.model_dump_json(exclude_defaults=True))

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
            self.full = True  # a torn line must be the last one
            raise DataError(f"{self._path} cannot be written: {error.strerror}") from error
