"""What a stream reports. `document()` is the JSON form that scripts rely on; README.md lists its fields."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexiast.spec import PatchSize
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.schema import SCHEMA_VERSION, rename_keys

Float = NDArray[np.float32]

RENAMED_EVENT_KEYS = {"began_at": "started_at"}
"""Keys of an event of schema 1.0 and what they are called since 2.0"""


EVENT_KEYS = (
    *("schema_version", "type", "id", "source", "channel", "label", "started_at", "start_s", "end_s"),
    *("start_sample", "end_sample", "score", "patch_size", "threshold", "bundle_sha256"),
)
"""The order of an event's keys"""


@dataclass(frozen=True)
class Event:
    """A sound that has ended; samples at the model's rate, counted from the start of the stream."""

    source: str
    label: str
    start_sample: int
    end_sample: int
    """One past its last sample"""
    sample_rate_hz: int
    score: float
    """Highest smoothed score, 0 … 1"""
    patch: PatchSize
    """Patch size that gave it"""
    started_at_s: float | None = None
    """Unix seconds at which it started; None for files"""
    run: str = ""
    """Part of the id, so that two runs over the same source have different ones"""
    channel: int | None = None
    """The only channel of the recording or device that was classified, from 1; None for the mix"""
    threshold: float | None = None
    """The score that its label had to reach at this patch size"""
    bundle_sha256: str | None = None
    """The bundle whose engines gave it, by the hash of its manifest"""

    @property
    def id(self) -> str:
        """The same for the same event however often it is delivered, another one for every other event."""
        named = f"{self.run}\0{self.source}\0{self.label}\0{self.start_sample}"
        return hashlib.sha256(named.encode()).hexdigest()[:16]

    @property
    def start_s(self) -> float:
        return self.start_sample / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        return self.end_sample / self.sample_rate_hz

    def document(self) -> dict[str, Any]:
        return _record("event") | {
            "id": self.id,
            "source": self.source,
            "channel": self.channel,
            "label": self.label,
            "started_at": None if self.started_at_s is None else _utc(self.started_at_s),
            "start_s": round(self.start_s, 4),
            "end_s": round(self.end_s, 4),
            "start_sample": self.start_sample,
            "end_sample": self.end_sample,
            "score": round(self.score, 4),
            "patch_size": str(self.patch),
            "threshold": None if self.threshold is None else round(self.threshold, 4),
            "bundle_sha256": self.bundle_sha256,
        }


@dataclass(frozen=True)
class Switch:
    """The governor chose another patch size."""

    source: str
    time_s: float
    """Seconds of audio since the start"""
    before: PatchSize
    after: PatchSize
    reason: str

    def document(self) -> dict[str, Any]:
        return _record("switch") | {
            "source": self.source,
            "time_s": round(self.time_s, 3),
            "from": str(self.before),
            "to": str(self.after),
            "reason": self.reason,
        }


def _no_frames() -> Float:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Status:
    """The state of a stream after one window."""

    source: str
    time_s: float
    patch: PatchSize
    top: tuple[tuple[str, float], ...]
    """Best labels and their smoothed scores"""
    active: tuple[str, ...]
    """Labels of open events"""
    latency_s: float
    deadline_s: float
    backlog_s: float
    dropped_s: float
    skipped: int
    """Silent windows so far that no engine ran for"""
    battery: Battery | None
    signal: Signal | None = None
    """What the microphone delivers; None for recordings"""
    thermal_headroom_c: float | None = None
    """Degrees to the temperature at which the kernel throttles the processor"""
    frames: Float = field(default_factory=_no_frames, repr=False, compare=False)
    """Log-mel features [frames, mels] that no earlier window held, normalised; for pictures, not in the document"""

    def document(self) -> dict[str, Any]:
        return _record("status") | {
            "source": self.source,
            "time_s": round(self.time_s, 3),
            "patch_size": str(self.patch),
            "top": [{"label": label, "score": round(score, 4)} for label, score in self.top],
            "active": list(self.active),
            "latency_ms": round(1000 * self.latency_s, 3),
            "deadline_ms": round(1000 * self.deadline_s, 3),
            "backlog_s": round(self.backlog_s, 3),
            "dropped_s": round(self.dropped_s, 3),
            "skipped": self.skipped,
            "battery": None if self.battery is None else round(self.battery.fraction, 4),
            "discharging": None if self.battery is None else self.battery.discharging,
            "signal": None if self.signal is None else self.signal.document(),
            "thermal_headroom_c": None if self.thermal_headroom_c is None else round(self.thermal_headroom_c, 1),
        }


@dataclass(frozen=True)
class SourceNotice:
    """A change of a source: lost, found again, silent, or a fault of its channels."""

    source: str
    time_s: float
    """Seconds of audio since the start"""
    state: Literal["lost", "found", "no signal", "signal", "channels"]
    reason: str

    def document(self) -> dict[str, Any]:
        return _record("source") | {
            "source": self.source,
            "time_s": round(self.time_s, 3),
            "state": self.state,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class EngineFailure:
    """An engine raised an error and is in its cooldown."""

    source: str
    time_s: float
    patch: PatchSize
    reason: str

    def document(self) -> dict[str, Any]:
        return _record("failure") | {
            "source": self.source,
            "time_s": round(self.time_s, 3),
            "patch_size": str(self.patch),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Overload:
    """Even the cheapest patch size misses the deadline again and again; reported once until it is met again."""

    source: str
    time_s: float
    patch: PatchSize
    latency_s: float
    deadline_s: float

    def document(self) -> dict[str, Any]:
        return _record("overload") | {
            "source": self.source,
            "time_s": round(self.time_s, 3),
            "patch_size": str(self.patch),
            "latency_ms": round(1000 * self.latency_s, 3),
            "deadline_ms": round(1000 * self.deadline_s, 3),
        }


@dataclass(frozen=True)
class VariantUse:
    """What one variant did and cost."""

    patch: PatchSize
    windows: int
    misses: int
    """Windows that took longer than the deadline"""
    cpu_s: float
    latency_p50_s: float
    latency_p95_s: float

    def document(self) -> dict[str, Any]:
        return {
            "patch_size": str(self.patch),
            "windows": self.windows,
            "misses": self.misses,
            "cpu_s": round(self.cpu_s, 4),
            "latency_p50_ms": round(1000 * self.latency_p50_s, 3),
            "latency_p95_ms": round(1000 * self.latency_p95_s, 3),
        }


@dataclass(frozen=True)
class Summary:
    """The whole run; the last record."""

    source: str
    audio_s: float
    windows: int
    skipped: int
    """Windows among them that were silent, so that no engine ran"""
    events: int
    switches: int
    discontinuities: int
    dropped_s: float
    cpu_s: float
    """Of the whole process during the stream: reading, resampling, features, engines, printing"""
    variants: tuple[VariantUse, ...]
    overloads: int = 0
    """Times that even the cheapest patch size was too slow"""

    @property
    def misses(self) -> int:
        return sum(use.misses for use in self.variants)

    @property
    def miss_rate(self) -> float:
        return self.misses / self.windows if self.windows else 0.0

    def document(self) -> dict[str, Any]:
        return _record("summary") | {
            "source": self.source,
            "audio_s": round(self.audio_s, 3),
            "windows": self.windows,
            "skipped": self.skipped,
            "events": self.events,
            "switches": self.switches,
            "overloads": self.overloads,
            "misses": self.misses,
            "miss_rate": round(self.miss_rate, 4),
            "discontinuities": self.discontinuities,
            "dropped_s": round(self.dropped_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "variants": [use.document() for use in self.variants],
        }


Record = Event | Switch | Status | SourceNotice | EngineFailure | Overload | Summary


def upgrade_event(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON form of an event, stored by this or an earlier version, as `Event.document` gives it today."""
    absent = {"channel": None, "threshold": None, "bundle_sha256": None}
    upgraded = absent | rename_keys(document, RENAMED_EVENT_KEYS) | {"schema_version": SCHEMA_VERSION}
    return {key: upgraded[key] for key in EVENT_KEYS if key in upgraded} | upgraded


def _record(kind: str) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "type": kind}


def _utc(time_s: float) -> str:
    """Unix seconds as ISO 8601 with milliseconds."""
    return datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc).isoformat(timespec="milliseconds")
