"""Which verdicts a model can learn from, and which of them are held out to measure by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexiast.arrays import Float
from flexiast.data.audio import read_audio
from flexiast.errors import DataError
from flexiast.spec import Spec
from flexiast.text import preview
from flexiast.training.judged_sounds import FEWEST_SOUNDS
from flexiast_cli.terminal.console import count_noun
from flexiast_runtime.history.corrections import Correction, Corrections, read_corrections
from flexiast_runtime.history.verdicts import read_bundles

FEWEST = 20
"""Verdicts: a fifth of fewer shows nothing."""
FEWEST_LABELLED = 5
"""Of them that name a sound, where no original data does: else silence would be the best answer."""
HELD_OUT_SHARE = 0.2
MOMENT_S = 30.0
"""Verdicts of one source and moment teach together or measure together."""
OCCURRENCE_S = 5.0
"""Verdicts of one source that lie nearer may be of one sound: it teaches or it measures, never both."""
AROUND_S = 1.0
"""Before and after an event, heard with it; the sink `clips` cuts as much."""


@dataclass(frozen=True)
class Lesson:
    """A verdict or mark with its sound."""

    correction: Correction
    """Its label is one of the model's, or None for nothing"""
    waveform: Float
    """[samples] at the model's rate, with what sounded around it"""
    sound: slice
    """Where the sound itself lies in that"""

    @property
    def label(self) -> str | None:
        return self.correction.label


@dataclass(frozen=True)
class Lessons:
    """What teaches, what is held out, and what was left out, in words."""

    taught: tuple[Lesson, ...]
    held_out: tuple[Lesson, ...]
    notes: tuple[str, ...]


def read_lessons(database: Path, folders: Iterable[Path] | None, spec: Spec, model: str, *, with_data: bool) -> Lessons:
    """The verdicts and marks of a database that a model can learn from; raises DataError where they are too few.

    A label that the model lacks teaches that none of its own sounded. What another model's label was said of is left
    out.
    """
    corrections = read_corrections(database, folders)
    notes = _describe_missing(corrections)
    known = [one for one in corrections.found if one.detected is None or one.detected in spec.labels]
    if not known:
        raise DataError(_explain_nothing(database, corrections, model))
    if foreign := sorted({one.detected or "" for one in corrections.found} - {one.detected or "" for one in known}):
        left_out = count_noun(len(corrections.found) - len(known), "verdict is", "verdicts are")
        what = "is no label" if len(foreign) == 1 else "are no labels"
        notes.append(f"{left_out} left out: {preview(foreign)} {what} of {model}, but of another model")
    unknown = [one for one in known if one.label is not None and one.label not in spec.labels]
    if unknown:
        names = preview(sorted({one.label or "" for one in unknown}))
        which = count_noun(len(unknown), "verdict names", "verdicts name")
        notes.append(
            f"{which} {names}, which {model} does not know: they teach that none of its labels sounded. "
            "`flexiast train` adds a label"
        )
    known = [one if one.label in spec.labels else replace(one, label=None) for one in known]
    lessons = list(_read_sounds(_drop_contradictions(known, notes), spec.frontend.sample_rate_hz, notes))
    _check_enough(lessons, database, notes, with_data=with_data)
    taught, held_out = hold_out(lessons)
    if not taught or not held_out:
        raise DataError(
            f"all {len(lessons)} verdicts of {database} are of one half minute, so that none can be held out; review "
            "events of other moments"
        )
    if near := len(lessons) - len(taught) - len(held_out):
        what = count_noun(near, "verdict teaches nothing: it is", "verdicts teach nothing: they are")
        notes.append(f"{what} within {OCCURRENCE_S:g} s of one that is held out")
    misheard = Counter(one.label for one in taught if one.label is not None and one.correction.detected != one.label)
    if rare := sorted(label for label, count in misheard.items() if count < FEWEST_SOUNDS):
        notes.append(
            f"{preview(rare)}: misheard once among the verdicts that teach. The model changes for a label from "
            f"{FEWEST_SOUNDS} such verdicts on"
        )
    return Lessons(tuple(taught), tuple(held_out), tuple(notes))


def hold_out(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Those that teach, and about a fifth that measures, in which labels sound and in which none does.

    Time is cut into moments, and a hash of source and moment decides: what taught today does not measure tomorrow,
    however many verdicts are added, and of a sound that goes on for minutes some parts teach. What is near a sound that
    measures, and so may be the same one, does neither.
    """
    moments: dict[tuple[str, int], list[Lesson]] = {}
    for one in lessons:
        moments.setdefault((one.correction.source, int(one.correction.began_s // MOMENT_S)), []).append(one)
    ranked = sorted(moments, key=_rank)
    chosen = {moment for moment in ranked if _rank(moment) < HELD_OUT_SHARE}
    for is_labelled in (True, False):
        having = [each for each in ranked if any((one.label is not None) is is_labelled for one in moments[each])]
        if len(having) > 1 and not chosen.intersection(having):
            chosen.add(having[0])
    if len(chosen) == len(ranked):
        chosen.discard(ranked[-1])
    held_out = [one for each in moments if each in chosen for one in moments[each]]
    measuring = [one.correction for one in held_out]
    rest = [one for each in moments if each not in chosen for one in moments[each]]
    return [one for one in rest if not _is_near(one.correction, measuring, OCCURRENCE_S)], held_out


def _rank(moment: tuple[str, int]) -> float:
    """A number from 0 to 1, always the same for a moment."""
    return int.from_bytes(hashlib.sha256(repr(moment).encode()).digest()[:8], "big") / 2**64


def _is_near(one: Correction, others: Iterable[Correction], within_s: float) -> bool:
    """Whether another of the same source sounds at the same time, or within so many seconds."""
    return any(
        each.source == one.source and each.began_s - within_s < one.ended_s and one.began_s < each.ended_s + within_s
        for each in others
    )


def _describe_missing(corrections: Corrections) -> list[str]:
    if not corrections.missing:
        return []
    gone = count_noun(len(corrections.missing), "verdict is", "verdicts are")
    return [f"{gone} left out: the clip is gone or damaged; --to 'clips:FOLDER#keep-reviewed=365d' keeps them longer"]


def _explain_nothing(database: Path, corrections: Corrections, model: str) -> str:
    if corrections.found:
        names = preview(sorted({bundle.model for bundle in read_bundles(database).values()})) or "another model"
        said = preview(sorted({one.detected or "" for one in corrections.found}))
        return (
            f"{database} holds events of {names}: {said}. {model} knows none of these labels; give that model by --from"
        )
    if corrections.missing:
        return (
            f"the clips of all {count_noun(len(corrections.missing), 'reviewed event')} in {database} are gone; name "
            "their folder with --clips, and keep them longer with --to 'clips:FOLDER#keep=30d&keep-reviewed=365d'"
        )
    return f"{database} holds no verdict yet; give {FEWEST} or more with `flexiast review`"


def _drop_contradictions(found: Sequence[Correction], notes: list[str]) -> list[Correction]:
    """Without what was called wrong while another event of the same moment says what it was."""
    labelled = [one for one in found if one.label is not None]
    consistent = [one for one in found if one.label is not None or not _is_near(one, labelled, 0.0)]
    if dropped := len(found) - len(consistent):
        notes.append(
            f"{count_noun(dropped, 'verdict is', 'verdicts are')} left out: wrong at a moment of which another verdict "
            "says what sounded"
        )
    return consistent


def _read_sounds(found: Sequence[Correction], rate_hz: int, notes: list[str]) -> Iterator[Lesson]:
    """What sounded around a false event is nothing either, unless a label is known to have sounded there."""
    damaged = 0
    labelled = [one for one in found if one.label is not None]
    for one in found:
        alone = one.label is None and _is_near(one, labelled, AROUND_S)
        around_s = 0.0 if alone else AROUND_S
        try:
            waveform = read_audio(one.path, rate_hz)
        except DataError:
            damaged += 1
            continue
        first, last = (round(edge_s * rate_hz) for edge_s in one.span)
        begin = max(0, first - round(around_s * rate_hz))
        around = waveform[begin : last + round(around_s * rate_hz)]
        yield Lesson(one, around, slice(first - begin, min(last - begin, len(around))))
    if damaged:
        notes.append(f"{count_noun(damaged, 'verdict is', 'verdicts are')} left out: the clip is damaged")


def _check_enough(lessons: Sequence[Lesson], database: Path, notes: Sequence[str], *, with_data: bool) -> None:
    why = "".join(f"\n{note}" for note in notes)
    if len(lessons) < FEWEST:
        raise DataError(
            f"{count_noun(len(lessons), 'verdict')} of {database} can teach, and it takes {FEWEST} to see whether a "
            f"model has become better; review {FEWEST - len(lessons)} more{why}"
        )
    labelled = sum(one.label is not None for one in lessons)
    if labelled < FEWEST_LABELLED and not with_data:
        raise DataError(
            f"{count_noun(len(lessons) - labelled, 'verdict says', 'verdicts say')} that no label sounded, {labelled} "
            "that one did: from these alone a model would learn to be silent. Give what it was trained on by --data, "
            f"or review events that were right, until there are {FEWEST_LABELLED}{why}"
        )
