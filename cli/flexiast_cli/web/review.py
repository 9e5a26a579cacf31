"""What the page's view *Review* shows and stores: JSON documents from the history database, pictures of clips."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from flexiast.errors import DataError, UsageError
from flexiast.frontend import Frontend
from flexiast.text import has_controls
from flexiast_cli.spectrogram import BINS, MAGMA, shades
from flexiast_runtime.history.clips import list_clips, read_span
from flexiast_runtime.history.events import Query, list_labels
from flexiast_runtime.history.precision import measure_precision
from flexiast_runtime.history.queue import Order, QueueQuery, Reviewed, read_neighbours, read_queue
from flexiast_runtime.history.verdicts import (
    Judgement,
    ReviewedEvent,
    Verdict,
    find_event,
    give_verdict,
    read_bundles,
    read_reviewed,
    withdraw_verdict,
)

if TYPE_CHECKING:
    from flexiast.spec import FrontendSpec

Float = NDArray[np.float32]

MOST_EVENTS = 200
"""Of one answer; the page asks again when it has shown them."""
LONGEST_NAME = 60


class ReviewDesk:
    """Answers the view's questions from one database and the clips of one folder, and stores its verdicts.

    Every function opens the database for itself: they are called in any thread. Clips come from the folder alone,
    whatever the database says.
    """

    def __init__(self, database: Path, clips: Path, frontend: FrontendSpec) -> None:
        self._database, self._folder, self._frontend = database, clips, frontend
        self._clips: dict[str, Path] = {}
        self._listed_at: int | None = None

    def find_clip(self, event_id: str) -> Path | None:
        """The clip of an event. The folder is listed again once it has changed."""
        changed_at = self._folder.stat().st_mtime_ns if self._folder.is_dir() else None
        if changed_at != self._listed_at:
            self._clips, self._listed_at = list_clips([self._folder]), changed_at
        return self._clips.get(event_id)

    def list_queue(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Events to listen to, with what the view needs to show them; raises UsageError for a filter of no sense."""
        self.find_clip("")
        queue = read_queue(self._database, _parse_filters(parameters, frozenset(self._clips)))
        bundles = read_bundles(self._database)
        frontend, detected = self._frontend, list_labels(self._database)
        known = {label for bundle in bundles.values() for label in bundle.labels}
        return {
            "events": [_document(one) for one in queue.events],
            "unreviewed": queue.unreviewed,
            "reviewed": queue.reviewed,
            "detected": detected,
            "labels": sorted(known.union(detected)),
            "bundles": [{"bundle_sha256": one.sha256, "model": one.model} for one in bundles.values()],
            "hop_s": frontend.hop_samples / frontend.sample_rate_hz,
            "bins": min(BINS, frontend.mel_bins),
            "low_hz": frontend.low_hz,
            "high_hz": frontend.high_hz,
            "colours": MAGMA,
        }

    def describe(self, event_id: str) -> dict[str, Any]:
        """An event with what is near it, and where it lies in its clip; raises DataError for one that is not there."""
        found = find_event(self._database, event_id)
        neighbours = read_neighbours(self._database, found.event)
        span = None
        if (clip := self.find_clip(event_id)) is not None:
            span = read_span(clip)._asdict()
        return _document(found) | {"neighbours": [_document(one) for one in neighbours], "span": span}

    def draw(self, event_id: str) -> bytes:
        """Shades of a clip's spectrogram, uint8 [frames, bins], as the model sees it; raises DataError."""
        clip = self.find_clip(event_id)
        if clip is None:
            raise DataError("the clip is gone: retention has removed it")
        try:
            samples, rate_hz = soundfile.read(clip, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"the clip cannot be read: {error}") from error
        return draw_sound(samples.mean(axis=1), rate_hz, self._frontend)

    def judge(self, event_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Store a verdict; raises what ``give_verdict`` raises."""
        try:
            verdict = Verdict(document.get("verdict"))
        except ValueError:
            known = ", ".join(one.value for one in Verdict)
            raise UsageError(f"{document.get('verdict')!r} is no verdict; there are {known}") from None
        label = document.get("label")
        if not isinstance(label, str | None):
            raise UsageError("a label is plain text")
        seen = _parse_judgement(document.get("instead_of"))
        given = give_verdict(
            self._database, event_id, verdict, label, reviewer=parse_reviewer(document), instead_of=seen
        )
        return given.document()

    def withdraw(self, event_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Take a verdict back; raises what ``withdraw_verdict`` raises."""
        withdraw_verdict(self._database, event_id, instead_of=_parse_judgement(document.get("instead_of")))
        return {}

    def measure(self) -> dict[str, Any]:
        """How often each label was right."""
        return measure_precision(read_reviewed(self._database)).document()


def draw_sound(mono: Float, rate_hz: int, frontend: FrontendSpec) -> bytes:
    """Shades of a spectrogram, uint8 [frames, bins], as the model sees it."""
    if rate_hz != frontend.sample_rate_hz:
        mono = soxr.resample(mono, rate_hz, frontend.sample_rate_hz)
    computed = Frontend(frontend)
    return shades(computed.normalise(computed.log_mel(mono))).tobytes()


def parse_reviewer(document: Mapping[str, Any]) -> str:
    """Who reviews, as the browser says; raises UsageError."""
    reviewer = document.get("reviewer") or "page"
    if not isinstance(reviewer, str) or has_controls(reviewer):
        raise UsageError("a reviewer is plain text")
    return reviewer[:LONGEST_NAME]


def _document(one: ReviewedEvent) -> dict[str, Any]:
    judgement = None if one.judgement is None else one.judgement.document()
    return one.event | {"model": one.model, "judgement": judgement}


def _parse_judgement(document: Any) -> Judgement | None:
    if document is None:
        return None
    try:
        verdict, label, time_s, reviewer = (document[key] for key in ("verdict", "label", "decided_at_s", "reviewer"))
        return Judgement(Verdict(verdict), label, float(time_s), reviewer)
    except (TypeError, KeyError, ValueError):
        raise UsageError("instead_of is the verdict that was seen, or null") from None


def _parse_filters(parameters: Mapping[str, str], clips: frozenset[str]) -> QueueQuery:
    try:
        since_s = until_s = None
        if day := parameters.get("day"):
            midnight = datetime.datetime.fromisoformat(day).replace(hour=0, minute=0, second=0)  # local, as days are
            since_s, until_s = midnight.timestamp(), (midnight + datetime.timedelta(days=1)).timestamp()
        labels = (parameters["label"],) if parameters.get("label") else ()
        return QueueQuery(
            Query(labels, since_s=since_s, until_s=until_s, limit=MOST_EVENTS),
            Reviewed(parameters.get("reviewed") or "no"),
            Order(parameters.get("order") or "least-sure"),
            float(parameters.get("min") or 0),
            float(parameters.get("max") or 1),
            clips,
        )
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"the filters cannot be used: {error}") from None
