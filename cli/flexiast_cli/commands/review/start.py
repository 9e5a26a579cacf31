"""The work of `flexiast review`: one event after the other in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flexiast.errors import ChangedError, FlexiastError, LockedError, UsageError
from flexiast.text import printable
from flexiast_cli.commands.history.command import QueryOptions
from flexiast_cli.commands.history.query import build_query
from flexiast_cli.commands.review.card import draw_card, play
from flexiast_cli.commands.review.people import confirm_label, list_known_labels, name_user
from flexiast_cli.terminal.console import count_noun, log, stdout
from flexiast_cli.terminal.keys import Keys, open_keys
from flexiast_runtime.history.clips import list_clips, read_clip_folders
from flexiast_runtime.history.database import default_database
from flexiast_runtime.history.events import list_labels
from flexiast_runtime.history.queue import Order, QueueQuery, Reviewed, read_neighbours, read_queue
from flexiast_runtime.history.verdicts import (
    ReviewedEvent,
    Verdict,
    give_verdict,
    read_verdicts,
    withdraw_verdict,
)

VERDICTS = {"1": Verdict.RIGHT, "2": Verdict.WRONG, "3": Verdict.OTHER, "0": Verdict.NOTHING}
HELP = "space play · 1 right · 2 wrong · 3 another label · 0 nothing · ← → walk · u take back · q end"


def run(
    database: Path | None, options: QueryOptions, folders: Sequence[Path] | None, order: str, *, again: bool
) -> None:
    """Raises DataError for a file that is no such database."""
    database = database or default_database()
    clips = list_clips(read_clip_folders(database) if folders is None else folders)
    wanted = QueueQuery(
        build_query(options), Reviewed.ANY if again else Reviewed.NO, Order(order), with_clip=clips.keys()
    )
    queue = read_queue(database, wanted)
    if not queue.events:
        log(_explain_nothing(database, reviewed=queue.reviewed, clips=len(clips)))
        return
    log(f"{count_noun(queue.unreviewed, 'event')} to listen to; {queue.reviewed:,} have a verdict\n{HELP}")
    review = _Review(database, list(queue.events), clips)
    with open_keys() as keys:
        review.run(keys)
    log(f"{count_noun(review.given, 'verdict')} in {database}; `flexiast learn` teaches them")


def _explain_nothing(database: Path, *, reviewed: int, clips: int) -> str:
    if not list_labels(database):
        return f"{database} holds no event yet; run this again when the listener has reported one"
    if not clips:
        return (
            f"no clip of {database} is there: listen with --to sqlite:{database} --to clips:FOLDER, or name the folder "
            "with --clips"
        )
    if reviewed:
        return f"all {count_noun(reviewed, 'event')} that match have a verdict; --again shows them"
    return f"{database} holds no event that matches and has a clip"


class _Review:
    """Walks along events and stores what is said of each."""

    def __init__(self, database: Path, events: list[ReviewedEvent], clips: dict[str, Path]) -> None:
        self._database, self._events, self._clips = database, events, clips
        self._place = 0
        self._judged: list[int] = []
        self._labels = list_known_labels(database)

    @property
    def given(self) -> int:
        """Verdicts that were given and not taken back."""
        return len(self._judged)

    def run(self, keys: Keys) -> None:
        """Until the last event has its verdict, or `q`."""
        shown = -1
        while self._place < len(self._events):
            if shown != self._place:
                self._show()
                shown = self._place
            key = keys.read()
            if key is None or key == "q":
                return
            try:
                self._press(key, keys)
            except (ChangedError, LockedError) as error:  # another reviewer, or a busy database: look again
                log(str(error))
                self._refresh()
                shown = -1
            except FlexiastError as error:
                log(str(error))

    def _press(self, key: str, keys: Keys) -> None:
        event = self._events[self._place]
        if key in VERDICTS:
            label = self._ask_label(keys) if VERDICTS[key] is Verdict.OTHER else None
            self._judge(event, VERDICTS[key], label)
        elif key in {"left", "right"}:
            self._place = min(max(0, self._place + (1 if key == "right" else -1)), len(self._events) - 1)
        elif key == "u":
            self._withdraw()
        elif key == " ":
            self._play(event)
        else:
            log(HELP)

    def _judge(self, event: ReviewedEvent, verdict: Verdict, label: str | None) -> None:
        given = give_verdict(
            self._database,
            event.event["id"],
            verdict,
            label,
            reviewer=name_user(),
            instead_of=event.judgement,
        )
        self._events[self._place] = replace(event, judgement=given)
        self._forget(self._place)
        self._judged.append(self._place)
        self._place += 1

    def _withdraw(self) -> None:
        """The verdict of the event that is shown; where it has none, the last one that was given here."""
        if self._events[self._place].judgement is None:
            if not self._judged:
                log("there is no verdict to take back")
                return
            self._place = self._judged[-1]
        event = self._events[self._place]
        withdraw_verdict(self._database, event.event["id"], instead_of=event.judgement)
        log(f"{printable(event.event['label'])} has no verdict any more; it was {printable(str(event.judgement))}")
        self._refresh()

    def _forget(self, place: int) -> None:
        if place in self._judged:
            self._judged.remove(place)

    def _ask_label(self, keys: Keys) -> str:
        """A label that some model here knows, or a new one that is typed twice; raises UsageError."""
        log("what was it?")
        label = keys.read_line()
        if not label:
            raise UsageError("no label was given; the verdict is as it was")
        return confirm_label(label, self._labels, keys.read_line)

    def _play(self, event: ReviewedEvent) -> None:
        if (path := self._find_clip(event)) is not None and (fault := play(path)) is not None:
            log(fault)

    def _find_clip(self, event: ReviewedEvent) -> Path | None:
        """None, with a note, for a clip that has been removed since."""
        path = self._clips.get(event.event["id"])
        if path is None or not path.is_file():
            log("the clip is gone: retention has removed it; a verdict can still be given")
            return None
        return path

    def _show(self) -> None:
        event = self._events[self._place]
        neighbours = read_neighbours(self._database, event.event)
        place = f"{self._place + 1} of {len(self._events)}"
        stdout().print(draw_card(event, place, neighbours, self._find_clip(event)))

    def _refresh(self) -> None:
        """Read again what was said of the event."""
        event = self._events[self._place]
        judgement = read_verdicts(self._database).get(event.event["id"])
        if judgement is None:
            self._forget(self._place)
        self._events[self._place] = replace(event, judgement=judgement)
