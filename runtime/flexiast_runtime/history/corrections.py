"""What verdicts and marks teach: stretches of audio, each with its true label or none."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexiast.errors import DataError
from flexiast_runtime.history.clips import Span, list_clips, read_clip_folders, read_span
from flexiast_runtime.history.events import Query
from flexiast_runtime.history.marks import Mark, marks_folder, read_marks
from flexiast_runtime.history.verdicts import ReviewedEvent, Verdict, read_reviewed


@dataclass(frozen=True)
class Correction:
    """A stretch of audio that a person listened to. `flexiast train` reads one as a line of a CSV."""

    path: Path
    span: Span
    """Where the sound lies in the file"""
    label: str | None
    """What it is; None for background: none of the labels"""
    detected: str | None
    """What the model said; None for a sound that it missed"""
    score: float | None
    """Of the event; None for a missed sound"""
    source: str
    decided_at_s: float
    """Unix seconds of the verdict or mark"""
    id: str
    """Of the event or mark"""
    bundle_sha256: str | None
    """Of the model that said so"""
    began_s: float
    """When the sound began: Unix seconds, or seconds of a recording"""

    @property
    def ended_s(self) -> float:
        return self.began_s + self.span.end_s - self.span.start_s


@dataclass(frozen=True)
class Corrections:
    """What can be learnt from a database."""

    found: tuple[Correction, ...]
    missing: tuple[str, ...]
    """Ids of reviewed events and marks whose audio is gone or damaged"""

    @property
    def labelled(self) -> tuple[Correction, ...]:
        return tuple(one for one in self.found if one.label is not None)

    @property
    def background(self) -> tuple[Correction, ...]:
        return tuple(one for one in self.found if one.label is None)


def read_corrections(database: Path, folders: Iterable[Path] | None = None, query: Query = Query()) -> Corrections:
    """The corrections of a database, events first, each in the order of its time.

    Right and other give a label, wrong and nothing give background; a mark gives its label. ``folders`` hold the clips,
    by default those into which the listeners cut them. Raises DataError for a file that is no such database.
    """
    clips = list_clips(read_clip_folders(database) if folders is None else folders)
    found: list[Correction] = []
    missing: list[str] = []
    for one in read_reviewed(database, query):
        correction = _correct_event(one, clips.get(one.event["id"]))
        if correction is None:
            missing.append(one.event["id"])
        else:
            found.append(correction)
    for mark in read_marks(database, query):
        path = marks_folder(database) / Path(mark.audio).name  # never outside that folder, whatever the database says
        if path.is_file():
            found.append(_correct_missed(mark, path))
        else:
            missing.append(mark.id)
    return Corrections(tuple(found), tuple(missing))


def _correct_event(one: ReviewedEvent, clip: Path | None) -> Correction | None:
    """None where the clip is gone or damaged."""
    judgement = one.judgement
    if clip is None or judgement is None:
        return None
    try:
        span = read_span(clip)
    except DataError:
        return None
    return Correction(
        clip,
        span,
        judgement.label if judgement.verdict in {Verdict.RIGHT, Verdict.OTHER} else None,
        one.event["label"],
        one.event["score"],
        one.event["source"],
        judgement.decided_at_s,
        one.event["id"],
        one.bundle_sha256,
        _find_begin(one.event),
    )


def _find_begin(event: dict[str, Any]) -> float:
    started_at = event["started_at"]
    return event["start_s"] if started_at is None else datetime.datetime.fromisoformat(started_at).timestamp()


def _correct_missed(mark: Mark, path: Path) -> Correction:
    span = Span(mark.start_s, mark.end_s)
    times = mark.marked_at_s, mark.id, None, mark.started_at_s
    return Correction(path, span, mark.label, None, None, mark.source, *times)
