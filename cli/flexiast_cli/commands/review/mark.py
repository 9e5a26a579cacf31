"""The work of `flexiast review mark` and `marks`: sounds that no event reported."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from flexiast.errors import DataError, UsageError
from flexiast.spec import check_label
from flexiast.text import preview, printable
from flexiast_cli.commands.history.query import parse_moment
from flexiast_cli.commands.review.card import SoundPicture
from flexiast_cli.commands.review.people import confirm_label, explain_unknown, list_known_labels, name_user
from flexiast_cli.terminal.console import count_noun, log, stdout
from flexiast_cli.terminal.keys import Keys
from flexiast_runtime.history.clips import Span
from flexiast_runtime.history.database import check_exists, default_database
from flexiast_runtime.history.marks import CONTEXT_S, Mark, mark_sound, marks_folder, read_marks, remove_mark
from flexiast_runtime.history.stored_audio import (
    SEGMENT_S,
    Stretch,
    audio_folder,
    cut_stretch,
    find_stored_span,
    list_sources,
)

LOOK_S = 10.0
"""Seconds before and after a sound that are shown with --dry-run"""
WRITTEN_S = SEGMENT_S + 10.0
"""Seconds after which a listener that runs has written what it heard, on a slow disk too"""
POLL_S = 0.5


def run(database: Path | None, label: str, at: str, seconds: float, source: str | None, *, dry_run: bool) -> None:
    """Raises UsageError for a label that cannot be or a time to come, DataError for one whose sound is not kept."""
    database = database or default_database()
    check_exists(database)
    folder = audio_folder(database)
    source = _choose_source(folder, source)
    now = datetime.datetime.now(datetime.timezone.utc)
    start_s = parse_moment(at, "--at", now)
    assert start_s is not None
    if start_s > now.timestamp():
        raise UsageError(f"--at {at} is yet to come; give the time at which it began to sound")
    _wait_for_sound(folder, source, start_s + seconds)
    stretch = cut_stretch(folder, source, start_s, start_s + seconds, context_s=LOOK_S if dry_run else CONTEXT_S)
    label = _check_label(database, label, dry_run=dry_run)
    what = f"{printable(label)} in {printable(source)}, {_describe_moment(start_s)},"
    stdout().print(SoundPicture(stretch.samples, stretch.rate_hz, Span(stretch.start_s, stretch.end_s), what))
    if dry_run:
        log("nothing is stored; without --dry-run the stretch above the line is marked")
        return
    _store(database, label, stretch)


def print_marks(database: Path | None) -> None:
    """One line for each mark."""
    database = database or default_database()
    marks = read_marks(database)
    for mark in marks:
        columns = (mark.id, _describe_moment(mark.started_at_s), f"{mark.end_s - mark.start_s:.1f} s", mark.label)
        stdout().print(
            "  ".join(map(printable, (*columns, mark.source, _describe_audio(database, mark)))), markup=False
        )
    log(f"{count_noun(len(marks), 'mark')} in {database}")


def remove_marks(database: Path | None, mark_ids: Sequence[str]) -> None:
    """Raises DataError for a mark that is not there; those before it are removed."""
    for mark_id in mark_ids:
        remove_mark(database or default_database(), mark_id)
    log(f"{count_noun(len(mark_ids), 'mark')} removed")


def _choose_source(folder: Path, source: str | None) -> str:
    known = list_sources(folder)
    if not known:
        raise DataError(f"no sound is kept in {folder}; `flexiast listen --to sqlite --keep-audio 24h` keeps it")
    if source is None and len(known) > 1:
        raise UsageError(f"sound of {count_noun(len(known), 'source')} is kept: {preview(known)}; add --source")
    if source is not None and source not in known:
        raise UsageError(f"--source {source!r} cannot be used; sound is kept of {preview(known)}")
    return source or known[0]


def _wait_for_sound(folder: Path, source: str, end_s: float) -> None:
    """Until a listener has written what has just sounded; no longer than one that runs needs."""
    is_logged = False
    while (now_s := time.time()) < end_s + WRITTEN_S:
        span = find_stored_span(folder, source)
        if span is None or span[1] >= end_s or now_s - span[1] > 2 * WRITTEN_S:  # none runs
            return
        if not is_logged:
            log(f"what has just sounded is written within {SEGMENT_S:.0f} s; waiting")
            is_logged = True
        time.sleep(POLL_S)


def _check_label(database: Path, label: str, *, dry_run: bool) -> str:
    """The label to store. One that no model here knows is confirmed as in `flexiast review`: by typing it again."""
    try:
        check_label(label)
    except ValueError as error:
        raise UsageError(str(error)) from None
    known = list_known_labels(database)
    if not dry_run:
        return confirm_label(label, known, Keys(single=False).read_line)
    if label not in known:
        log(explain_unknown(label, known))
    return label


def _store(database: Path, label: str, stretch: Stretch) -> None:
    mark = mark_sound(database, label, stretch, reviewer=name_user())
    seconds = stretch.end_s - stretch.start_s
    log(
        f"mark {mark.id}: {label} in {stretch.source}, {_describe_moment(stretch.started_at_s)}, {seconds:.1f} s; "
        f"`flexiast learn` teaches it, `flexiast review marks --remove {mark.id}` takes it back"
    )


def _describe_moment(moment_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment_s):%a %d %b %Y %H:%M:%S}"


def _describe_audio(database: Path, mark: Mark) -> str:
    path = marks_folder(database) / Path(mark.audio).name
    return str(path) if path.is_file() else "its audio is gone"
